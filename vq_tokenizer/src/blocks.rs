//! The building blocks of encoder and decoder, with the published tensor names.
//!
//! Source: taming-transformers `modules/diffusionmodules/model.py`, as used by Chameleon (arXiv
//! 2405.09818). Tensors are `[batch, channels, height, width]` throughout.
//!
//! Every block computes in the number format of what it reads: in bfloat16 the convolutions round their
//! f32 weights to it, while normalisations and softmax work in f32 and round their result.

use burn::module::{Initializer, Module, Param};
use burn::nn::{Dropout, DropoutConfig};
use burn::tensor::activation::{silu, softmax};
use burn::tensor::module::{conv2d, interpolate};
use burn::tensor::ops::{ConvOptions, InterpolateMode, InterpolateOptions};
use burn::tensor::{DType, Device, Tensor};

use crate::config::VqConfig;
#[cfg(feature = "cpu")]
use crate::ops;

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
    /// A convolution that keeps the variance of its input: normal weights of variance `1 / fan_in`,
    /// no bias. (PyTorch's default shrinks the signal in every convolution outside a residual branch,
    /// until the constants of the biases drown it; training then starts an order of magnitude slower.)
    pub fn new(in_channels: usize, out_channels: usize, kernel: usize, device: &Device) -> Self {
        let std = 1.0 / ((in_channels * kernel * kernel) as f64).sqrt();
        let normal = Initializer::Normal { mean: 0.0, std };
        Self {
            weight: normal.init([out_channels, in_channels, kernel, kernel], device),
            bias: Initializer::Zeros.init([out_channels], device),
        }
    }

    /// Convolves with stride 1 and zeros around, so that height and width stay.
    pub fn forward(&self, x: Tensor<4>) -> Tensor<4> {
        #[cfg(feature = "cpu")]
        if ops::supports(&x) {
            return ops::conv2d(x, self.weight.val(), self.bias.val(), ops::Geometry::Same);
        }
        let pad = self.weight.dims()[2] / 2;
        self.apply(x, ConvOptions::new([1, 1], [pad, pad], [1, 1], 1))
    }

    fn apply(&self, x: Tensor<4>, options: ConvOptions<2>) -> Tensor<4> {
        let dtype = x.dtype();
        let (weight, bias) = (self.weight.val(), self.bias.val());
        conv2d(x, in_format(weight, dtype), Some(in_format(bias, dtype)), options)
    }
}

/// `x` in the number format `dtype`; its gradient comes back in that of `x`.
pub(crate) fn in_format<const D: usize>(x: Tensor<D>, dtype: DType) -> Tensor<D> {
    if x.dtype() == dtype { x } else { x.cast(dtype) }
}

/// Group normalisation, epsilon 1e-6, with weight and bias per channel.
#[derive(Module, Debug)]
pub struct GroupNorm {
    /// `[channels]`.
    pub weight: Param<Tensor<1>>,
    /// `[channels]`.
    pub bias: Param<Tensor<1>>,
    groups: usize,
}

impl GroupNorm {
    /// The identity scale for `channels` channels, a multiple of `groups`.
    pub fn new(channels: usize, groups: usize, device: &Device) -> Self {
        Self {
            groups,
            weight: Initializer::Ones.init([channels], device),
            bias: Initializer::Zeros.init([channels], device),
        }
    }

    /// `(x - mean) / sqrt(variance + eps) * weight + bias`, moments over each group of channels.
    pub fn forward(&self, x: Tensor<4>) -> Tensor<4> {
        #[cfg(feature = "cpu")]
        if ops::supports(&x) {
            return self.fused(x, false);
        }
        let dtype = x.dtype();
        in_format(self.composed(x), dtype)
    }

    #[cfg(feature = "cpu")]
    fn fused(&self, x: Tensor<4>, swish: bool) -> Tensor<4> {
        let (weight, bias) = (self.weight.val(), self.bias.val());
        ops::group_norm(x, weight, bias, self.groups, NORM_EPSILON, swish)
    }

