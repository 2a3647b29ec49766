//! The configuration of quantizers.

use serde::{Deserialize, Serialize};

use super::estimator::Estimator;
use crate::error::{Error, Result};

/// The kind of quantizer: the key `quantizer` of a configuration; Chameleon's where it is absent.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "kebab-case", deny_unknown_fields)]
pub enum QuantizerConfig {
    /// [`VectorQuantizer`](super::VectorQuantizer).
    Vq {
        /// How the gradient passes the quantization.
        #[serde(default)]
        gradient: Estimator,
    },
    /// [`EmaQuantizer`](super::EmaQuantizer).
    Ema {
        /// Decay of the moving averages, in (0, 1).
        #[serde(default = "default_decay")]
        decay: f64,
        /// How the gradient passes the quantization.
        #[serde(default)]
        gradient: Estimator,
    },
    /// [`L2Quantizer`](super::L2Quantizer).
    L2 {
        /// How the gradient passes the quantization.
        #[serde(default)]
        gradient: Estimator,
    },
    /// [`SimVq`](super::SimVq).
    Simvq {
        /// How the gradient passes the quantization.
        #[serde(default)]
        gradient: Estimator,
    },
    /// [`Ibq`](super::Ibq).
    Ibq,
    /// [`Fsq`](super::Fsq).
    Fsq {
        /// Levels of each of the `embed_dim` channels, at least 3; their product is `num_embeddings`.
        levels: Vec<usize>,
    },
    /// [`Lfq`](super::Lfq); `num_embeddings` is 2 to the power of `embed_dim`.
    Lfq,
}

/// Maximum number of codes of [`Fsq`](super::Fsq): they are computed in f32, which is exact for
/// integers up to here.
const MAX_FSQ_CODES: usize = 1 << 24;

fn default_decay() -> f64 {
    0.99
}

impl Default for QuantizerConfig {
    fn default() -> Self {
        Self::Vq { gradient: Estimator::default() }
    }
}

impl QuantizerConfig {
    /// Whether this is the quantizer of the releases: a plain table with the straight-through gradient.
    pub fn is_default(&self) -> bool {
        *self == Self::default()
    }

    /// Checks the values, and that they allow `num_embeddings` codes of `embed_dim` channels.
    ///
    /// # Errors
    /// [`Error::Invalid`] with the key at fault and what is allowed.
    pub fn validate(&self, num_embeddings: usize, embed_dim: usize) -> Result<()> {
        match self {
            Self::Ema { decay, .. } if !(*decay > 0.0 && *decay < 1.0) => Err(Error::invalid(
                format!("quantizer.decay is {decay}; allowed: above 0, below 1"),
            )),
            Self::Fsq { levels } => check_levels(levels, num_embeddings, embed_dim),
            Self::Lfq if embed_dim > 20 || num_embeddings != 1 << embed_dim => {
                Err(Error::invalid(format!(
                    "num_embeddings is {num_embeddings} and embed_dim {embed_dim}; lfq has a bit for \
                     each channel, at most 20, and so 2 to the power of embed_dim codes"
                )))
            }
            _ => Ok(()),
        }
    }
}

/// Checks the levels of an [`Fsq`](super::Fsq).
fn check_levels(levels: &[usize], num_embeddings: usize, embed_dim: usize) -> Result<()> {
    let invalid = |message: String| Err(Error::invalid(message));
    // With two levels no latent would ever cross the boundary between them.
    if levels.iter().any(|levels| *levels < 3) || levels.len() != embed_dim {
        return invalid(format!(
            "quantizer.levels is {levels:?}; allowed: embed_dim ({embed_dim}) numbers from 3 on"
        ));
    }
    let codes = levels.iter().try_fold(1_usize, |n, levels| n.checked_mul(*levels));
    match codes.filter(|codes| *codes <= MAX_FSQ_CODES) {
        None => {
            invalid(format!("quantizer.levels {levels:?} multiply to more than {MAX_FSQ_CODES}"))
        }
        Some(codes) if codes != num_embeddings => invalid(format!(
            "quantizer.levels {levels:?} multiply to {codes}; num_embeddings is {num_embeddings}"
        )),
        Some(_) => Ok(()),
    }
}
