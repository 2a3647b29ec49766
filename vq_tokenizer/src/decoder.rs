//! The decoder, from latents to pixels: mirrors the encoder, with one more residual block in each level.

use burn::module::Module;
use burn::tensor::{Device, Tensor};

use crate::blocks::{AttnBlock, Mid, ResnetBlock};
use crate::config::{BlockConfig, VqConfig};
use crate::layers::{Conv2d, GroupNorm, Upsample};
use crate::ops::doubled;
use crate::temporal::TemporalLayers;

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
    /// Emu3's, whose normalisations the vectors of the codes condition.
    time: Option<TemporalLayers>,
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
        let blocks = config.blocks(config.is_temporal().then_some(config.embed_dim));
        let last = config.channel_multiplier.len() - 1;
        let widest = config.width(last);
        let up = (0..=last)
            .map(|level| {
                let input = config.width((level + 1).min(last));
                UpLevel::new(config, &blocks, [level, input], device)
            })
            .collect();
        Self {
            conv_in: Conv2d::new(config.latent_channels, widest, 3, device),
            mid: Mid::new(widest, &blocks, device),
            up,
            norm_out: GroupNorm::of_block(config.width(0), &blocks, device),
            conv_out: Conv2d::new(config.width(0), config.out_channels, 3, device),
            time: config.is_temporal().then(|| {
                TemporalLayers::of_decoder(config.latent_channels, config.num_res_blocks, device)
            }),
        }
    }

    /// The last convolution.
    pub(crate) fn last_layer(&self) -> &Conv2d {
        &self.conv_out
    }

    /// The input of the last convolution for `latents`, which are made of the codes' vectors `quantized`; `f` below is
    /// [`VqConfig::downsampling`].
    ///
    /// # Shapes
    /// - latents: `[batch, latent_channels, h, w]`
    /// - quantized: `[batch, embed_dim, h, w]`
    /// - result: `[batch, width of level 0, h f, w f]`
    pub(crate) fn features(&self, latents: Tensor<4>, quantized: Tensor<4>) -> Tensor<4> {
        let (latents, mut condition) = match &self.time {
            Some(time) => {
                let batch = latents.dims()[0];
                // Both go through the same layers, as in the reference.
                let both = time.decode(Tensor::cat(vec![latents, quantized], 0));
                (both.clone().narrow(0, 0, batch), Some(both.narrow(0, batch, batch)))
            }
            None => (latents, None),
        };
        let mut x = self.mid.forward(self.conv_in.forward(latents), condition.as_ref());
        for level in self.up.iter().rev() {
            x = level.forward(x, condition.as_ref());
            condition = condition.map(|z| if level.upsample.is_some() { doubled(z) } else { z });
        }
        self.norm_out.forward_swish(x, condition.as_ref())
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
    fn new(
        config: &VqConfig,
        blocks: &BlockConfig,
        [level, input]: [usize; 2],
        device: &Device,
    ) -> Self {
        let width = config.width(level);
        let num_blocks = config.num_res_blocks + 1;
        let block = (0..num_blocks)
            .map(|i| {
                let input = if i == 0 { input } else { width };
                ResnetBlock::new(input, width, blocks, device)
            })
            .collect();
        let attn = if config.attends(level) { num_blocks } else { 0 };
        Self {
            block,
            attn: (0..attn).map(|_| AttnBlock::new(width, blocks, device)).collect(),
            upsample: (level > 0).then(|| Upsample::new(width, device)),
        }
    }

    fn forward(&self, mut x: Tensor<4>, condition: Option<&Tensor<4>>) -> Tensor<4> {
        for (i, block) in self.block.iter().enumerate() {
            x = block.forward(x, condition);
            if let Some(attention) = self.attn.get(i) {
                x = attention.forward(x, condition);
            }
        }
        match &self.upsample {
            Some(upsample) => upsample.forward(x),
            None => x,
        }
    }
}
