//! The encoder, from pixels to latents: levels of residual blocks, all but the last followed by a
//! downsampling.

use burn::module::Module;
use burn::tensor::{Device, Tensor};

use crate::blocks::{AttnBlock, Mid, ResnetBlock};
use crate::config::{BlockConfig, VqConfig};
use crate::layers::{Conv2d, Downsample, GroupNorm};
use crate::temporal::TemporalLayers;

/// The convolutional encoder.
#[derive(Module, Debug)]
pub struct Encoder {
    conv_in: Conv2d,
    down: Vec<DownLevel>,
    mid: Mid,
    norm_out: GroupNorm,
    conv_out: Conv2d,
    /// Emu3's.
    time: Option<TemporalLayers>,
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
        let blocks = config.blocks(None);
        let mut width = config.base_channels;
        let down = (0..levels)
            .map(|level| {
                let input = std::mem::replace(&mut width, config.width(level));
                DownLevel::new(config, &blocks, [level, input], device)
            })
            .collect();
        Self {
            conv_in: Conv2d::new(config.in_channels, config.base_channels, 3, device),
            down,
            mid: Mid::new(width, &blocks, device),
            norm_out: GroupNorm::new(width, config.norm_groups, device),
            conv_out: Conv2d::new(width, config.latent_channels, 3, device),
            time: config.is_temporal().then(|| {
                TemporalLayers::of_encoder(config.latent_channels, config.num_res_blocks, device)
            }),
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
        let x = self.mid.forward(x, None);
        let x = self.conv_out.forward(self.norm_out.forward_swish(x, None));
        match &self.time {
            Some(time) => time.encode(x),
            None => x,
        }
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
    fn new(
        config: &VqConfig,
        blocks: &BlockConfig,
        [level, input]: [usize; 2],
        device: &Device,
    ) -> Self {
        let width = config.width(level);
        let num_blocks = config.num_res_blocks;
        let block = (0..num_blocks)
            .map(|i| {
                let input = if i == 0 { input } else { width };
                ResnetBlock::new(input, width, blocks, device)
            })
            .collect();
        let attn = if config.attends(level) { num_blocks } else { 0 };
        let last = level + 1 == config.channel_multiplier.len();
        Self {
            block,
            attn: (0..attn).map(|_| AttnBlock::new(width, blocks, device)).collect(),
            downsample: (!last).then(|| Downsample::new(width, device)),
        }
    }

    fn forward(&self, mut x: Tensor<4>) -> Tensor<4> {
        for (i, block) in self.block.iter().enumerate() {
            x = block.forward(x, None);
            if let Some(attention) = self.attn.get(i) {
                x = attention.forward(x, None);
            }
        }
        match &self.downsample {
            Some(downsample) => downsample.forward(x),
            None => x,
        }
    }
}
