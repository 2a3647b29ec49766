//! The settings of generation: the content of `generation_config.json`.
//!
//! The keys are Hugging Face's (`temperature`, `top_p`, `top_k`, `repetition_penalty`, `do_sample`,
//! `guidance_scale`, `max_new_tokens`, `eos_token_id`, `stop_strings`); `image`, `modality`, `seed`, `candidates`
//! and `image_guidance_scale` are this project's. Unknown keys are ignored. Defaults are the
//! original release's: without `do_sample` ids are sampled, where Hugging Face would be greedy.

use serde::{Deserialize, Serialize};

use super::guidance::Guidance;
use super::modality::GenerationMode;
use super::sampling_config::{SamplingConfig, SamplingKeys};
use super::stop;
use crate::error::{Error, Result};

/// Default maximum number of ids in a caption or an answer: one that does not end would delay its
/// batch and need memory for the whole context.
pub const LONGEST_ANSWER: usize = 256;

/// All settings of generation.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(try_from = "Keys", into = "Keys")]
pub struct GenerationConfig {
    /// Sampling of text ids.
    pub text: SamplingConfig,
    /// Sampling of image ids.
    pub image: SamplingConfig,
    /// Strength of classifier-free guidance in image blocks; 1 is off, 0 ignores the prompt.
    pub guidance_scale: f32,
    /// Strength of a third branch with the prompt's images only (in the original release 1.2, with a
    /// `guidance_scale` of 3); `None` is two-way guidance.
    pub image_guidance_scale: Option<f32>,
    /// Images drawn per text, 1 to 64; the one is kept for which the model gives the text the
    /// highest probability as a caption.
    pub candidates: usize,
    /// Seed of the first request; request `i` of a batch uses `seed + i`.
    pub seed: u64,
    /// Maximum number of ids to add to a prompt, image blocks included; `None` for as many as the
    /// context holds. An image that the prompt or [`GenerationMode::ImageOnly`] asks for is always
    /// completed.
    pub max_new_tokens: Option<usize>,
    /// What may be generated.
    pub mode: GenerationMode,
    /// Ids that end a request, in addition to the vocabulary's end-of-text.
    pub stop_ids: Vec<u32>,
    /// Texts that end a request, at most 16; the text ends before the one that occurs, unlike in
    /// Hugging Face's library, which keeps it. The [`Pipeline`](crate::pipeline::Pipeline) looks for
    /// them: they become [`StopStrings`](super::StopStrings) of its requests.
    pub stop_strings: Vec<String>,
}

impl Default for GenerationConfig {
    fn default() -> Self {
        Self {
            text: SamplingConfig::TEXT,
            image: SamplingConfig::IMAGE,
            guidance_scale: 1.0,
            image_guidance_scale: None,
            candidates: 1,
            seed: 0,
            max_new_tokens: None,
            mode: GenerationMode::Auto,
            stop_ids: Vec::new(),
            stop_strings: Vec::new(),
        }
    }
}

impl GenerationConfig {
    /// Reads the text of a `generation_config.json`.
    ///
    /// # Errors
    /// If it is no JSON object, or a value has the wrong type or is out of range.
    ///
    /// ```
    /// use calumma::generate::GenerationConfig;
    /// let config = GenerationConfig::from_json(r#"{"top_k": 50, "image": {"top_p": 1.0}}"#)?;
    /// assert_eq!(config.text.top_k, Some(50));
    /// assert_eq!((config.text.top_p, config.image.top_p), (0.9, 1.0));
    /// # Ok::<(), calumma::Error>(())
    /// ```
    pub fn from_json(json: &str) -> Result<Self> {
        serde_json::from_str(json).map_err(Error::because("generation settings"))
    }

    /// These settings with some keys of a `generation_config.json` changed; those of `image` one by
    /// one.
    ///
    /// # Errors
    /// [`Error::Invalid`] for an unknown key or a value of the wrong type.
    ///
    /// ```
    /// use calumma::generate::GenerationConfig;
    /// let keys = serde_json::json!({ "guidance_scale": 3.0, "image": { "top_k": 5 } });
    /// let config = GenerationConfig::default().changed(keys.as_object().unwrap())?;
    /// assert_eq!((config.guidance_scale, config.image.top_k, config.image.top_p), (3.0, Some(5), 0.9));
    /// # Ok::<(), calumma::Error>(())
    /// ```
    pub fn changed(&self, keys: &serde_json::Map<String, serde_json::Value>) -> Result<Self> {
        let invalid = || Error::because("generation");
        let mut value = serde_json::to_value(self).map_err(invalid())?;
        for (key, new) in keys {
            match (&mut value[key], new) {
                (serde_json::Value::Object(old), serde_json::Value::Object(new)) => {
                    old.extend(new.clone());
                }
                (old, new) => *old = new.clone(),
            }
        }
        let config: Self = serde_json::from_value(value).map_err(invalid())?;
        let known = serde_json::to_value(&config).map_err(invalid())?;
        match keys.iter().find(|(key, new)| known.get(key).is_none() && !new.is_null()) {
            Some((key, _)) => Err(Error::invalid(format!("generation.{key} is no known key"))),
            None => Ok(config),
        }
    }

