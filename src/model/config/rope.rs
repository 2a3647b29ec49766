//! Scalings of the rotary frequencies for contexts longer than those of pre-training.

use std::f64::consts::PI;

use serde::{Deserialize, Serialize};

use crate::error::{Error, Result};

/// How the rotary frequencies of a model differ from `theta^(-2 i / head_dim)`; the kinds and keys of Hugging Face's
/// `modeling_rope_utils.py` that depend on the configuration alone.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(tag = "rope_type", rename_all = "lowercase", deny_unknown_fields)]
pub enum RopeScaling {
    /// Not at all.
    #[default]
    Default,
    /// All are divided by a factor.
    Linear {
        /// Above 0.
        factor: f64,
    },
    /// Llama 3.1: long waves are divided by a factor, short ones stay, in between the two are mixed.
    Llama3 {
        /// Above 0.
        factor: f64,
        /// Waves longer than the original context divided by this are long.
        low_freq_factor: f64,
        /// Waves shorter than the original context divided by this are short.
        high_freq_factor: f64,
        /// The context of pre-training in tokens.
        original_max_position_embeddings: usize,
    },
    /// YaRN, arXiv 2309.00071: a ramp over the dimensions, and a factor on cosines and sines.
    Yarn(Yarn),
}

/// The settings of YaRN.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Yarn {
    /// Above 0.
    pub factor: f64,
    /// The context of pre-training in tokens.
    pub original_max_position_embeddings: usize,
    /// Turns within the original context from which a frequency stays.
    #[serde(default = "beta_fast")]
    pub beta_fast: f64,
    /// Turns below which it is divided by the factor.
    #[serde(default = "beta_slow")]
    pub beta_slow: f64,
    /// The factor on cosines and sines; if absent it follows from the others.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub attention_factor: Option<f64>,
    /// Its numerator, if both are given.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mscale: Option<f64>,
    /// Its denominator; with latent attention also a factor on the scores.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mscale_all_dim: Option<f64>,
    /// Whether the ends of the ramp are whole dimensions.
    #[serde(default = "yes", skip_serializing_if = "is_yes")]
    pub truncate: bool,
}

fn beta_fast() -> f64 {
    32.0
}

fn beta_slow() -> f64 {
    1.0
}

fn yes() -> bool {
    true
}

#[allow(clippy::trivially_copy_pass_by_ref, reason = "serde passes a reference")]
fn is_yes(value: &bool) -> bool {
    *value
}

impl RopeScaling {
    /// The angles of one position: a frequency for each pair of a head of `head_dim` numbers.
    pub fn frequencies(&self, head_dim: usize, theta: f64) -> Vec<f64> {
        let plain = |i: usize| theta.powf(-2.0 * i as f64 / head_dim as f64);
        let all = (0..head_dim / 2).map(plain);
        match self {
            Self::Default => all.collect(),
            Self::Linear { factor } => all.map(|f| f / factor).collect(),
            Self::Llama3 {
                factor,
                low_freq_factor: low,
                high_freq_factor: high,
                original_max_position_embeddings: context,
            } => {
                let scaled = |f: f64| {
                    let waves = *context as f64 * f / (2.0 * PI);
                    let kept = ((waves - low) / (high - low)).clamp(0.0, 1.0);
                    f * kept + f / factor * (1.0 - kept)
                };
                all.map(scaled).collect()
            }
            Self::Yarn(yarn) => {
                let [low, high] = yarn.ramp(head_dim, theta);
                let scaled = |(i, f): (usize, f64)| {
                    let ramp = ((i as f64 - low) / (high - low)).clamp(0.0, 1.0);
                    f / yarn.factor * ramp + f * (1.0 - ramp)
                };
                all.enumerate().map(scaled).collect()
            }
        }
    }

    /// The factor on cosines and sines.
    pub fn factor(&self) -> f64 {
        match self {
            Self::Yarn(yarn) => yarn.attention_factor.unwrap_or_else(|| yarn.default_factor()),
            Self::Default | Self::Linear { .. } | Self::Llama3 { .. } => 1.0,
        }
    }

    /// The factor on the scores of latent attention, which has YaRN's correction there as well.
    pub fn score_factor(&self) -> f64 {
        match self {
            Self::Yarn(yarn) => yarn.mscale_all_dim.map_or(1.0, |m| yarn.magnitude(m).powi(2)),
            Self::Default | Self::Linear { .. } | Self::Llama3 { .. } => 1.0,
        }
    }

