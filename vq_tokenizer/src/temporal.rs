//! The temporal layers of Emu3's tokenizer of videos, as they act on still pictures.
//!
//! Source: `modeling_emu3.py` of transformers. There a picture is four equal frames after two of zeros, and of a
//! decoded clip the first frame counts. So each convolution over three or four frames and an area is one over the area:
//! see [`folded`](crate::folded), which computes their weights.

use burn::module::{Initializer, Module, Param};
use burn::tensor::activation::silu;
use burn::tensor::{Device, Tensor};

use crate::layers::Conv2d;

/// Convolutions that change the number of frames, and residual blocks that keep it.
#[derive(Module, Debug)]
pub struct TemporalLayers {
    conv: Vec<Conv2d>,
    block: Vec<TemporalBlock>,
}

/// Two 3x3 convolutions, each after its normalisation and swish, with a shortcut around them.
///
/// The statistics of both batch normalisations are fixed; the second is part of the first convolution.
#[derive(Module, Debug)]
struct TemporalBlock {
    norm: Scale,
    conv1: Conv2d,
    conv2: Conv2d,
}

/// A factor and a summand for each channel.
#[derive(Module, Debug)]
struct Scale {
    weight: Param<Tensor<1>>,
    bias: Param<Tensor<1>>,
}

impl TemporalLayers {
    /// Randomly initialised layers of the encoder: from one picture to an early and a late pair of frames, `2 channels`
    /// wide, and from both to one frame.
    pub fn of_encoder(channels: usize, blocks: usize, device: &Device) -> Self {
        let pairs = 2 * channels;
        Self::new([[channels, pairs], [pairs, channels]], blocks, device)
    }

    /// Randomly initialised layers of the decoder.
    pub fn of_decoder(channels: usize, blocks: usize, device: &Device) -> Self {
        Self::new([[channels; 2]; 2], blocks, device)
    }

    fn new(convs: [[usize; 2]; 2], blocks: usize, device: &Device) -> Self {
        let channels = convs[0][0];
        Self {
            conv: convs.map(|[input, output]| Conv2d::new(input, output, 3, device)).to_vec(),
            block: (0..blocks).map(|_| TemporalBlock::new(channels, device)).collect(),
        }
    }

    /// The encoder's order: convolutions, then blocks.
    ///
    /// # Shapes
    /// - x and result: `[batch, channels, height, width]`
    pub fn encode(&self, x: Tensor<4>) -> Tensor<4> {
        self.through_blocks(self.through_convs(x))
    }

    /// The decoder's order: blocks, then convolutions.
    ///
    /// # Shapes
    /// - x and result: `[batch, channels, height, width]`
    pub fn decode(&self, x: Tensor<4>) -> Tensor<4> {
        self.through_convs(self.through_blocks(x))
    }

    fn through_convs(&self, x: Tensor<4>) -> Tensor<4> {
        self.conv.iter().fold(x, |x, conv| silu(conv.forward(x)))
    }

    fn through_blocks(&self, x: Tensor<4>) -> Tensor<4> {
        self.block.iter().fold(x, |x, block| block.forward(x))
    }
}

impl TemporalBlock {
    fn new(channels: usize, device: &Device) -> Self {
        let conv = || Conv2d::new(channels, channels, 3, device);
        let weight = Initializer::Ones.init([channels], device);
        let bias = Initializer::Zeros.init([channels], device);
        Self { norm: Scale { weight, bias }, conv1: conv(), conv2: conv() }
    }

    fn forward(&self, x: Tensor<4>) -> Tensor<4> {
        let Scale { weight, bias } = &self.norm;
        let [weight, bias] = [weight, bias].map(|values| values.val().reshape([1, -1, 1, 1])); // [1, channels, 1, 1]
        let hidden = self.conv1.forward(silu(x.clone() * weight + bias));
        x + self.conv2.forward(silu(hidden))
    }
}
