//! VQ on the unit sphere: latents and codebook at length 1, so that the nearest code is the one of the
//! closest direction. The codebook moves by gradients; by averages it would diverge.
//!
//! Source: Yu et al., "Vector-quantized Image Modeling with Improved VQGAN" (arXiv 2110.04627, section
//! 3.2), as LlamaGen's tokenizer has it.

use burn::module::Module;
use burn::tensor::{Device, Int, Tensor};

use super::table::{CodeTable, lookup, nearest, normalised};
use super::{Estimator, Quantized};

/// A codebook of directions.
#[derive(Module, Debug)]
pub struct L2Quantizer {
    /// The codebook vectors; their lengths do not count.
    pub embedding: CodeTable,
    #[module(skip)]
    estimator: Estimator,
}

impl L2Quantizer {
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
