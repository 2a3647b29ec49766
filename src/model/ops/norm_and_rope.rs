//! What is done to the heads of queries and keys.

use burn::tensor::Tensor;

/// The norm of each head, the statistics in f32.
#[derive(Clone, Debug)]
#[allow(clippy::large_enum_variant, reason = "made for one call, never kept")]
pub(crate) enum HeadNormOf {
    /// LayerNorm with a weight and bias row per head, each `[heads, head_dim]`.
    LayerNorm { weight: Tensor<2>, bias: Tensor<2> },
    /// `x / sqrt(mean(x^2) + eps) * weight` with one weight row for all heads, `[head_dim]`.
    Rms { weight: Tensor<1> },
    /// Heads stay as they are.
    None,
}

/// The norm of each head, rotary embedding, and multiplication by a number.
#[derive(Clone, Debug)]
pub(crate) struct NormAndRope {
    pub(crate) norm: HeadNormOf,
    /// `[batch, seq, 1, head_dim / 2]`.
    pub(crate) cos_and_sin: [Tensor<4>; 2],
    pub(crate) scale: f64,
    /// Of the norm.
    pub(crate) eps: f64,
}
