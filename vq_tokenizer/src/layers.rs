//! Convolution, group normalisation, down- and upsampling, with the published tensor names.
//!
//! Source: taming-transformers `modules/diffusionmodules/model.py`, as used by Chameleon (arXiv
//! 2405.09818). Tensors are `[batch, channels, height, width]`.
//!
//! Every layer computes in the dtype of its input: in bfloat16 the convolutions round their f32 weights
//! to it, while the normalisations compute in f32 and round their result.

use burn::module::{Initializer, Module, Param};
use burn::tensor::activation::silu;
use burn::tensor::{Device, Tensor};

use crate::config::BlockConfig;
use crate::init;
use crate::ops::{self, Geometry, GroupNormOptions};

/// The epsilon of every group normalisation of the published model.
const NORM_EPSILON: f64 = 1e-6;

/// A square 2-d convolution with bias.
#[derive(Module, Debug)]
pub struct Conv2d {
    /// `[out, in, kernel, kernel]`.
    pub weight: Param<Tensor<4>>,
    /// `[out]`.
    pub bias: Param<Tensor<1>>,
}

impl Conv2d {
    /// A convolution with normal weights of variance `1 / fan_in` and zero bias.
    ///
    /// This keeps the variance of the input. PyTorch's default shrinks the signal in every convolution
    /// outside a residual branch until the biases drown it, and training starts ten times slower.
    pub fn new(in_channels: usize, out_channels: usize, kernel: usize, device: &Device) -> Self {
        let std = 1.0 / ((in_channels * kernel * kernel) as f64).sqrt();
        Self {
            weight: init::normal(std, [out_channels, in_channels, kernel, kernel], device),
            bias: Initializer::Zeros.init([out_channels], device),
        }
    }

    /// The convolution with stride 1 and zero padding that keeps height and width.
    ///
    /// # Shapes
    /// - x: `[batch, in, height, width]`
    /// - result: `[batch, out, height, width]`
    pub fn forward(&self, x: Tensor<4>) -> Tensor<4> {
        self.resizing(x, Geometry::Same)
    }

    fn resizing(&self, x: Tensor<4>, geometry: Geometry) -> Tensor<4> {
        ops::conv2d(x, self.weight.val(), self.bias.val(), geometry)
    }
}

/// Group normalisation, epsilon 1e-6, with a weight and a bias per channel, and in Emu3's decoder a factor and a summand
/// per pixel from the vectors of the codes.
#[derive(Module, Debug)]
pub struct GroupNorm {
    /// `[channels]`.
    pub weight: Param<Tensor<1>>,
    /// `[channels]`.
    pub bias: Param<Tensor<1>>,
    groups: usize,
    /// The factor's; 1x1.
    conv_y: Option<Conv2d>,
    /// The summand's; 1x1.
    conv_b: Option<Conv2d>,
}

impl GroupNorm {
    /// A normalisation of `channels` channels, a multiple of `groups`, with weight 1 and bias 0.
    pub fn new(channels: usize, groups: usize, device: &Device) -> Self {
        Self {
            groups,
            weight: Initializer::Ones.init([channels], device),
            bias: Initializer::Zeros.init([channels], device),
            conv_y: None,
            conv_b: None,
        }
    }

    /// The normalisation of `channels` channels in the blocks of `config`.
    pub(crate) fn of_block(channels: usize, config: &BlockConfig, device: &Device) -> Self {
        let conv = || config.condition.map(|inputs| Conv2d::new(inputs, channels, 1, device));
        let plain = Self::new(channels, config.norm_groups, device);
        Self { conv_y: conv(), conv_b: conv(), ..plain }
    }

    /// `(x - mean) / sqrt(variance + eps) * weight + bias`, with the moments of each group of channels; then
    /// `y * conv_y(z) + conv_b(z)` in a normalisation that `condition` z conditions.
    ///
    /// # Shapes
    /// - x and result: `[batch, channels, height, width]`
    /// - condition: `[batch, embed, height, width]`
    pub fn forward(&self, x: Tensor<4>, condition: Option<&Tensor<4>>) -> Tensor<4> {
        self.normalised(x, condition, false)
    }

    /// [`GroupNorm::forward`] followed by swish, `y * sigmoid(y)`.
    ///
    /// # Shapes
    /// As [`GroupNorm::forward`].
    pub fn forward_swish(&self, x: Tensor<4>, condition: Option<&Tensor<4>>) -> Tensor<4> {
        self.normalised(x, condition, true)
    }

