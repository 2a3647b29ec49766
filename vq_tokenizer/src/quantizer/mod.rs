//! Latents to codes and back: one file and one variant of [`Quantizer`] for each way.

mod ema;
mod estimator;
mod fsq;
mod ibq;
mod l2;
mod lfq;
mod simvq;
mod table;
mod vq;

use burn::module::Module;
use burn::tensor::{Device, Int, Tensor};
use serde::{Deserialize, Serialize};

use crate::error::{Error, Result};

pub use self::ema::{EmaQuantizer, EmaState};
pub use self::estimator::Estimator;
pub use self::fsq::Fsq;
pub use self::ibq::Ibq;
pub use self::l2::L2Quantizer;
pub use self::lfq::Lfq;
pub use self::simvq::SimVq;
pub use self::table::CodeTable;
pub use self::vq::VectorQuantizer;

/// Which quantizer a tokenizer has: the key `quantizer` of its configuration. Absent, it is Chameleon's.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "kebab-case", deny_unknown_fields)]
pub enum QuantizerConfig {
    /// [`VectorQuantizer`].
    Vq {
        /// How the gradient passes.
        #[serde(default)]
        gradient: Estimator,
    },
    /// [`EmaQuantizer`].
    Ema {
        /// Weight of the past in the averages, in (0, 1).
        #[serde(default = "default_decay")]
        decay: f64,
        /// How the gradient passes.
        #[serde(default)]
        gradient: Estimator,
    },
    /// [`L2Quantizer`].
    L2 {
        /// How the gradient passes.
        #[serde(default)]
        gradient: Estimator,
    },
    /// [`SimVq`].
    Simvq {
        /// How the gradient passes.
        #[serde(default)]
        gradient: Estimator,
    },
    /// [`Ibq`].
    Ibq,
    /// [`Fsq`].
    Fsq {
        /// Levels of each channel, at least 3; their number is `embed_dim`, their product
        /// `num_embeddings`.
        levels: Vec<usize>,
    },
    /// [`Lfq`]; `num_embeddings` is 2 to the power of `embed_dim`.
    Lfq,
}

/// Codes are computed in f32, which has every whole number up to here.
const MOST_FSQ_CODES: usize = 1 << 24;

fn default_decay() -> f64 {
    0.99
}

impl Default for QuantizerConfig {
    fn default() -> Self {
        Self::Vq { gradient: Estimator::default() }
    }
}

impl QuantizerConfig {
    /// Whether it is the one of the releases, with a plain table and the straight-through gradient.
    pub fn is_default(&self) -> bool {
        *self == Self::default()
    }

    /// Checks that such a quantizer has `num_embeddings` codes of `embed_dim` channels.
    ///
    /// # Errors
    /// [`Error::Invalid`] with the key at fault and what is allowed.
    pub fn validate(&self, num_embeddings: usize, embed_dim: usize) -> Result<()> {
        let invalid = |message: String| Err(Error::invalid(message));
        match self {
            Self::Ema { decay, .. } if !(*decay > 0.0 && *decay < 1.0) => {
                invalid(format!("quantizer.decay is {decay}; allowed: above 0, below 1"))
            }
            Self::Fsq { levels } => {
                let codes = levels.iter().try_fold(1_usize, |n, levels| n.checked_mul(*levels));
                // With two levels the border would lie where no latent gets to.
                if levels.iter().any(|levels| *levels < 3) || levels.len() != embed_dim {
                    return invalid(format!(
                        "quantizer.levels is {levels:?}; allowed: embed_dim ({embed_dim}) numbers from 3 on"
                    ));
                }
                if codes.is_none_or(|codes| codes > MOST_FSQ_CODES) {
                    return invalid(format!(
                        "quantizer.levels {levels:?} multiply to more than {MOST_FSQ_CODES}"
                    ));
                }
                if codes != Some(num_embeddings) {
                    let codes = codes.unwrap_or_default();
                    return invalid(format!(
                        "quantizer.levels {levels:?} multiply to {codes}; num_embeddings is {num_embeddings}"
                    ));
                }
                Ok(())
            }
            Self::Lfq if embed_dim > 20 || num_embeddings != 1 << embed_dim => invalid(format!(
                "num_embeddings is {num_embeddings} and embed_dim {embed_dim}; lfq has a bit for each \
                 channel, at most 20, and so 2 to the power of embed_dim codes"
            )),
            _ => Ok(()),
        }
    }
}

/// The step between latents and codes.
#[derive(Module, Debug)]
pub enum Quantizer {
    /// A learned codebook.
    Vq(VectorQuantizer),
    /// A codebook of moving averages.
    Ema(EmaQuantizer),
    /// A codebook of directions.
    L2(L2Quantizer),
    /// A frozen codebook behind a learned map.
    SimVq(SimVq),
    /// A codebook that every choice moves as a whole.
    Ibq(Ibq),
    /// Rounded channels.
    Fsq(Fsq),
    /// Signs of channels.
    Lfq(Lfq),
}

