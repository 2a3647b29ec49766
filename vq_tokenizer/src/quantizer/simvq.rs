//! SimVQ: a frozen codebook behind one learned linear map. All codes move together, so none stays behind
//! unused.
//!
//! Source: Zhu et al., "Addressing Representation Collapse in Vector Quantized Models with One Linear
//! Layer" (arXiv 2411.02038).

use burn::module::{Module, Param};
use burn::tensor::{Device, Int, Tensor};

use super::estimator::Estimator;
use super::quantized::Quantized;
use super::table::{CodeTable, lookup, nearest};
use crate::init;

/// A frozen codebook and its map.
#[derive(Module, Debug)]
pub struct SimVq {
    /// Random vectors that are never trained.
    pub embedding: CodeTable,
    /// `[embed_dim, embed_dim]`: the codes are `embedding map^T`.
    pub map: Param<Tensor<2>>,
    #[module(skip)]
    estimator: Estimator,
}

impl SimVq {
    /// A codebook of `[num_embeddings, embed_dim]` and a map, both normal with variance `1 / embed_dim`.
    pub(super) fn new(size: [usize; 2], estimator: Estimator, device: &Device) -> Self {
        let std = (size[1] as f64).powf(-0.5);
        let embedding = CodeTable { weight: init::normal(std, size, device) };
        Self { embedding, map: init::normal(std, [size[1], size[1]], device), estimator }
    }

    /// The mapped codebook, `[num_embeddings, embed_dim]`.
    pub(super) fn table(&self) -> Tensor<2> {
        self.embedding.weight.val().detach().matmul(self.map.val().transpose())
    }

    /// See [`super::Quantizer::forward`].
    pub(super) fn forward(&self, latents: Tensor<4>) -> Quantized {
        let table = self.table();
        let codes: Tensor<3, Int> = nearest(latents.clone(), table.clone());
        Quantized::of_table(latents, lookup(table, codes.clone()), codes, self.estimator)
    }
}
