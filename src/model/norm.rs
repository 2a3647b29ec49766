//! The two normalisations: RMSNorm over the residual stream, LayerNorm over each head's queries and keys.

use burn::module::{Initializer, Module, Param};
use burn::tensor::{DType, Device, Tensor};

use super::Rope;

/// Epsilon of the query and key norm; the reference fixes it, `rms_norm_eps` does not apply.
const HEAD_NORM_EPS: f64 = 1e-5;

/// `x / sqrt(mean(x^2) + eps) * weight`, the statistic in f32.
#[derive(Module, Debug)]
pub struct RmsNorm {
    /// `[hidden]`.
    pub weight: Param<Tensor<1>>,
    epsilon: f64,
}

impl RmsNorm {
    pub(crate) fn new(hidden: usize, epsilon: f64, device: &Device) -> Self {
        Self { weight: Initializer::Ones.init([hidden], device), epsilon }
    }

    /// `[batch, seq, hidden]` to the same shape.
    pub fn forward(&self, x: Tensor<3>) -> Tensor<3> {
        #[cfg(feature = "cpu")]
        if super::ops::applies(&x) {
            return super::ops::rms_norm(x, self.weight.val(), self.epsilon);
        }
        self.composed(x)
    }

    /// The reference, from stock operations.
    pub(super) fn composed(&self, x: Tensor<3>) -> Tensor<3> {
        let dtype = x.dtype();
        let x = x.cast(DType::F32);
        let mean_square = (x.clone() * x.clone()).mean_dim(2); // [batch, seq, 1]
        let scale = (mean_square + self.epsilon).sqrt().recip();
        (x * scale).cast(dtype) * self.weight.val().cast(dtype).unsqueeze()
    }
}

/// LayerNorm with a weight and bias row per head, before the rotary embedding (paper section 2.2).
#[derive(Module, Debug)]
pub struct HeadNorm {
    /// `[heads, head_dim]`.
    pub weight: Param<Tensor<2>>,
    /// `[heads, head_dim]`.
    pub bias: Param<Tensor<2>>,
}

impl HeadNorm {
    pub(crate) fn new(heads: usize, head_dim: usize, device: &Device) -> Self {
        Self {
            weight: Initializer::Ones.init([heads, head_dim], device),
            bias: Initializer::Zeros.init([heads, head_dim], device),
        }
    }

    /// Norm, rotation and scale of `x` `[batch, seq, heads, head_dim]`, as
    /// `[batch, heads, seq, head_dim]`.
    pub(super) fn rotated(&self, x: Tensor<4>, rope: &Rope, scale: f64) -> Tensor<4> {
        #[cfg(feature = "cpu")]
        if super::ops::applies(&x) {
            let weights = [self.weight.val(), self.bias.val()];
            return super::ops::head_norm_rope(x, weights, rope.tables(), scale, HEAD_NORM_EPS);
        }
        self.rotated_composed(x, rope, scale)
    }

    /// The reference, from stock operations.
    pub(super) fn rotated_composed(&self, x: Tensor<4>, rope: &Rope, scale: f64) -> Tensor<4> {
        (rope.rotate(self.forward(x)) * scale).swap_dims(1, 2)
    }

    /// `[batch, seq, heads, head_dim]` to the same shape; the statistics in f32.
    pub fn forward(&self, x: Tensor<4>) -> Tensor<4> {
        let dtype = x.dtype();
        let x = x.cast(DType::F32);
        let centred = x.clone() - x.mean_dim(3);
        let variance = (centred.clone() * centred.clone()).mean_dim(3); // [batch, seq, heads, 1]
        let normal = (centred * (variance + HEAD_NORM_EPS).sqrt().recip()).cast(dtype);
        normal * self.weight.val().cast(dtype).unsqueeze() + self.bias.val().cast(dtype).unsqueeze()
    }
}
