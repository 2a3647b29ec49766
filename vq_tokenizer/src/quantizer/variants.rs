//! All quantizers behind one type.

use burn::module::Module;
use burn::tensor::{Device, Int, Tensor};

use super::config::QuantizerConfig;
use super::ema::EmaQuantizer;
use super::fsq::Fsq;
use super::ibq::Ibq;
use super::l2::L2Quantizer;
use super::lfq::Lfq;
use super::quantized::Quantized;
use super::simvq::SimVq;
use super::table::{self, CodeTable};
use super::vq::VectorQuantizer;

/// The step between latents and codes.
#[derive(Module, Debug)]
pub enum Quantizer {
    /// A learned codebook.
    Vq(VectorQuantizer),
    /// A codebook that follows moving averages of the latents.
    Ema(EmaQuantizer),
    /// A codebook of directions.
    L2(L2Quantizer),
    /// A frozen codebook behind a learned map.
    SimVq(SimVq),
    /// A codebook all of whose vectors get a gradient from every choice.
    Ibq(Ibq),
    /// Channels rounded to levels.
    Fsq(Fsq),
    /// Channels reduced to their signs.
    Lfq(Lfq),
}

impl Quantizer {
    /// A randomly initialised quantizer of `num_embeddings` codes of `embed_dim` channels.
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

    /// The code of every position, without a gradient.
    ///
    /// # Shapes
    /// - latents: `[batch, embed, h, w]`
    /// - result: `[batch, h, w]`
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

    /// The vectors of `codes`.
    ///
    /// # Shapes
    /// - codes: `[batch, h, w]`
    /// - result: `[batch, embed, h, w]`
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

    /// Vectors, codes and losses for training.
    ///
    /// # Shapes
    /// - latents: `[batch, embed, h, w]`
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

    /// The codebook, if its vectors may be replaced one by one.
    ///
    /// `None` for IBQ: it compares inner products, so a vector far longer than the others would be chosen
    /// everywhere.
    pub fn codebook(&self) -> Option<&CodeTable> {
        match self {
            Self::Vq(vq) => Some(&vq.embedding),
            Self::Ema(ema) => Some(&ema.embedding),
            Self::L2(l2) => Some(&l2.embedding),
            Self::SimVq(_) | Self::Ibq(_) | Self::Fsq(_) | Self::Lfq(_) => None,
        }
    }

    /// [`codebook`](Self::codebook), mutable.
    pub fn codebook_mut(&mut self) -> Option<&mut CodeTable> {
        match self {
            Self::Vq(vq) => Some(&mut vq.embedding),
            Self::Ema(ema) => Some(&mut ema.embedding),
            Self::L2(l2) => Some(&mut l2.embedding),
            Self::SimVq(_) | Self::Ibq(_) | Self::Fsq(_) | Self::Lfq(_) => None,
        }
    }

    /// Latents as they are compared with the codebook: scaled to length 1 for [`Quantizer::L2`], otherwise
    /// unchanged.
    ///
    /// # Shapes
    /// - latents and result: `[batch, embed, h, w]`
    pub fn comparable(&self, latents: Tensor<4>) -> Tensor<4> {
        match self {
            Self::L2(_) => table::normalised(latents, 1),
            _ => latents,
        }
    }
}