    /// # Errors
    /// [`Error::Invalid`] that names the key, its value and what is allowed.
    pub(super) fn validate(&self) -> Result<()> {
        let (factor, context) = match self {
            Self::Default => return Ok(()),
            Self::Linear { factor } => (*factor, 1),
            Self::Llama3 { factor, low_freq_factor, high_freq_factor, .. }
                if !(*low_freq_factor > 0.0 && high_freq_factor > low_freq_factor) =>
            {
                return Err(Error::invalid(format!(
                    "low_freq_factor is {low_freq_factor} and high_freq_factor {high_freq_factor} beside factor {factor}; \
                     the first must be above 0 and below the second"
                )));
            }
            Self::Llama3 { factor, original_max_position_embeddings, .. } => {
                (*factor, *original_max_position_embeddings)
            }
            Self::Yarn(Yarn { beta_fast, beta_slow, .. })
                if !(*beta_slow > 0.0 && beta_fast >= beta_slow) =>
            {
                return Err(Error::invalid(format!(
                    "beta_fast is {beta_fast} and beta_slow {beta_slow}; the second must be above 0 and at most the first"
                )));
            }
            Self::Yarn(yarn) => (yarn.factor, yarn.original_max_position_embeddings),
        };
        if !(factor > 0.0 && factor.is_finite()) {
            return Err(Error::invalid(format!(
                "factor of the rotary embedding is {factor}; allowed: above 0"
            )));
        }
        if context == 0 {
            let message = "original_max_position_embeddings is 0; it must be at least 1";
            return Err(Error::invalid(message));
        }
        Ok(())
    }
}

impl Yarn {
    /// The dimensions between which frequencies pass from kept to divided.
    fn ramp(&self, head_dim: usize, theta: f64) -> [f64; 2] {
        let (dims, context) = (head_dim as f64, self.original_max_position_embeddings as f64);
        let of_turns = |turns: f64| dims * (context / (turns * 2.0 * PI)).ln() / (2.0 * theta.ln());
        let [low, high] = [of_turns(self.beta_fast), of_turns(self.beta_slow)];
        let [low, high] = if self.truncate { [low.floor(), high.ceil()] } else { [low, high] };
        let [low, high] = [low.max(0.0), high.min(dims - 1.0)];
        // As the reference: equal ends would divide by 0.
        if low == high { [low, high + 0.001] } else { [low, high] }
    }

    fn magnitude(&self, scale: f64) -> f64 {
        if self.factor <= 1.0 { 1.0 } else { 0.1 * scale * self.factor.ln() + 1.0 }
    }

    fn default_factor(&self) -> f64 {
        match (self.mscale, self.mscale_all_dim) {
            (Some(mscale), Some(all)) if mscale != 0.0 && all != 0.0 => {
                self.magnitude(mscale) / self.magnitude(all)
            }
            _ => self.magnitude(1.0),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn llama3_keeps_short_waves_and_divides_long_ones() {
        let scaling = RopeScaling::Llama3 {
            factor: 8.0,
            low_freq_factor: 1.0,
            high_freq_factor: 4.0,
            original_max_position_embeddings: 64,
        };
        let (plain, found) =
            (RopeScaling::Default.frequencies(12, 5000.0), scaling.frequencies(12, 5000.0));
        assert_eq!(found[0], plain[0]);
        assert!((found[5] - plain[5] / 8.0).abs() < 1e-15);
        assert_eq!(scaling.factor(), 1.0);
    }

    #[test]
    fn yarn_scales_cosines_and_scores() {
        let yarn = |mscale, mscale_all_dim| {
            RopeScaling::Yarn(Yarn {
                factor: 40.0,
                original_max_position_embeddings: 4096,
                beta_fast: 32.0,
                beta_slow: 1.0,
                attention_factor: None,
                mscale,
                mscale_all_dim,
                truncate: true,
            })
        };
        let magnitude = 0.1 * 40f64.ln() + 1.0;
        assert!((yarn(None, None).factor() - magnitude).abs() < 1e-12);
        assert!((yarn(Some(1.0), Some(1.0)).factor() - 1.0).abs() < 1e-12);
        assert!((yarn(Some(1.0), Some(1.0)).score_factor() - magnitude.powi(2)).abs() < 1e-12);
        let (plain, found) = (
            RopeScaling::Default.frequencies(64, 10_000.0),
            yarn(None, None).frequencies(64, 10_000.0),
        );
        assert_eq!(found[0], plain[0]);
        assert!((found[31] - plain[31] / 40.0).abs() < 1e-15);
    }
}
