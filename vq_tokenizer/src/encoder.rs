//! The encoder, from pixels to latents: levels of residual blocks, all but the last followed by a
//! downsampling.

use burn::module::Module;
use burn::tensor::{Device, Tensor};

use crate::blocks::{AttnBlock, Mid, ResnetBlock};
use crate::config::VqConfig;
use crate::layers::{Conv2d, Downsample, GroupNorm};

/// The convolutional encoder.
#[derive(Module, Debug)]
pub struct Encoder {
    conv_in: Conv2d,
    down: Vec<DownLevel>,
    mid: Mid,
    norm_out: GroupNorm,
    conv_out: Conv2d,
}

/// The blocks of one resolution; `attn` is empty or has one entry for each of `block`.
#[derive(Module, Debug)]
struct DownLevel {
    block: Vec<ResnetBlock>,
    attn: Vec<AttnBlock>,
    downsample: Option<Downsample>,
}

impl Encoder {
    /// A randomly initialised encoder.
    pub fn new(config: &VqConfig, device: &Device) -> Self {
        let levels = config.channel_multiplier.len();
        let mut width = config.base_channels;
        let down = (0..levels)
            .map(|level| {
                let input = std::mem::replace(&mut width, config.width(level));
                DownLevel::new(config, level, input, device)
            })
            .collect();
        Self {
            conv_in: Conv2d::new(config.in_channels, config.base_channels, 3, device),
            down,
            mid: Mid::new(width, config, device),
            norm_out: GroupNorm::new(width, config.norm_groups, device),
            conv_out: Conv2d::new(width, config.latent_channels, 3, device),
        }
    }

    /// The latents of pixels in `[-1, 1]`; `f` below is [`VqConfig::downsampling`].
    ///
    /// # Shapes
    /// - pixels: `[batch, in_channels, H, W]`
    /// - result: `[batch, latent_channels, H / f, W / f]`
    pub fn forward(&self, pixels: Tensor<4>) -> Tensor<4> {
        let mut x = self.conv_in.forward(pixels);
        for level in &self.down {
            x = level.forward(x);
        }
        let x = self.mid.forward(x);
        self.conv_out.forward(self.norm_out.forward_swish(x))
    }
}

#[cfg(test)]
impl Encoder {
    /// The weight whose gradient passes through the whole network.
    pub(crate) fn first_weight(&mut self) -> &mut burn::module::Param<Tensor<4>> {
        &mut self.conv_in.weight
    }
}

impl DownLevel {
    fn new(config: &VqConfig, level: usize, input: usize, device: &Device) -> Self {
        let width = config.width(level);
        let blocks = config.num_res_blocks;
        let block = (0..blocks)
            .map(|i| {
                let input = if i == 0 { input } else { width };
                ResnetBlock::new(input, width, config, device)
            })
            .collect();
        let attn = if config.attends(level) { blocks } else { 0 };
        let last = level + 1 == config.channel_multiplier.len();
        Self {
            block,
            attn: (0..attn).map(|_| AttnBlock::new(width, config, device)).collect(),
            downsample: (!last).then(|| Downsample::new(width, device)),
        }
    }

    fn forward(&self, mut x: Tensor<4>) -> Tensor<4> {
        for (i, block) in self.block.iter().enumerate() {
            x = block.forward(x);
            if let Some(attention) = self.attn.get(i) {
                x = attention.forward(x);
            }
        }
        match &self.downsample {
            Some(downsample) => downsample.forward(x),
            None => x,
        }
    }
}
