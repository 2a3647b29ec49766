//! A linear layer, its weight stored as in the checkpoints: `[out, in]`.

use burn::module::{Initializer, Module, Param};
use burn::tensor::{Device, Tensor};
use vq_tokenizer::init;

use super::adapter::LowRank;
use super::product::product;

/// `x W^T`, and a bias if there is one.
#[derive(Module, Debug)]
pub struct Linear {
    /// `[out, in]`.
    pub weight: Param<Tensor<2>>,
    /// `[out]`.
    pub bias: Option<Param<Tensor<1>>>,
    /// Factors of an adapter, if one is attached.
    pub lora: Option<LowRank>,
}

impl Linear {
    pub(crate) fn new(inputs: usize, outputs: usize, std: f64, device: &Device) -> Self {
        Self { weight: init::normal(std, [outputs, inputs], device), bias: None, lora: None }
    }

    /// As [`Self::new`], with a bias of 0 if it `has_bias`.
    pub(crate) fn biased(
        [inputs, outputs]: [usize; 2],
        has_bias: bool,
        std: f64,
        device: &Device,
    ) -> Self {
        let bias = has_bias.then(|| Initializer::Zeros.init([outputs], device));
        Self { bias, ..Self::new(inputs, outputs, std, device) }
    }

    /// `x W^T`, with the change of an adapter's factors, and the bias.
    ///
    /// # Shapes
    /// `x` `[batch, seq, in]`; returns `[batch, seq, out]`.
    pub fn forward(&self, x: Tensor<3>) -> Tensor<3> {
        let y = match &self.lora {
            Some(lora) => lora.forward(x, self.weight.val()),
            None => product(x, self.weight.val()),
        };
        match &self.bias {
            Some(bias) => {
                let dtype = y.dtype();
                y + bias.val().cast(dtype).unsqueeze()
            }
            None => y,
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
