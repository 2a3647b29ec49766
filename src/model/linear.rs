//! A matrix product whose weight lies as in the checkpoints: `[out, in]`, no bias.

use burn::module::{Initializer, Module, Param};
use burn::tensor::{Device, Tensor};

/// `x W^T`.
#[derive(Module, Debug)]
pub struct Linear {
    /// `[out, in]`.
    pub weight: Param<Tensor<2>>,
}

impl Linear {
    pub(crate) fn new(inputs: usize, outputs: usize, std: f64, device: &Device) -> Self {
        let normal = Initializer::Normal { mean: 0.0, std };
        Self { weight: normal.init([outputs, inputs], device) }
    }

    /// `[batch, seq, in]` to `[batch, seq, out]`.
    pub fn forward(&self, x: Tensor<3>) -> Tensor<3> {
        let [batch, seq, inputs] = x.dims();
        let weight = self.weight.val(); // [out, in]
        let outputs = weight.dims()[0];
        // One matrix product over all tokens; a batched one would repeat the weight's packing per row.
        product(x.reshape([batch * seq, inputs]), weight).reshape([batch, seq, outputs])
    }
}

/// `x weight^T` for `x` `[rows, in]` and `weight` `[out, in]`; in mixed precision the weight is rounded to
/// the format of `x`.
pub(super) fn product(x: Tensor<2>, weight: Tensor<2>) -> Tensor<2> {
    #[cfg(feature = "cpu")]
    if super::ops::applies(&x) && super::ops::applies_to_weight(&weight) {
        return super::ops::linear(x, weight);
    }
    let narrower = x.dtype() != weight.dtype();
    let weight = if narrower { weight.cast(x.dtype()) } else { weight };
    x.matmul(weight.transpose())
}
