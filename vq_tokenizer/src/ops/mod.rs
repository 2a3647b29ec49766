//! The tokenizer's two costly operations on the CPU, with their gradients.
//!
//! Burn's stock operations compute the same; these exist for speed: the convolution builds no
//! column matrix and covers stride 2 and doubling, the normalisation is fused with its swish. Other
//! devices keep the stock operations, see [`supports`].

mod autodiff;
mod conv;
mod conv_weights;
mod flex;
mod group_norm;
mod plan;
mod planes;
mod simd;
#[cfg(test)]
mod tests;

use burn::backend::tensor::FloatTensor;
use burn::backend::{Backend, Dispatch, DispatchDevice, backend_extension};
use burn::tensor::{DType, Tensor};

pub use plan::Geometry;

/// The operations; tensors are f32 `[batch, channels, height, width]`.
#[backend_extension(Autodiff, Flex)]
pub trait VqOps: Backend {
    /// Convolves `x` with `weight`, `[outputs, inputs, side, side]`, and adds `bias`, `[outputs]`.
    fn vq_conv2d(
        x: FloatTensor<Self>,
        weight: FloatTensor<Self>,
        bias: FloatTensor<Self>,
        geometry: Geometry,
    ) -> FloatTensor<Self>;

    /// Normalises `groups` groups of channels, scales and shifts each channel, then swish if asked.
    fn vq_group_norm(
        x: FloatTensor<Self>,
        weight: FloatTensor<Self>,
        bias: FloatTensor<Self>,
        groups: usize,
        epsilon: f64,
        swish: bool,
    ) -> FloatTensor<Self>;
}

/// Whether the operations of this module take `x`: f32 on the CPU.
pub fn supports(x: &Tensor<4>) -> bool {
    let on_cpu = matches!(x.device().inner().as_dispatch(), DispatchDevice::Flex(_));
    on_cpu && x.dtype() == DType::F32
}

/// Convolves with a kernel of side 3, or of side 1 for [`Geometry::Same`].
///
/// `x` is `[batch, inputs, h, w]`, `weight` `[outputs, inputs, side, side]`, `bias` `[outputs]`.
pub fn conv2d(x: Tensor<4>, weight: Tensor<4>, bias: Tensor<1>, geometry: Geometry) -> Tensor<4> {
    let (x, weight, bias) = (x.into_dispatch(), weight.into_dispatch(), bias.into_dispatch());
    Tensor::from_dispatch(<Dispatch as VqOps>::vq_conv2d(x, weight, bias, geometry))
}

/// Normalises groups of channels of `x`, `[batch, channels, h, w]`; `weight` and `bias` are
/// `[channels]`. With `swish`, `y * sigmoid(y)` follows.
pub fn group_norm(
    x: Tensor<4>,
    weight: Tensor<1>,
    bias: Tensor<1>,
    groups: usize,
    epsilon: f64,
    swish: bool,
) -> Tensor<4> {
    let (x, weight, bias) = (x.into_dispatch(), weight.into_dispatch(), bias.into_dispatch());
    let y = <Dispatch as VqOps>::vq_group_norm(x, weight, bias, groups, epsilon, swish);
    Tensor::from_dispatch(y)
}
