//! How one id is chosen from logits: settings, and their keys in `generation_config.json`.

use serde::{Deserialize, Serialize};

use crate::error::{Error, Result};

/// How one id is chosen from logits.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct SamplingConfig {
    /// Divides the logits; 0.0001 or more.
    pub temperature: f32,
    /// The least likely ids whose probabilities add up to at most `1 - top_p` are hidden; in (0, 1].
    pub top_p: f32,
    /// All ids but the `top_k` most likely ones are hidden; `None` hides none.
    pub top_k: Option<usize>,
    /// Ids that are less than `min_p` times as likely as the most likely one are hidden; in [0, 1], and 0
    /// hides none.
    pub min_p: f32,
    /// Lowers the logits of ids that the row already has; above 0, and 1 changes nothing.
    pub repetition_penalty: f32,
    /// Chooses the most likely id instead of drawing one.
    pub greedy: bool,
}

impl SamplingConfig {
    /// The original release's settings for text.
    pub const TEXT: Self = Self {
        temperature: 0.7,
        top_p: 0.9,
        top_k: None,
        min_p: 0.0,
        repetition_penalty: 1.2,
        greedy: false,
    };

    /// The original release's settings for images: as for text, without a repetition penalty.
    pub const IMAGE: Self = Self { repetition_penalty: 1.0, ..Self::TEXT };

    /// Checks every value against its range; `prefix` goes before the keys in messages.
    ///
    /// # Errors
    /// Names the first value that is out of range.
    pub(super) fn validate(&self, prefix: &str) -> Result<()> {
        let above_zero = |name: &str, value: f32| {
            if value.is_finite() && value > 0.0 {
                return Ok(());
            }
            Err(Error::invalid(format!("{prefix}{name} is {value}; allowed: above 0")))
        };
        if !(self.temperature >= LOWEST_TEMPERATURE && self.temperature.is_finite()) {
            return Err(Error::invalid(format!(
                "{prefix}temperature is {}; allowed: {LOWEST_TEMPERATURE} or more; for the most \
                 likely ids ask for greedy decoding",
                self.temperature
            )));
        }
        above_zero("repetition_penalty", self.repetition_penalty)?;
        if !(self.top_p > 0.0 && self.top_p <= 1.0) {
            return Err(Error::invalid(format!(
                "{prefix}top_p is {}; allowed: above 0, at most 1",
                self.top_p
            )));
        }
        if !(0.0..=1.0).contains(&self.min_p) {
            let min_p = self.min_p;
            return Err(Error::invalid(format!("{prefix}min_p is {min_p}; allowed: 0 to 1")));
        }
        if self.top_k == Some(0) {
            return Err(Error::invalid(format!("{prefix}top_k is 0; allowed: 1 or more")));
        }
        Ok(())
    }
}

/// Below it, logits divided by the temperature could leave the range of f32.
const LOWEST_TEMPERATURE: f32 = 1e-4;

/// The keys of [`SamplingConfig`] in a file; absent ones keep the defaults.
#[derive(Default, Serialize, Deserialize)]
#[serde(default)]
pub(super) struct SamplingKeys {
    #[serde(skip_serializing_if = "Option::is_none")]
    temperature: Option<f32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    top_p: Option<f32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    top_k: Option<usize>,
    #[serde(skip_serializing_if = "Option::is_none")]
    min_p: Option<f32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    repetition_penalty: Option<f32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    do_sample: Option<bool>,
}

impl SamplingKeys {
    /// The settings `base` with the keys that are given.
    pub(super) fn over(self, base: SamplingConfig) -> SamplingConfig {
        SamplingConfig {
            temperature: self.temperature.unwrap_or(base.temperature),
            top_p: self.top_p.unwrap_or(base.top_p),
            // Hugging Face writes 0 for "all".
            top_k: self.top_k.or(base.top_k).filter(|&k| k > 0),
            min_p: self.min_p.unwrap_or(base.min_p),
            repetition_penalty: self.repetition_penalty.unwrap_or(base.repetition_penalty),
            greedy: self.do_sample.map_or(base.greedy, |sample| !sample),
        }
    }
}

impl From<SamplingConfig> for SamplingKeys {
    fn from(config: SamplingConfig) -> Self {
        Self {
            temperature: Some(config.temperature),
            top_p: Some(config.top_p),
            top_k: config.top_k,
            min_p: (config.min_p > 0.0).then_some(config.min_p),
            repetition_penalty: Some(config.repetition_penalty),
            do_sample: Some(!config.greedy),
        }
    }
}
