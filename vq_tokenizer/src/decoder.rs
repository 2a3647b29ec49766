//! The decoder, from latents to pixels: mirrors the encoder, with one more residual block in each level.

use burn::module::Module;
use burn::tensor::{Device, Tensor};

use crate::blocks::{AttnBlock, Mid, ResnetBlock};
use crate::config::VqConfig;
use crate::layers::{Conv2d, GroupNorm, Upsample};

/// The convolutional decoder.
///
/// `up` is indexed by level like the encoder's `down` (0 is full resolution), so it is applied in reverse.
#[derive(Module, Debug)]
pub struct Decoder {
    conv_in: Conv2d,
    mid: Mid,
    up: Vec<UpLevel>,
    norm_out: GroupNorm,
    conv_out: Conv2d,
}

/// The blocks of one resolution; `attn` is empty or has one entry for each of `block`.
#[derive(Module, Debug)]
struct UpLevel {
    block: Vec<ResnetBlock>,
    attn: Vec<AttnBlock>,
    upsample: Option<Upsample>,
}

impl Decoder {
    /// A randomly initialised decoder.
    pub fn new(config: &VqConfig, device: &Device) -> Self {
        let last = config.channel_multiplier.len() - 1;
        let widest = config.width(last);
        let up = (0..=last)
            .map(|level| {
                let input = config.width((level + 1).min(last));
                UpLevel::new(config, level, input, device)
            })
            .collect();
        Self {
            conv_in: Conv2d::new(config.latent_channels, widest, 3, device),
            mid: Mid::new(widest, config, device),
            up,
            norm_out: GroupNorm::new(config.width(0), config.norm_groups, device),
            conv_out: Conv2d::new(config.width(0), config.out_channels, 3, device),
        }
    }

    /// The pixels of `latents`, about `[-1, 1]` but not clamped; `f` below is [`VqConfig::downsampling`].
    ///
    /// # Shapes
    /// - latents: `[batch, latent_channels, h, w]`
    /// - result: `[batch, out_channels, h f, w f]`
    pub fn forward(&self, latents: Tensor<4>) -> Tensor<4> {
        self.last_layer().forward(self.features(latents))
    }

    /// The last convolution.
    pub(crate) fn last_layer(&self) -> &Conv2d {
        &self.conv_out
    }

    /// The input of the last convolution.
    ///
    /// # Shapes
    /// - latents: `[batch, latent_channels, h, w]`
    /// - result: `[batch, width of level 0, h f, w f]`
    pub(crate) fn features(&self, latents: Tensor<4>) -> Tensor<4> {
        let mut x = self.mid.forward(self.conv_in.forward(latents));
        for level in self.up.iter().rev() {
            x = level.forward(x);
        }
        self.norm_out.forward_swish(x)
    }
}

#[cfg(test)]
impl Decoder {
    /// The weight whose gradient passes through the whole network.
    pub(crate) fn first_weight(&mut self) -> &mut burn::module::Param<Tensor<4>> {
        &mut self.conv_in.weight
    }
}

impl UpLevel {
    fn new(config: &VqConfig, level: usize, input: usize, device: &Device) -> Self {
        let width = config.width(level);
        let blocks = config.num_res_blocks + 1;
        let block = (0..blocks)
            .map(|i| {
                let input = if i == 0 { input } else { width };
                ResnetBlock::new(input, width, config, device)
            })
            .collect();
        let attn = if config.attends(level) { blocks } else { 0 };
        Self {
            block,
            attn: (0..attn).map(|_| AttnBlock::new(width, config, device)).collect(),
            upsample: (level > 0).then(|| Upsample::new(width, device)),
        }
    }

    fn forward(&self, mut x: Tensor<4>) -> Tensor<4> {
        for (i, block) in self.block.iter().enumerate() {
            x = block.forward(x);
            if let Some(attention) = self.attn.get(i) {
                x = attention.forward(x);
            }
        }
        match &self.upsample {
            Some(upsample) => upsample.forward(x),
            None => x,
        }
    }
}
