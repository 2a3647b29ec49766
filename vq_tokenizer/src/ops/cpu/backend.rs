//! The kernels as an extension of Burn's backends.

use burn::backend::tensor::FloatTensor;
use burn::backend::{Backend, backend_extension};

use crate::ops::options::{Geometry, GroupNormOptions};

/// The operations on a backend's tensors: f32, `[batch, channels, height, width]`.
#[backend_extension(Autodiff, Flex)]
pub trait VqOps: Backend {
    /// `x` convolved with `weight`, `[outputs, inputs, side, side]`, plus `bias`, `[outputs]`.
    fn vq_conv2d(
        x: FloatTensor<Self>,
        weight: FloatTensor<Self>,
        bias: FloatTensor<Self>,
        geometry: Geometry,
    ) -> FloatTensor<Self>;

    /// `x` normalised by groups, times `weight` plus `bias`, both `[channels]`; then swish if asked.
    fn vq_group_norm(
        x: FloatTensor<Self>,
        weight: FloatTensor<Self>,
        bias: FloatTensor<Self>,
        options: GroupNormOptions,
    ) -> FloatTensor<Self>;
}
