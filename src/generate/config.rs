//! The settings of generation: the content of `generation_config.json`.
//!
//! The keys are Hugging Face's (`temperature`, `top_p`, `top_k`, `repetition_penalty`, `do_sample`,
//! `min_p`, `guidance_scale`, `max_new_tokens`, `eos_token_id`, `stop_strings`); `image`, `modality`, `seed`,
//! `candidates`, `image_guidance_scale`, `guidance_interval`, `guidance_ramp`, `negative_prompt`,
//! `aspect` and `guess_slack` are this project's. Unknown keys are
//! ignored. Defaults are the original release's: without `do_sample` ids are sampled, where Hugging Face
//! would be greedy.

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use super::guidance::{Guidance, GuidanceRamp, GuidanceSchedule};
use super::modality::GenerationMode;
use super::sampling_config::{SamplingConfig, SamplingKeys};
use super::stop;
use crate::error::{Error, Result};

/// Default maximum number of ids in a caption or an answer: one that does not end would delay its
/// batch and need memory for the whole context.
pub const LONGEST_ANSWER: usize = 256;

/// Largest number in an aspect ratio.
const MAX_ASPECT: usize = 1 << 16;

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
    /// The codes of an image that are guided, as shares of all its codes in raster order: from the first one on
    /// to before the second one, `0 <= from < to <= 1`. Outside guidance is off, and costs nothing from the second
    /// one on.
    pub guidance_interval: [f32; 2],
    /// How the scales grow over the codes of an image.
    pub guidance_ramp: GuidanceRamp,
    /// What images are guided away from: the prompt of the branch of guidance that otherwise has none, in the
    /// checkpoint's words for it. Empty for none. The [`Pipeline`](crate::pipeline::Pipeline) makes it the
    /// [`negative`](super::Request::negative) ids of its requests.
    pub negative_prompt: String,
    /// Width to height of images, if the checkpoint's may have any size; `None` for what the checkpoint does.
    pub aspect: Option<[usize; 2]>,
    /// Keeps a guess of a code that the draw ranks lower by at most this much, in nats: 0 is exact, and above 0
    /// images take fewer passes but depend on what is guessed, and so on the window and on what runs beside them.
    pub guess_slack: f32,
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
            guidance_interval: [0.0, 1.0],
            guidance_ramp: GuidanceRamp::Constant,
            negative_prompt: String::new(),
            aspect: None,
            guess_slack: 0.0,
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
    pub fn changed(&self, keys: &Map<String, Value>) -> Result<Self> {
        let known = Self::known_keys();
        for (key, new) in keys {
            let unknown = match (&known[key], new) {
                (Value::Null, _) => Some(key.clone()),
                (Value::Object(known), Value::Object(new)) => {
                    let inner = new.keys().find(|inner| !known.contains_key(*inner));
                    inner.map(|inner| format!("{key}.{inner}"))
                }
                _ => None,
            };
            if let Some(key) = unknown {
                return Err(Error::invalid(format!("generation.{key} is no known key")));
            }
        }
        let mut value = serde_json::to_value(self).map_err(Error::because("generation"))?;
        for (key, new) in keys {
            match (&mut value[key], new) {
                (Value::Object(old), Value::Object(new)) => old.extend(new.clone()),
                (old, new) => *old = new.clone(),
            }
        }
        serde_json::from_value(value).map_err(Error::because("generation"))
    }

    /// These settings with what a `generation_config.json` says; its unknown keys and nulls say nothing.
    ///
    /// # Errors
    /// If a value has the wrong type or is out of range.
    pub fn changed_by_file(&self, file: &Map<String, Value>) -> Result<Self> {
        let known = Self::known_keys();
        let says =
            |known: &Value, key: &String, value: &Value| !known[key].is_null() && !value.is_null();
        let mut keys = file.clone();
        keys.retain(|key, value| {
            if let (known @ Value::Object(_), Value::Object(inner)) = (&known[key], &mut *value) {
                inner.retain(|key, value| says(known, key, value));
            }
            says(&known, key, value)
        });
        self.changed(&keys)
    }

    /// An object with every key that settings can have.
    fn known_keys() -> Value {
        serde_json::to_value(Self::with_all_keys()).expect("settings are valid JSON")
    }

    /// Settings that have every key in their file.
    fn with_all_keys() -> Self {
        let sampling = SamplingConfig { top_k: Some(1), min_p: 1.0, ..SamplingConfig::TEXT };
        Self {
            text: sampling,
            image: sampling,
            guidance_scale: 1.0,
            image_guidance_scale: Some(1.0),
            guidance_interval: [0.0, 0.5],
            guidance_ramp: GuidanceRamp::Linear,
            negative_prompt: "a".to_owned(),
            aspect: Some([1, 1]),
            guess_slack: 1.0,
            candidates: 2,
            seed: 0,
            max_new_tokens: Some(1),
            mode: GenerationMode::Auto,
            stop_ids: vec![0],
            stop_strings: vec!["a".to_owned()],
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
            ("guess_slack", Some(self.guess_slack)),
        ];
        for (name, scale) in scales {
            if let Some(scale) = scale
                && !(scale.is_finite() && scale >= 0.0)
            {
                return Err(Error::invalid(format!("{name} is {scale}; allowed: 0 or more")));
            }
        }
        let [from, to] = self.guidance_interval;
        if !(0.0 <= from && from < to && to <= 1.0) {
            return Err(Error::invalid(format!(
                "guidance_interval is [{from}, {to}]; allowed: [from, to] with 0 <= from < to <= 1"
            )));
        }
        if let GuidanceRamp::Cosine { power } = self.guidance_ramp
            && !(power.is_finite() && power > 0.0)
        {
            return Err(Error::invalid(format!(
                "guidance_ramp is cosine:{power}; allowed: a power above 0"
            )));
        }
        if let Some([width, height]) = self.aspect
            && !([width, height].iter().all(|side| (1..=MAX_ASPECT).contains(side)))
        {
            return Err(Error::invalid(format!(
                "aspect is [{width}, {height}]; allowed: two numbers from 1 to {MAX_ASPECT}"
            )));
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

    /// The guidance of each code of an image.
    pub fn guidance(&self) -> GuidanceSchedule {
        GuidanceSchedule {
            full: Guidance::new(self.guidance_scale, self.image_guidance_scale),
            interval: self.guidance_interval,
            ramp: self.guidance_ramp,
        }
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
    guidance_interval: Option<[f32; 2]>,
    #[serde(skip_serializing_if = "Option::is_none")]
    guidance_ramp: Option<GuidanceRamp>,
    #[serde(skip_serializing_if = "Option::is_none")]
    negative_prompt: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    aspect: Option<[usize; 2]>,
    #[serde(skip_serializing_if = "Option::is_none")]
    guess_slack: Option<f32>,
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
        let default = Self::default();
        let config = Self {
            text: keys.text.over(SamplingConfig::TEXT),
            image: keys.image.over(SamplingConfig::IMAGE),
            guidance_scale: keys.guidance_scale.unwrap_or(1.0),
            image_guidance_scale: keys.image_guidance_scale,
            guidance_interval: keys.guidance_interval.unwrap_or(default.guidance_interval),
            guidance_ramp: keys.guidance_ramp.unwrap_or_default(),
            negative_prompt: keys.negative_prompt.unwrap_or_default(),
            aspect: keys.aspect,
            guess_slack: keys.guess_slack.unwrap_or_default(),
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
            guidance_interval: Some(config.guidance_interval).filter(|i| *i != [0.0, 1.0]),
            guidance_ramp: Some(config.guidance_ramp).filter(|r| *r != GuidanceRamp::Constant),
            negative_prompt: Some(config.negative_prompt).filter(|text| !text.is_empty()),
            aspect: config.aspect,
            guess_slack: (config.guess_slack > 0.0).then_some(config.guess_slack),
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
mod tests;