/// What a quantizer gives in training. The losses are means over positions and channels; a term that a
/// quantizer does not have is 0.
#[derive(Debug)]
pub struct Quantized {
    /// `[batch, embed, h, w]`: the codes' values, with a gradient for the latents.
    pub latents: Tensor<4>,
    /// `[batch, h, w]`: the codes.
    pub codes: Tensor<3, Int>,
    /// Mean of `(sg(z) - e)^2`: moves the codebook towards the latents.
    pub codebook_loss: Tensor<1>,
    /// Mean of `(z - sg(e))^2`: keeps the latents near the codebook.
    pub commitment_loss: Tensor<1>,
    /// Entropy of each choice less that of all choices together, in nats.
    pub entropy_loss: Tensor<1>,
}

impl Quantized {
    /// Of `latents` that got the `vectors` of a table.
    fn of_table(
        latents: Tensor<4>,
        vectors: Tensor<4>,
        codes: Tensor<3, Int>,
        estimator: Estimator,
    ) -> Self {
        let codebook_loss = (vectors.clone() - latents.clone().detach()).square().mean();
        let commitment_loss = (vectors.clone().detach() - latents.clone()).square().mean();
        let entropy_loss = codebook_loss.zeros_like();
        let latents = estimator.pass(latents, vectors);
        Self { latents, codes, codebook_loss, commitment_loss, entropy_loss }
    }
}

impl Quantizer {
    /// A quantizer of `num_embeddings` codes of `embed_dim` channels.
    pub fn new(
        config: &QuantizerConfig,
        num_embeddings: usize,
        embed_dim: usize,
        device: &Device,
    ) -> Self {
        let size = [num_embeddings, embed_dim];
        match config {
            QuantizerConfig::Vq { gradient } => {
                Self::Vq(VectorQuantizer::new(size, *gradient, device))
            }
            QuantizerConfig::Ema { gradient, .. } => {
                Self::Ema(EmaQuantizer::new(size, *gradient, device))
            }
            QuantizerConfig::L2 { gradient } => Self::L2(L2Quantizer::new(size, *gradient, device)),
            QuantizerConfig::Simvq { gradient } => Self::SimVq(SimVq::new(size, *gradient, device)),
            QuantizerConfig::Ibq => Self::Ibq(Ibq::new(size, device)),
            QuantizerConfig::Fsq { levels } => Self::Fsq(Fsq::new(levels)),
            QuantizerConfig::Lfq => Self::Lfq(Lfq::new(embed_dim)),
        }
    }

    /// The code for every position, `[batch, embed, h, w]` to `[batch, h, w]`. No gradient.
    pub fn codes(&self, latents: Tensor<4>) -> Tensor<3, Int> {
        match self {
            Self::Vq(vq) => vq.codes(latents),
            Self::Ema(ema) => ema.codes(latents),
            Self::L2(l2) => l2.codes(latents),
            Self::SimVq(simvq) => table::nearest(latents, simvq.table()),
            Self::Ibq(ibq) => ibq.codes(latents),
            Self::Fsq(fsq) => fsq.codes(latents),
            Self::Lfq(lfq) => lfq.codes(latents),
        }
    }

    /// The values of `codes`: `[batch, h, w]` to `[batch, embed, h, w]`.
    pub fn lookup(&self, codes: Tensor<3, Int>) -> Tensor<4> {
        match self {
            Self::Fsq(fsq) => fsq.lookup(codes),
            Self::Lfq(lfq) => lfq.lookup(codes),
            Self::Vq(vq) => table::lookup(vq.table(), codes),
            Self::Ema(ema) => table::lookup(ema.table(), codes),
            Self::L2(l2) => table::lookup(l2.table(), codes),
            Self::SimVq(simvq) => table::lookup(simvq.table(), codes),
            Self::Ibq(ibq) => table::lookup(ibq.table(), codes),
        }
    }

    /// Quantizes for training.
    pub fn forward(&self, latents: Tensor<4>) -> Quantized {
        match self {
            Self::Vq(vq) => vq.forward(latents),
            Self::Ema(ema) => ema.forward(latents),
            Self::L2(l2) => l2.forward(latents),
            Self::SimVq(simvq) => simvq.forward(latents),
            Self::Ibq(ibq) => ibq.forward(latents),
            Self::Fsq(fsq) => fsq.forward(latents),
            Self::Lfq(lfq) => lfq.forward(latents),
        }
    }

    /// The codebook, where codes are vectors that may be replaced one by one. Not IBQ's: among inner
    /// products a vector far longer than the others would be chosen everywhere.
    pub fn codebook(&self) -> Option<&CodeTable> {
        match self {
            Self::Vq(vq) => Some(&vq.embedding),
            Self::Ema(ema) => Some(&ema.embedding),
            Self::L2(l2) => Some(&l2.embedding),
            Self::SimVq(_) | Self::Ibq(_) | Self::Fsq(_) | Self::Lfq(_) => None,
        }
    }

    /// As [`codebook`](Self::codebook), to change it.
    pub fn codebook_mut(&mut self) -> Option<&mut CodeTable> {
        match self {
            Self::Vq(vq) => Some(&mut vq.embedding),
            Self::Ema(ema) => Some(&mut ema.embedding),
            Self::L2(l2) => Some(&mut l2.embedding),
            Self::SimVq(_) | Self::Ibq(_) | Self::Fsq(_) | Self::Lfq(_) => None,
        }
    }

    /// Latents as they are compared with the codebook: at length 1 where directions are, else as they
    /// are.
    pub fn comparable(&self, latents: Tensor<4>) -> Tensor<4> {
        match self {
            Self::L2(_) => table::normalised(latents, 1),
            _ => latents,
        }
    }
}
