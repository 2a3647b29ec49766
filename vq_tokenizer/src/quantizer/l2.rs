//! VQ on the unit sphere: latents and codebook are scaled to length 1, so that the nearest code is that of
//! the closest direction. Gradients move the codebook; moving averages would diverge.
//!
//! Source: Yu et al., "Vector-quantized Image Modeling with Improved VQGAN" (arXiv 2110.04627, section
//! 3.2), as in LlamaGen's tokenizer.

use burn::module::Module;
use burn::tensor::{Device, Int, Tensor};

use super::estimator::Estimator;
use super::quantized::Quantized;
use super::table::{CodeTable, lookup, nearest, normalised};

/// A codebook of directions.
#[derive(Module, Debug)]
pub struct L2Quantizer {
    /// The codebook vectors; their lengths have no effect.
    pub embedding: CodeTable,
    #[module(skip)]
    estimator: Estimator,
}

impl L2Quantizer {
    /// A codebook of `[num_embeddings, embed_dim]` with entries uniform in [-1, 1].
    pub(super) fn new(size: [usize; 2], estimator: Estimator, device: &Device) -> Self {
        Self { embedding: CodeTable::uniform(size, 1.0, device), estimator }
    }

    /// The directions, `[num_embeddings, embed_dim]`.
    pub(super) fn table(&self) -> Tensor<2> {
        normalised(self.embedding.weight.val(), 1)
    }

    /// See [`super::Quantizer::codes`].
    pub(super) fn codes(&self, latents: Tensor<4>) -> Tensor<3, Int> {
        nearest(normalised(latents.detach(), 1), self.table())
    }

    /// See [`super::Quantizer::forward`].
    pub(super) fn forward(&self, latents: Tensor<4>) -> Quantized {
        let codes = self.codes(latents.clone());
        let latents = normalised(latents, 1);
        Quantized::of_table(latents, lookup(self.table(), codes.clone()), codes, self.estimator)
    }
}
