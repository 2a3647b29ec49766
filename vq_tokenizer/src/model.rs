//! The whole VQGAN generator: encoder, codebook and decoder.

use burn::module::Module;
use burn::tensor::{Device, Int, Tensor};

use crate::blocks::Conv2d;
use crate::config::VqConfig;
use crate::decoder::Decoder;
use crate::encoder::Encoder;
use crate::quantizer::{Quantized, VectorQuantizer};

/// Encoder, quantizer and decoder; field names are the published tensor names.
///
/// Computes in f32 always: in a narrower format the nearest code changes.
#[derive(Module, Debug)]
pub struct VqModel {
    /// Pixels to latents.
    pub encoder: Encoder,
    /// The codebook.
    pub quantize: VectorQuantizer,
    /// 1x1 convolution from the encoder to the codebook's vectors.
    pub quant_conv: Conv2d,
    /// 1x1 convolution from the codebook's vectors to the decoder.
    pub post_quant_conv: Conv2d,
    /// Latents to pixels.
    pub decoder: Decoder,
}

impl VqModel {
    pub(crate) fn new(config: &VqConfig, device: &Device) -> Self {
        let (latent, embed) = (config.latent_channels, config.embed_dim);
        Self {
            encoder: Encoder::new(config, device),
            quantize: VectorQuantizer::new(config.num_embeddings, embed, device),
            quant_conv: Conv2d::new(latent, embed, 1, device),
            post_quant_conv: Conv2d::new(embed, latent, 1, device),
            decoder: Decoder::new(config, device),
        }
    }

    /// The encoder's view of `pixels`: `[batch, 3, H, W]` in `[-1, 1]` to `[batch, embed, h, w]`.
    pub fn latents(&self, pixels: Tensor<4>) -> Tensor<4> {
        self.quant_conv.forward(self.encoder.forward(pixels))
    }

    /// The nearest codes: `[batch, embed, h, w]` to `[batch, h, w]`.
    pub fn codes(&self, latents: Tensor<4>) -> Tensor<3, Int> {
        self.quantize.codes(latents)
    }

    /// The picture of `codes`: `[batch, h, w]` to `[batch, 3, H, W]`, not clamped.
    ///
    /// Every code must be below `num_embeddings`; `VqTokenizer::decode` checks it.
    pub fn pixels(&self, codes: Tensor<3, Int>) -> Tensor<4> {
        self.reconstruct(self.quantize.lookup(codes))
    }

    /// The picture of quantized latents: `[batch, embed, h, w]` to `[batch, 3, H, W]`, not clamped.
    pub fn reconstruct(&self, quantized: Tensor<4>) -> Tensor<4> {
        self.decoder.forward(self.post_quant_conv.forward(quantized))
    }

    /// Encodes, quantizes with the straight-through gradient and decodes, for training.
    ///
    /// Returns the reconstruction `[batch, 3, H, W]`, the latents before quantization and the
    /// quantizer's output.
    pub fn forward(&self, pixels: Tensor<4>) -> (Tensor<4>, Tensor<4>, Quantized) {
        let latents = self.latents(pixels);
        let quantized = self.quantize.forward(latents.clone());
        (self.reconstruct(quantized.latents.clone()), latents, quantized)
    }
}