    /// In f32, whatever `x` is in.
    fn composed(&self, x: Tensor<4>) -> Tensor<4> {
        let x = in_format(x, DType::F32);
        let groups = self.groups;
        let [batch, channels, height, width] = x.dims();
        let x = x.reshape([batch, groups, channels / groups * height * width]);
        let centred = x.clone() - x.mean_dim(2); // [batch, groups, values]
        let variance = centred.clone().square().mean_dim(2); // [batch, groups, 1]
        let scale = (variance + NORM_EPSILON).sqrt().recip();
        // Scale per channel first: one pass over the large tensor instead of two.
        let scale = scale.reshape([batch, groups, 1, 1])
            * self.weight.val().reshape([1, groups, channels / groups, 1]);
        let centred = centred.reshape([batch, channels, height * width]);
        let y = centred * scale.reshape([batch, channels, 1])
            + self.bias.val().reshape([1, channels, 1]);
        y.reshape([batch, channels, height, width])
    }

    /// [`GroupNorm::forward`], then swish: `y * sigmoid(y)`.
    pub fn forward_swish(&self, x: Tensor<4>) -> Tensor<4> {
        #[cfg(feature = "cpu")]
        if ops::supports(&x) {
            return self.fused(x, true);
        }
        let dtype = x.dtype();
        in_format(silu(self.composed(x)), dtype)
    }
}

/// Two normalised 3x3 convolutions around a shortcut.
#[derive(Module, Debug)]
pub struct ResnetBlock {
    norm1: GroupNorm,
    conv1: Conv2d,
    norm2: GroupNorm,
    dropout: Dropout,
    conv2: Conv2d,
    nin_shortcut: Option<Conv2d>,
}

impl ResnetBlock {
    /// A block from `in_channels` to `out_channels`; the shortcut is a 1x1 convolution if they differ.
    pub fn new(
        in_channels: usize,
        out_channels: usize,
        config: &VqConfig,
        device: &Device,
    ) -> Self {
        let groups = config.norm_groups;
        Self {
            norm1: GroupNorm::new(in_channels, groups, device),
            conv1: Conv2d::new(in_channels, out_channels, 3, device),
            norm2: GroupNorm::new(out_channels, groups, device),
            dropout: DropoutConfig::new(config.dropout).init(),
            conv2: Conv2d::new(out_channels, out_channels, 3, device),
            nin_shortcut: (in_channels != out_channels)
                .then(|| Conv2d::new(in_channels, out_channels, 1, device)),
        }
    }

    /// `[batch, in, height, width]` to `[batch, out, height, width]`.
    pub fn forward(&self, x: Tensor<4>) -> Tensor<4> {
        let hidden = self.conv1.forward(self.norm1.forward_swish(x.clone()));
        let hidden = self.dropout.forward(self.norm2.forward_swish(hidden));
        let hidden = self.conv2.forward(hidden);
        match &self.nin_shortcut {
            Some(shortcut) => shortcut.forward(x) + hidden,
            None => x + hidden,
        }
    }
}

/// Single-head self-attention over the positions of a feature map, around a shortcut.
#[derive(Module, Debug)]
pub struct AttnBlock {
    norm: GroupNorm,
    q: Conv2d,
    k: Conv2d,
    v: Conv2d,
    proj_out: Conv2d,
}

impl AttnBlock {
    /// Attention over `channels` channels.
    pub fn new(channels: usize, config: &VqConfig, device: &Device) -> Self {
        let conv = || Conv2d::new(channels, channels, 1, device);
        Self {
            norm: GroupNorm::new(channels, config.norm_groups, device),
            q: conv(),
            k: conv(),
            v: conv(),
            proj_out: conv(),
        }
    }

    /// Same shape out as in.
    pub fn forward(&self, x: Tensor<4>) -> Tensor<4> {
        let [batch, channels, height, width] = x.dims();
        let flat = |y: Tensor<4>| y.reshape([batch, channels, height * width]);
        let normed = self.norm.forward(x.clone());
        let query = flat(self.q.forward(normed.clone())).swap_dims(1, 2); // [batch, positions, channels]
        let key = flat(self.k.forward(normed.clone())); // [batch, channels, positions]
        let value = flat(self.v.forward(normed)).swap_dims(1, 2); // [batch, positions, channels]
        // Softmax in f32.
        let scores = in_format(query.matmul(key), DType::F32) * (channels as f64).powf(-0.5);
        let weights = in_format(softmax(scores, 2), value.dtype()); // [batch, positions, positions]
        let mixed = weights.matmul(value).swap_dims(1, 2); // [batch, channels, positions]
        x + self.proj_out.forward(mixed.reshape([batch, channels, height, width]))
    }
}

