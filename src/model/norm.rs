//! The norm of the residual stream, and those of queries and keys.

use burn::module::{Initializer, Module, Param};
use burn::tensor::{Device, Tensor};

use super::{ModelConfig, QkNorm, Rope, ops};

/// Epsilon of LayerNorm; the reference fixes it, `rms_norm_eps` does not apply.
const LAYER_NORM_EPS: f64 = 1e-5;

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

/// The norm of queries or keys, before the rotary embedding; [`QkNorm`] names the kinds.
#[derive(Module, Debug)]
pub enum HeadNorm {
    /// Over each head, with rows for every head.
    Layer(HeadLayerNorm),
    /// Over each head, with one row.
    Rms(HeadRmsNorm),
    /// Over all heads together.
    Projection(RmsNorm),
}

/// RMSNorm over each head, with one weight row for all.
#[derive(Module, Debug)]
pub struct HeadRmsNorm {
    /// `[head_dim]`.
    pub weight: Param<Tensor<1>>,
    epsilon: f64,
    /// How much the norm counts: `(1 - share) x + share norm(x)`.
    pub(super) share: f64,
}

/// LayerNorm with a weight and bias row per head (paper section 2.2).
#[derive(Module, Debug)]
pub struct HeadLayerNorm {
    /// `[heads, head_dim]`.
    pub weight: Param<Tensor<2>>,
    /// `[heads, head_dim]`.
    pub bias: Param<Tensor<2>>,
}

impl HeadNorm {
    pub(crate) fn new(config: &ModelConfig, heads: usize, device: &Device) -> Option<Self> {
        let (head_dim, eps) = (config.head_dim(), config.rms_norm_eps);
        match config.qk_norm {
            QkNorm::LayerNorm => Some(Self::Layer(HeadLayerNorm {
                weight: Initializer::Ones.init([heads, head_dim], device),
                bias: Initializer::Zeros.init([heads, head_dim], device),
            })),
            QkNorm::None => None,
            QkNorm::Rms => Some(Self::Rms(HeadRmsNorm {
                weight: Initializer::Ones.init([head_dim], device),
                epsilon: eps,
                share: config.qk_norm_share,
            })),
            QkNorm::RmsProjection => {
                Some(Self::Projection(RmsNorm::new(heads * head_dim, eps, device)))
            }
        }
    }

    /// Queries or keys before they are split into heads, after the norm if it is one over all of them or is being blended
    /// in.
    ///
    /// # Shapes
    /// `x` `[batch, seq, heads * head_dim]`; returns the same.
    pub(super) fn before_split(norm: Option<&Self>, x: Tensor<3>) -> Tensor<3> {
        match norm {
            Some(Self::Projection(norm)) => norm.forward(x),
            Some(Self::Rms(norm)) if norm.share < 1.0 => norm.blended(x),
            _ => x,
        }
    }

    /// What is left to do to queries or keys: norm, rotary embedding and multiplication by `scale`.
    pub(super) fn after_split(norm: Option<&Self>, rope: &Rope, scale: f64) -> ops::NormAndRope {
        let (norm, eps) = match norm {
            Some(Self::Layer(norm)) => {
                let [weight, bias] = [norm.weight.val(), norm.bias.val()];
                (ops::HeadNormOf::LayerNorm { weight, bias }, LAYER_NORM_EPS)
            }
            Some(Self::Rms(norm)) if norm.share == 1.0 => {
                (ops::HeadNormOf::Rms { weight: norm.weight.val() }, norm.epsilon)
            }
            Some(Self::Rms(_) | Self::Projection(_)) | None => (ops::HeadNormOf::None, 0.0),
        };
        ops::NormAndRope { norm, cos_and_sin: rope.tables(), scale, eps }
    }
}

impl HeadRmsNorm {
    /// `(1 - share) x + share norm(x)`.
    ///
    /// # Shapes
    /// `x` `[batch, seq, heads * head_dim]`; returns the same.
    fn blended(&self, x: Tensor<3>) -> Tensor<3> {
        let ([batch, seq, width], [head_dim]) = (x.dims(), self.weight.dims());
        let heads = x.clone().reshape([batch, seq * (width / head_dim), head_dim]);
        let normed = ops::rms_norm(heads, self.weight.val(), self.epsilon);
        x * (1.0 - self.share) + normed.reshape([batch, seq, width]) * self.share
    }
}
