//! Correction for a sampler whose probabilities differ from those of training: by numerics, by an older
//! policy, or by guidance.
//!
//! Each token's loss is multiplied by the ratio of old policy to sampler, a constant, within bounds.
//! Source: TRL 1.16 (`vllm_importance_sampling_*`).

use serde::{Deserialize, Serialize};

use crate::error::{Error, Result};

/// Over what the ratio is taken, and what happens to one out of bounds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum CorrectionMode {
    /// Of a token, moved to the bound.
    TokenTruncate,
    /// Of a token, set to 0.
    TokenMask,
    /// Of the whole completion, moved to the bound.
    SequenceTruncate,
    /// Of the whole completion, set to 0.
    #[default]
    SequenceMask,
}

impl CorrectionMode {
    /// Whether the ratio is one for the whole completion.
    pub fn is_of_sequences(self) -> bool {
        matches!(self, Self::SequenceTruncate | Self::SequenceMask)
    }
}

/// The correction.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct SamplerCorrection {
    /// Over what, and how out of bounds.
    pub mode: CorrectionMode,
    /// Least ratio; unset: no bound.
    pub clip_min: Option<f64>,
    /// Greatest ratio; unset: no bound.
    pub clip_max: Option<f64>,
}

impl Default for SamplerCorrection {
    fn default() -> Self {
        Self { mode: CorrectionMode::SequenceMask, clip_min: None, clip_max: Some(3.0) }
    }
}

impl SamplerCorrection {
    /// Checks the bounds.
    ///
    /// # Errors
    /// [`Error::Invalid`] with both values.
    pub fn validate(&self) -> Result<()> {
        let (min, max) = self.bounds();
        if min < max && min >= 0.0 && (self.clip_min, self.clip_max) != (None, None) {
            return Ok(());
        }
        let (min, max) = (self.clip_min, self.clip_max);
        Err(Error::invalid(format!(
            "policy.sampler_correction has clip_min {min:?} and clip_max {max:?}; allowed: one of them \
             or both, at least 0 and clip_min below clip_max"
        )))
    }

    fn bounds(&self) -> (f64, f64) {
        (self.clip_min.unwrap_or(0.0), self.clip_max.unwrap_or(f64::INFINITY))
    }

    /// The ratios of one completion from the differences of its tokens' log-probabilities: one for each
    /// token, or one alone.
    pub(super) fn ratios(&self, differences: &[f64]) -> Vec<f64> {
        let (min, max) = self.bounds();
        let bounded = |log_ratio: f64| {
            let ratio = log_ratio.exp();
            match self.mode {
                CorrectionMode::TokenTruncate | CorrectionMode::SequenceTruncate => {
                    ratio.clamp(min, max)
                }
                _ if (min..=max).contains(&ratio) => ratio,
                _ => 0.0,
            }
        };
        if self.mode.is_of_sequences() {
            vec![bounded(differences.iter().sum())]
        } else {
            differences.iter().copied().map(bounded).collect()
        }
    }
}