    /// Checks every value against its range.
    ///
    /// # Errors
    /// Names the first value that is out of its range.
    pub fn validate(&self) -> Result<()> {
        self.text.validate("")?;
        self.image.validate("image.")?;
        let scales = [
            ("guidance_scale", Some(self.guidance_scale)),
            ("image_guidance_scale", self.image_guidance_scale),
        ];
        for (name, scale) in scales {
            if let Some(scale) = scale
                && !(scale.is_finite() && scale >= 0.0)
            {
                return Err(Error::invalid(format!("{name} is {scale}; allowed: 0 or more")));
            }
        }
        if !(1..=64).contains(&self.candidates) {
            let candidates = self.candidates;
            return Err(Error::invalid(format!("candidates is {candidates}; allowed: 1 to 64")));
        }
        if self.max_new_tokens == Some(0) {
            return Err(Error::invalid("max_new_tokens is 0; allowed: 1 or more"));
        }
        stop::check(&self.stop_strings).map_err(Error::because("stop_strings"))
    }

    /// The guidance of image blocks by the two scales.
    pub fn guidance(&self) -> Guidance {
        Guidance::new(self.guidance_scale, self.image_guidance_scale)
    }

    /// These settings for short answers that should be right rather than varied: the most likely
    /// text ids, no penalty for repeating words of the question and, without `max_new_tokens`, at
    /// most [`LONGEST_ANSWER`] ids.
    #[must_use]
    pub fn for_answers(mut self) -> Self {
        self.text.greedy = true;
        self.text.repetition_penalty = 1.0;
        self.max_new_tokens.get_or_insert(LONGEST_ANSWER);
        self
    }

    /// These settings with the most likely id chosen everywhere.
    #[must_use]
    pub fn greedy(mut self) -> Self {
        self.text.greedy = true;
        self.image.greedy = true;
        self
    }
}

/// One id or several, as Hugging Face writes `eos_token_id`.
#[derive(Serialize, Deserialize)]
#[serde(
    untagged,
    expecting = "eos_token_id is neither an id, a number from 0 up, nor a list of ids"
)]
enum OneOrMany {
    One(u32),
    Many(Vec<u32>),
}

/// One text or several, as Hugging Face writes `stop_strings`.
#[derive(Serialize, Deserialize)]
#[serde(untagged, expecting = "stop_strings is neither a text nor a list of texts")]
enum Texts {
    One(String),
    Many(Vec<String>),
}

/// The keys of [`GenerationConfig`] in a file.
#[derive(Default, Serialize, Deserialize)]
#[serde(default)]
struct Keys {
    #[serde(flatten)]
    text: SamplingKeys,
    image: SamplingKeys,
    #[serde(skip_serializing_if = "Option::is_none")]
    guidance_scale: Option<f32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    image_guidance_scale: Option<f32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    candidates: Option<usize>,
    #[serde(skip_serializing_if = "Option::is_none")]
    seed: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    max_new_tokens: Option<usize>,
    modality: GenerationMode,
    #[serde(skip_serializing_if = "Option::is_none")]
    eos_token_id: Option<OneOrMany>,
    #[serde(skip_serializing_if = "Option::is_none")]
    stop_strings: Option<Texts>,
}

impl TryFrom<Keys> for GenerationConfig {
    type Error = Error;

    fn try_from(keys: Keys) -> Result<Self> {
        let config = Self {
            text: keys.text.over(SamplingConfig::TEXT),
            image: keys.image.over(SamplingConfig::IMAGE),
            guidance_scale: keys.guidance_scale.unwrap_or(1.0),
            image_guidance_scale: keys.image_guidance_scale,
            candidates: keys.candidates.unwrap_or(1),
            seed: keys.seed.unwrap_or(0),
            max_new_tokens: keys.max_new_tokens,
            mode: keys.modality,
            stop_ids: match keys.eos_token_id {
                None => Vec::new(),
                Some(OneOrMany::One(id)) => vec![id],
                Some(OneOrMany::Many(ids)) => ids,
            },
            stop_strings: match keys.stop_strings {
                None => Vec::new(),
                Some(Texts::One(text)) => vec![text],
                Some(Texts::Many(texts)) => texts,
            },
        };
        config.validate()?;
        Ok(config)
    }
}

