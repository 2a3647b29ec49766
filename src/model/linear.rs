//! A linear layer without bias, its weight stored as in the checkpoints: `[out, in]`.

use burn::module::{Module, Param};
use burn::tensor::{Device, Tensor};
use vq_tokenizer::init;

use super::adapter::LowRank;
use super::product::product;

/// `x W^T`.
#[derive(Module, Debug)]
pub struct Linear {
    /// `[out, in]`.
    pub weight: Param<Tensor<2>>,
    /// Factors of an adapter, if one is attached.
    pub lora: Option<LowRank>,
}

impl Linear {
    pub(crate) fn new(inputs: usize, outputs: usize, std: f64, device: &Device) -> Self {
        Self { weight: init::normal(std, [outputs, inputs], device), lora: None }
    }

    /// `x W^T`, with the change of an adapter's factors.
    ///
    /// # Shapes
    /// `x` `[batch, seq, in]`; returns `[batch, seq, out]`.
    pub fn forward(&self, x: Tensor<3>) -> Tensor<3> {
        match &self.lora {
            Some(lora) => lora.forward(x, self.weight.val()),
            None => product(x, self.weight.val()),
        }
    }

    /// The weight with the factors of an adapter merged into it.
    ///
    /// # Shapes
    /// Returns `[out, in]`.
    pub(super) fn merged(&self) -> Tensor<2> {
        match &self.lora {
            Some(lora) => lora.merge(self.weight.val()),
            None => self.weight.val(),
        }
    }

    /// Whether training drops entries of the input of an adapter's factors.
    pub(super) fn has_dropout(&self) -> bool {
        self.lora.as_ref().is_some_and(LowRank::has_dropout)
    }
}
