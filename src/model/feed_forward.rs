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
        let (hidden, inner, std) =
            (config.hidden_size, config.intermediate_size, config.initializer_range);
        Self {
            gate_proj: Linear::new(hidden, inner, std, device),
            up_proj: Linear::new(hidden, inner, std, device),
            down_proj: Linear::new(inner, hidden, std, device),
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
}