impl From<GenerationConfig> for Keys {
    fn from(config: GenerationConfig) -> Self {
        let (stop_ids, stop_strings) = (config.stop_ids, config.stop_strings);
        Self {
            text: config.text.into(),
            image: config.image.into(),
            guidance_scale: Some(config.guidance_scale),
            image_guidance_scale: config.image_guidance_scale,
            candidates: (config.candidates > 1).then_some(config.candidates),
            seed: Some(config.seed),
            max_new_tokens: config.max_new_tokens,
            modality: config.mode,
            eos_token_id: (!stop_ids.is_empty()).then_some(OneOrMany::Many(stop_ids)),
            stop_strings: (!stop_strings.is_empty()).then_some(Texts::Many(stop_strings)),
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;

    #[test]
    fn a_hugging_face_file_is_read_and_unknown_keys_are_ignored() {
        let config = GenerationConfig::from_json(
            r#"{"_from_model_config": true, "bos_token_id": 0, "eos_token_id": 2,
                "pad_token_id": 1, "do_sample": false, "top_k": 0, "max_new_tokens": 7,
                "transformers_version": "5.23.0", "prompts": {"draw": "{text}"}}"#,
        )
        .unwrap();
        assert!(config.text.greedy && !config.image.greedy);
        assert_eq!(config.text.top_k, None);
        assert_eq!(config.max_new_tokens, Some(7));
        assert_eq!(config.stop_ids, [2]);
        assert_eq!(GenerationConfig::from_json("{}").unwrap(), GenerationConfig::default());
        let stop = |json: &str| GenerationConfig::from_json(json).unwrap().stop_strings;
        assert_eq!(stop(r#"{"stop_strings": "END"}"#), ["END"]);
        assert_eq!(stop(r#"{"stop_strings": ["a", "b"]}"#), ["a", "b"]);
        assert!(stop(r#"{"stop_strings": null}"#).is_empty());
    }

    #[test]
    fn writing_and_reading_keeps_every_value() {
        let config = GenerationConfig {
            text: SamplingConfig { top_k: Some(10), ..SamplingConfig::TEXT },
            image: SamplingConfig { greedy: true, temperature: 1.5, ..SamplingConfig::IMAGE },
            guidance_scale: 3.0,
            image_guidance_scale: Some(1.2),
            candidates: 3,
            seed: 42,
            max_new_tokens: Some(9),
            mode: GenerationMode::ImageOnly,
            stop_ids: vec![2, 8710],
            stop_strings: vec!["\n\n".to_owned(), "</answer>".to_owned()],
        };
        let json = serde_json::to_string(&config).unwrap();
        assert_eq!(GenerationConfig::from_json(&json).unwrap(), config);
    }

    #[test]
    fn values_out_of_range_are_named_with_what_is_allowed() {
        for (json, told) in [
            (
                r#"{"temperature": 0}"#,
                "temperature is 0; allowed: 0.0001 or more; for the most likely",
            ),
            (r#"{"image": {"top_p": 1.5}}"#, "image.top_p is 1.5; allowed: above 0, at most 1"),
            (r#"{"repetition_penalty": -1}"#, "repetition_penalty is -1; allowed: above 0"),
            (r#"{"guidance_scale": -3}"#, "guidance_scale is -3; allowed: 0 or more"),
            (
                r#"{"eos_token_id": "x"}"#,
                "eos_token_id is neither an id, a number from 0 up, nor a",
            ),
            (r#"{"eos_token_id": -1}"#, "eos_token_id is neither an id"),
            (r#"{"stop_strings": 3}"#, "stop_strings is neither a text nor a list of texts"),
            (r#"{"stop_strings": ["a", ""]}"#, "stop_strings: a stop string has 0 bytes; allowed"),
            (r#"{"candidates": 0}"#, "candidates is 0; allowed: 1 to 64"),
            (r#"{"max_new_tokens": 0}"#, "max_new_tokens is 0; allowed: 1 or more"),
            (r#"{"modality": "sound"}"#, "unknown variant `sound`"),
        ] {
            let error = GenerationConfig::from_json(json).unwrap_err().to_string();
            assert!(error.contains(told), "{json}: {error}");
        }
        let top_k = SamplingConfig { top_k: Some(0), ..SamplingConfig::IMAGE };
        let config = GenerationConfig { image: top_k, ..GenerationConfig::default() };
        assert!(config.validate().unwrap_err().to_string().starts_with("image.top_k is 0"));
    }
}