    fn normalised(&self, x: Tensor<4>, condition: Option<&Tensor<4>>, swish: bool) -> Tensor<4> {
        let normed = |swish| {
            let options = GroupNormOptions { groups: self.groups, epsilon: NORM_EPSILON, swish };
            ops::group_norm(x, self.weight.val(), self.bias.val(), options)
        };
        let (Some(conv_y), Some(conv_b), Some(z)) = (&self.conv_y, &self.conv_b, condition) else {
            return normed(swish);
        };
        let y = normed(false) * conv_y.forward(z.clone()) + conv_b.forward(z.clone());
        if swish { silu(y) } else { y }
    }
}

/// Halves height and width with a 3x3 convolution of stride 2.
#[derive(Module, Debug)]
pub struct Downsample {
    conv: Conv2d,
}

impl Downsample {
    /// A downsampling of `channels` channels.
    pub fn new(channels: usize, device: &Device) -> Self {
        Self { conv: Conv2d::new(channels, channels, 3, device) }
    }

    /// The downsampled `x`, padded with one row of zeros below and one column at the right only.
    ///
    /// # Shapes
    /// - x: `[batch, channels, height, width]`
    /// - result: `[batch, channels, height / 2, width / 2]`
    pub fn forward(&self, x: Tensor<4>) -> Tensor<4> {
        self.conv.resizing(x, Geometry::Down)
    }
}

/// Doubles height and width by nearest neighbour, then convolves.
#[derive(Module, Debug)]
pub struct Upsample {
    conv: Conv2d,
}

impl Upsample {
    /// An upsampling of `channels` channels.
    pub fn new(channels: usize, device: &Device) -> Self {
        Self { conv: Conv2d::new(channels, channels, 3, device) }
    }

    /// The upsampled `x`.
    ///
    /// # Shapes
    /// - x: `[batch, channels, height, width]`
    /// - result: `[batch, channels, 2 height, 2 width]`
    pub fn forward(&self, x: Tensor<4>) -> Tensor<4> {
        self.conv.resizing(x, Geometry::Up)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use burn::tensor::{Distribution, Int};

    #[test]
    fn downsampling_pads_right_and_bottom_only() {
        let device = Device::flex();
        let mut downsample = Downsample::new(32, &device);
        downsample.conv.weight = Initializer::Ones.init([32, 32, 3, 3], &device);
        downsample.conv.bias = Initializer::Zeros.init([32], &device);
        let output = downsample.forward(Tensor::ones([1, 32, 4, 4], &device));
        // Input pixels under each window: all nine at the top left, four at the bottom right. Padding at
        // the top or left would leave fewer at the top left.
        let counts: Vec<f32> = output.narrow(1, 0, 1).into_data().iter::<f32>().collect();
        assert_eq!(counts, [9.0, 6.0, 6.0, 4.0].map(|taps| taps * 32.0));
    }

    #[test]
    fn upsampling_repeats_pixels() {
        let device = Device::flex();
        let mut upsample = Upsample::new(1, &device);
        let centre = Tensor::<1, Int>::from_ints([0, 0, 0, 0, 1, 0, 0, 0, 0], &device);
        upsample.conv.weight = Param::from_tensor(centre.float().reshape([1, 1, 3, 3]));
        upsample.conv.bias = Initializer::Zeros.init([1], &device);
        let input = Tensor::<1, Int>::arange(0..4, &device).float().reshape([1, 1, 2, 2]);
        let output: Vec<f32> = upsample.forward(input).into_data().iter::<f32>().collect();
        #[rustfmt::skip]
        assert_eq!(output, [
            0.0, 0.0, 1.0, 1.0,
            0.0, 0.0, 1.0, 1.0,
            2.0, 2.0, 3.0, 3.0,
            2.0, 2.0, 3.0, 3.0,
        ]);
    }

    #[test]
    fn normalised_groups_have_mean_zero_and_deviation_one() {
        let device = Device::flex();
        let x = init::random([2, 64, 5, 7], Distribution::Normal(3.0, 0.01), &device);
        let y = GroupNorm::new(64, 32, &device).forward(x, None).reshape([2, 32, 70]);
        let off = y.clone().mean_dim(2).abs().max().into_scalar::<f32>();
        assert!(off < 1e-3, "mean {off}");
        // The variance 1e-4 is not large against the epsilon of 1e-6.
        let variance = y.square().mean().into_scalar::<f32>();
        assert!((variance - 0.99).abs() < 0.005, "variance {variance}");
    }
}
