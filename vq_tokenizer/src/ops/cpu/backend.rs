//! The convolution as an extension of Burn's backends.

use burn::backend::tensor::FloatTensor;
use burn::backend::{Backend, backend_extension};

use crate::ops::options::Geometry;

/// The operation on a backend's tensors: f32, `[batch, channels, height, width]`.
#[backend_extension(Autodiff, Flex)]
pub trait ConvOps: Backend {
    /// `x` convolved with `weight`, `[outputs, inputs, side, side]`, plus `bias`, `[outputs]`.
    fn fused_conv2d(
        x: FloatTensor<Self>,
        weight: FloatTensor<Self>,
        bias: FloatTensor<Self>,
        geometry: Geometry,
    ) -> FloatTensor<Self>;
}
