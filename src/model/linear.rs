//! A linear layer without bias, its weight stored as in the checkpoints: `[out, in]`.

use burn::module::{Module, Param};
use burn::tensor::{Device, Tensor};
use vq_tokenizer::init;

use super::ops;

/// `x W^T`.
#[derive(Module, Debug)]
pub struct Linear {
    /// `[out, in]`.
    pub weight: Param<Tensor<2>>,
}

impl Linear {
    pub(crate) fn new(inputs: usize, outputs: usize, std: f64, device: &Device) -> Self {
        Self { weight: init::normal(std, [outputs, inputs], device) }
    }

    /// `x W^T`.
    ///
    /// # Shapes
    /// `x` `[batch, seq, in]`; returns `[batch, seq, out]`.
    pub fn forward(&self, x: Tensor<3>) -> Tensor<3> {
        product(x, self.weight.val())
    }
}

/// `x weight^T`; a weight in another number format is converted to that of `x`.
///
/// # Shapes
/// `x` `[batch, seq, in]`, `weight` `[out, in]`; returns `[batch, seq, out]`.
pub(super) fn product(x: Tensor<3>, weight: Tensor<2>) -> Tensor<3> {
    let [batch, seq, inputs] = x.dims();
    let [outputs, _] = weight.dims();
    // One matrix product over all tokens; a batched one would pack the weight once per row.
    ops::linear(x.reshape([batch * seq, inputs]), weight).reshape([batch, seq, outputs])
}
