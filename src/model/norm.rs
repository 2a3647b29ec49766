//! The two normalisations: RMSNorm of the residual stream, LayerNorm of each head's queries and keys.

use burn::module::{Initializer, Module, Param};
use burn::tensor::{Device, Tensor};

use super::{Rope, ops};

/// Epsilon of the query and key norm; the reference fixes it, `rms_norm_eps` does not apply.
const HEAD_NORM_EPS: f64 = 1e-5;

/// `x / sqrt(mean(x^2) + eps) * weight`, the mean in f32.
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

    /// The normalised `x`.
    ///
    /// # Shapes
    /// `x` `[batch, seq, hidden]`; returns the same.
    pub fn forward(&self, x: Tensor<3>) -> Tensor<3> {
        ops::rms_norm(x, self.weight.val(), self.epsilon)
    }

    /// `x + y` and its norm.
    ///
    /// # Shapes
    /// Both `[batch, seq, hidden]`, as both results.
    pub(super) fn add(&self, x: Tensor<3>, y: Tensor<3>) -> [Tensor<3>; 2] {
        ops::add_rms_norm(x, y, self.weight.val(), self.epsilon)
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

    /// Queries or keys after norm, rotary embedding and multiplication by `scale`, transposed.
    ///
    /// # Shapes
    /// `x` `[batch, seq, heads, head_dim]`; returns `[batch, heads, seq, head_dim]`.
    pub(super) fn forward(&self, x: Tensor<4>, rope: &Rope, scale: f64) -> Tensor<4> {
        ops::head_norm_rope(x, self.at(rope, scale))
    }

    /// What [`Self::forward`] does to queries or keys, for operations that do it on the way.
    pub(super) fn at(&self, rope: &Rope, scale: f64) -> ops::NormAndRope {
        let (weight, bias) = (self.weight.val(), self.bias.val());
        let norm = ops::HeadNormOf::LayerNorm { weight, bias };
        ops::NormAndRope { norm, cos_and_sin: rope.tables(), scale, eps: HEAD_NORM_EPS }
    }
}
