//! Residual and attention blocks of encoder and decoder, with the published tensor names.
//!
//! Source: taming-transformers `modules/diffusionmodules/model.py`, as used by Chameleon (arXiv
//! 2405.09818). Tensors are `[batch, channels, height, width]`; blocks compute in the dtype of their input.

use burn::module::Module;
use burn::nn::{Dropout, DropoutConfig};
use burn::tensor::activation::softmax;
use burn::tensor::{DType, Device, Tensor};

use crate::config::BlockConfig;
use crate::layers::{Conv2d, GroupNorm};
use crate::ops::cast;

/// Two normalised 3x3 convolutions with a shortcut around them.
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
    /// A block from `in_channels` to `out_channels`; the shortcut is a 1x1 convolution where they differ.
    pub fn new(
        in_channels: usize,
        out_channels: usize,
        config: &BlockConfig,
        device: &Device,
    ) -> Self {
        Self {
            norm1: GroupNorm::of_block(in_channels, config, device),
            conv1: Conv2d::new(in_channels, out_channels, 3, device),
            norm2: GroupNorm::of_block(out_channels, config, device),
            dropout: DropoutConfig::new(config.dropout).init(),
            conv2: Conv2d::new(out_channels, out_channels, 3, device),
            nin_shortcut: (in_channels != out_channels)
                .then(|| Conv2d::new(in_channels, out_channels, 1, device)),
        }
    }

    /// The shortcut plus the residual branch; `condition` is that of [`GroupNorm::forward`].
    ///
    /// # Shapes
    /// - x: `[batch, in, height, width]`
    /// - condition: `[batch, embed, height, width]`
    /// - result: `[batch, out, height, width]`
    pub fn forward(&self, x: Tensor<4>, condition: Option<&Tensor<4>>) -> Tensor<4> {
        let hidden = self.conv1.forward(self.norm1.forward_swish(x.clone(), condition));
        let hidden = self.dropout.forward(self.norm2.forward_swish(hidden, condition));
        let hidden = self.conv2.forward(hidden);
        match &self.nin_shortcut {
            Some(shortcut) => shortcut.forward(x) + hidden,
            None => x + hidden,
        }
    }
}

/// Single-head self-attention over the positions of a feature map, with a shortcut around it.
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
    pub fn new(channels: usize, config: &BlockConfig, device: &Device) -> Self {
        let conv = || Conv2d::new(channels, channels, 1, device);
        Self {
            norm: GroupNorm::of_block(channels, config, device),
            q: conv(),
            k: conv(),
            v: conv(),
            proj_out: conv(),
        }
    }

    /// `x` plus the attention's output; `condition` is that of [`GroupNorm::forward`].
    ///
    /// # Shapes
    /// - x and result: `[batch, channels, height, width]`
    /// - condition: `[batch, embed, height, width]`
    pub fn forward(&self, x: Tensor<4>, condition: Option<&Tensor<4>>) -> Tensor<4> {
        let [batch, channels, height, width] = x.dims();
        let flat = |y: Tensor<4>| y.reshape([batch, channels, height * width]);
        let normed = self.norm.forward(x.clone(), condition);
        let query = flat(self.q.forward(normed.clone())).swap_dims(1, 2); // [batch, positions, channels]
        let key = flat(self.k.forward(normed.clone())); // [batch, channels, positions]
        let value = flat(self.v.forward(normed)).swap_dims(1, 2); // [batch, positions, channels]
        // Softmax in f32.
        let scores = cast(query.matmul(key), DType::F32) * (channels as f64).powf(-0.5);
        let weights = cast(softmax(scores, 2), value.dtype()); // [batch, positions, positions]
        let mixed = weights.matmul(value).swap_dims(1, 2); // [batch, channels, positions]
        x + self.proj_out.forward(mixed.reshape([batch, channels, height, width]))
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
    /// The blocks for `channels` channels, with attention where `config` asks for it.
    pub fn new(channels: usize, config: &BlockConfig, device: &Device) -> Self {
        Self {
            block_1: ResnetBlock::new(channels, channels, config, device),
            attn_1: config.attends_in_middle.then(|| AttnBlock::new(channels, config, device)),
            block_2: ResnetBlock::new(channels, channels, config, device),
        }
    }

    /// The output of the last block; `condition` is that of [`GroupNorm::forward`].
    ///
    /// # Shapes
    /// - x and result: `[batch, channels, height, width]`
    /// - condition: `[batch, embed, height, width]`
    pub fn forward(&self, x: Tensor<4>, condition: Option<&Tensor<4>>) -> Tensor<4> {
        let x = self.block_1.forward(x, condition);
        let x = match &self.attn_1 {
            Some(attention) => attention.forward(x, condition),
            None => x,
        };
        self.block_2.forward(x, condition)
    }
}
