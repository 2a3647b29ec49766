//! Fused f32 kernels for Burn's CPU backend, with their gradients.

mod autodiff;
mod backend;
mod conv;
mod conv_weights;
mod flex;
mod group_norm;
mod math;
mod plan;
mod planes;
mod simd;
#[cfg(test)]
mod tests;

use burn::backend::{Dispatch, DispatchDevice};
use burn::tensor::{DType, Device, Tensor};
use rayon::prelude::*;

use super::options::Geometry;
use backend::ConvOps;

/// Whether the kernels of this module take `x`: f32 on the CPU.
pub(super) fn supports(x: &Tensor<4>) -> bool {
    is_cpu(&x.device()) && x.dtype() == DType::F32
}

pub(super) fn is_cpu(device: &Device) -> bool {
    matches!(device.clone().inner().as_dispatch(), DispatchDevice::Flex(_))
}

/// See [`super::each`].
pub(super) fn each<const D: usize, T: Send>(
    parts: Vec<Tensor<D>>,
    work: impl Fn(Tensor<D>) -> T + Send + Sync,
) -> Vec<T> {
    parts.into_par_iter().map(work).collect()
}

/// See [`super::conv2d`].
pub(super) fn conv2d(
    x: Tensor<4>,
    weight: Tensor<4>,
    bias: Tensor<1>,
    geometry: Geometry,
) -> Tensor<4> {
    let (x, weight, bias) = (x.into_dispatch(), weight.into_dispatch(), bias.into_dispatch());
    Tensor::from_dispatch(Dispatch::fused_conv2d(x, weight, bias, geometry))
}
