//! What is done to the heads of queries and keys.

use burn::tensor::Tensor;

/// LayerNorm per head with the statistics in f32, rotary embedding, and multiplication by a number.
#[derive(Clone, Debug)]
pub(crate) struct NormAndRope {
    /// `[heads, head_dim]`.
    pub(crate) weight_and_bias: [Tensor<2>; 2],
    /// `[batch, seq, 1, head_dim / 2]`.
    pub(crate) cos_and_sin: [Tensor<4>; 2],
    pub(crate) scale: f64,
    pub(crate) eps: f64,
}