/// Halves height and width with a strided 3x3 convolution.
#[derive(Module, Debug)]
pub struct Downsample {
    conv: Conv2d,
}

impl Downsample {
    /// A halving of `channels` channels.
    pub fn new(channels: usize, device: &Device) -> Self {
        Self { conv: Conv2d::new(channels, channels, 3, device) }
    }

    /// `[batch, channels, height, width]` to `[batch, channels, height / 2, width / 2]`.
    ///
    /// One row of zeros below and one column at the right, none above or at the left.
    pub fn forward(&self, x: Tensor<4>) -> Tensor<4> {
        #[cfg(feature = "cpu")]
        if ops::supports(&x) {
            let (weight, bias) = (self.conv.weight.val(), self.conv.bias.val());
            return ops::conv2d(x, weight, bias, ops::Geometry::Down);
        }
        let options = ConvOptions::new_with_padding([2, 2], [(0, 1), (0, 1)], [1, 1], 1);
        self.conv.apply(x, options)
    }
}

/// Doubles height and width by repeating pixels, then convolves.
#[derive(Module, Debug)]
pub struct Upsample {
    conv: Conv2d,
}

impl Upsample {
    /// A doubling of `channels` channels.
    pub fn new(channels: usize, device: &Device) -> Self {
        Self { conv: Conv2d::new(channels, channels, 3, device) }
    }

    /// `[batch, channels, height, width]` to `[batch, channels, 2 height, 2 width]`.
    pub fn forward(&self, x: Tensor<4>) -> Tensor<4> {
        #[cfg(feature = "cpu")]
        if ops::supports(&x) {
            let (weight, bias) = (self.conv.weight.val(), self.conv.bias.val());
            return ops::conv2d(x, weight, bias, ops::Geometry::Up);
        }
        let [_, _, height, width] = x.dims();
        let nearest = InterpolateOptions::new(InterpolateMode::Nearest);
        self.conv.forward(interpolate(x, nearest.with_output_size([2 * height, 2 * width])))
    }
}

/// The two residual blocks at the lowest resolution, with attention between them.
#[derive(Module, Debug)]
pub struct Mid {
    block_1: ResnetBlock,
    attn_1: Option<AttnBlock>,
    block_2: ResnetBlock,
}

impl Mid {
    /// A middle of `channels` channels, with or without attention.
    pub fn new(channels: usize, config: &VqConfig, device: &Device) -> Self {
        Self {
            block_1: ResnetBlock::new(channels, channels, config, device),
            attn_1: config.attends_in_middle().then(|| AttnBlock::new(channels, config, device)),
            block_2: ResnetBlock::new(channels, channels, config, device),
        }
    }

    /// Same shape out as in.
    pub fn forward(&self, x: Tensor<4>) -> Tensor<4> {
        let x = self.block_1.forward(x);
        let x = match &self.attn_1 {
            Some(attention) => attention.forward(x),
            None => x,
        };
        self.block_2.forward(x)
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
        // Positions of the input under each window: all nine at the top left, four at the bottom
        // right. Padding at the top or left would give fewer at the top left.
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
        let x = Tensor::<4>::random([2, 64, 5, 7], Distribution::Normal(3.0, 0.01), &device);
        let y = GroupNorm::new(64, 32, &device).forward(x).reshape([2, 32, 70]);
        let off = y.clone().mean_dim(2).abs().max().into_scalar::<f32>();
        assert!(off < 1e-3, "mean {off}");
        // The variance 1e-4 is not large against the epsilon of 1e-6.
        let variance = y.square().mean().into_scalar::<f32>();
        assert!((variance - 0.99).abs() < 0.005, "variance {variance}");
    }
}
