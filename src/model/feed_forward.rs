//! The SwiGLU feed-forward layer.

use burn::module::Module;
use burn::tensor::{Device, Tensor};

use super::{Linear, ModelConfig, ops};

/// `down(silu(gate(x)) * up(x))`; the fields are named as in checkpoints.
#[derive(Module, Debug)]
pub struct FeedForward {
    /// `[intermediate, hidden]`.
    pub gate_proj: Linear,
    /// `[intermediate, hidden]`.
    pub up_proj: Linear,
    /// `[hidden, intermediate]`.
    pub down_proj: Linear,
}

impl FeedForward {
    pub(crate) fn new(config: &ModelConfig, device: &Device) -> Self {
        Self::of_width(config, config.intermediate_size, device)
    }

    /// A layer of the width `inner`.
    pub(crate) fn of_width(config: &ModelConfig, inner: usize, device: &Device) -> Self {
        let (hidden, std) = (config.hidden_size, config.initializer_range);
        let linear = |sizes| Linear::biased(sizes, config.mlp_bias, std, device);
        Self {
            gate_proj: linear([hidden, inner]),
            up_proj: linear([hidden, inner]),
            down_proj: linear([inner, hidden]),
        }
    }

    /// The layer's output, before the residual sum.
    ///
    /// # Shapes
    /// `x` `[batch, seq, hidden]`; returns the same.
    pub fn forward(&self, x: Tensor<3>) -> Tensor<3> {
        let gate = self.gate_proj.forward(x.clone()); // [batch, seq, intermediate]
        self.down_proj.forward(ops::swiglu(gate, self.up_proj.forward(x)))
    }

    /// Whether training drops entries of the input of an adapter's factors.
    pub(super) fn has_dropout(&self) -> bool {
        [&self.gate_proj, &self.up_proj, &self.down_proj].iter().any(|linear| linear.has_dropout())
    }

    /// The linear layers by name.
    pub(super) fn linears(&mut self) -> Vec<(&'static str, &mut Linear)> {
        vec![
            ("gate_proj", &mut self.gate_proj),
            ("up_proj", &mut self.up_proj),
            ("down_proj", &mut self.down_proj),
        ]
    }
}
