//! The whole VQGAN generator: encoder, codebook and decoder.

use burn::module::Module;
use burn::tensor::{DType, Device, Int, Tensor};

use crate::config::VqConfig;
use crate::decoder::Decoder;
use crate::encoder::Encoder;
use crate::layers::Conv2d;
use crate::ops::cast;
use crate::quantizer::Quantizer;

/// Encoder, quantizer and decoder; field names are the published tensor names.
///
/// Computes in f32: a narrower format changes codes. In training, encoder and decoder may compute in
/// bfloat16, see [`VqModel::in_mixed_precision`].
#[derive(Module, Debug)]
pub struct VqModel {
    /// Pixels to latents.
    pub encoder: Encoder,
    /// The codebook.
    pub quantize: Quantizer,
    /// 1x1 convolution from the encoder to the codebook's vectors.
    pub quant_conv: Conv2d,
    /// 1x1 convolution from the codebook's vectors to the decoder.
    pub post_quant_conv: Conv2d,
    /// Latents to pixels; `None` without its weights, as in Hugging Face's Chameleon directories.
    pub decoder: Option<Decoder>,
    mixed: bool,
}

impl VqConfig {
    /// A randomly initialised model: convolutions that keep the variance, uniform codebook.
    ///
    /// Random numbers come from the device: call `device.seed` first for a repeatable model.
    ///
    /// # Panics
    /// On a configuration that [`VqConfig::validate`] refuses.
    pub fn init(&self, device: &Device) -> VqModel {
        VqModel::new(self, device)
    }
}

impl VqModel {
    fn new(config: &VqConfig, device: &Device) -> Self {
        let (latent, embed) = (config.latent_channels, config.embed_dim);
        Self {
            encoder: Encoder::new(config, device),
            quantize: Quantizer::new(&config.quantizer, config.num_embeddings, embed, device),
            quant_conv: Conv2d::new(latent, embed, 1, device),
            post_quant_conv: Conv2d::new(embed, latent, 1, device),
            decoder: Some(Decoder::new(config, device)),
            mixed: false,
        }
    }

    /// The same model with encoder, decoder and both 1x1 convolutions computing in bfloat16.
    ///
    /// Weights, gradients, statistics of normalisations, the softmax of attention, latents, quantizer and
    /// pixels stay f32.
    #[must_use]
    pub fn in_mixed_precision(self) -> Self {
        Self { mixed: true, ..self }
    }

    /// The same model, computing in f32 throughout.
    #[must_use]
    pub fn in_full_precision(self) -> Self {
        Self { mixed: false, ..self }
    }

    /// `x` in the number format of the networks.
    fn for_networks(&self, x: Tensor<4>) -> Tensor<4> {
        if self.mixed { cast(x, DType::BF16) } else { x }
    }

    /// The latents of `pixels`, which are in `[-1, 1]`.
    ///
    /// # Shapes
    /// `[batch, 3, H, W]` to `[batch, embed, h, w]`
    pub fn latents(&self, pixels: Tensor<4>) -> Tensor<4> {
        let pixels = self.for_networks(pixels);
        cast(self.quant_conv.forward(self.encoder.forward(pixels)), DType::F32)
    }

    /// The codes of `latents`.
    ///
    /// # Shapes
    /// `[batch, embed, h, w]` to `[batch, h, w]`
    pub fn codes(&self, latents: Tensor<4>) -> Tensor<3, Int> {
        self.quantize.codes(latents)
    }

    /// The image of `codes`, not clamped; every code must be below `num_embeddings`.
    ///
    /// `VqTokenizer::decode` checks both conditions.
    ///
    /// # Shapes
    /// `[batch, h, w]` to `[batch, 3, H, W]`
    ///
    /// # Panics
    /// Without a decoder.
    pub fn pixels(&self, codes: Tensor<3, Int>) -> Tensor<4> {
        self.reconstruct(self.quantize.lookup(codes))
    }

    /// The image of quantized latents, not clamped.
    ///
    /// # Shapes
    /// `[batch, embed, h, w]` to `[batch, 3, H, W]`
    ///
    /// # Panics
    /// Without a decoder.
    pub fn reconstruct(&self, quantized: Tensor<4>) -> Tensor<4> {
        self.last_layer(self.features(quantized))
    }

    /// The input of the decoder's last layer for quantized latents.
    pub(crate) fn features(&self, quantized: Tensor<4>) -> Tensor<4> {
        let quantized = self.for_networks(quantized);
        let latents = self.post_quant_conv.forward(quantized.clone());
        self.whole_decoder().features(latents, quantized)
    }

    /// The pixels, in f32, for the result of [`Self::features`].
    pub(crate) fn last_layer(&self, features: Tensor<4>) -> Tensor<4> {
        cast(self.whole_decoder().last_layer().forward(features), DType::F32)
    }

    pub(crate) fn whole_decoder(&self) -> &Decoder {
        self.decoder.as_ref().expect("callers have checked that there is a decoder")
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;
    use crate::init;
    use crate::train::VqObjective;
    use burn::module::Param;
    use burn::tensor::{Distribution, TensorData};

    fn config() -> VqConfig {
        VqConfig {
            base_channels: 32,
            channel_multiplier: vec![1, 2],
            num_res_blocks: 1,
            attn_resolutions: Some(vec![4]),
            resolution: 8,
            latent_channels: 4,
            embed_dim: 3,
            num_embeddings: 6,
            ..VqConfig::default()
        }
    }

    fn noise(shape: [usize; 4], device: &Device) -> Tensor<4> {
        init::random(shape, Distribution::Uniform(-1.0, 1.0), device)
    }

    #[test]
    fn names_are_those_of_the_published_checkpoints() {
        let tensors = tensor_files::shapes(&config().init(&Device::flex()));
        for name in [
            "encoder.conv_in.weight",
            "encoder.down.0.downsample.conv.bias",
            "encoder.down.1.block.0.nin_shortcut.weight",
            "encoder.down.1.attn.0.proj_out.weight",
            "encoder.mid.attn_1.norm.weight",
            "quantize.embedding.weight",
            "quant_conv.weight",
            "post_quant_conv.bias",
            "decoder.mid.block_2.conv2.weight",
            "decoder.up.1.block.1.norm1.bias",
            "decoder.up.1.upsample.conv.weight",
            "decoder.norm_out.weight",
        ] {
            assert!(tensors.contains_key(name), "{name} is missing");
        }
        assert!(!tensors.contains_key("encoder.down.1.downsample.conv.bias"));
        assert_eq!(tensors["encoder.conv_in.weight"], [32, 3, 3, 3]);
    }

    #[test]
    fn images_of_any_multiple_of_the_factor_pass() {
        let device = Device::flex();
        let model = config().init(&device);
        let latents = model.latents(noise([2, 3, 6, 10], &device));
        assert_eq!(latents.dims(), [2, 3, 3, 5]);
        let codes = model.codes(latents);
        assert_eq!(codes.dims(), [2, 3, 5]);
        assert_eq!(model.pixels(codes).dims(), [2, 3, 6, 10]);
    }

    #[test]
    fn the_release_has_the_published_number_of_parameters() {
        // Counted on the released model: encoder, both 1x1 convolutions and codebook, decoder.
        let config = VqConfig { num_embeddings: 8192, ..VqConfig::default() };
        let model = config.init(&Device::flex());
        assert_eq!(model.encoder.num_params(), 27_194_880);
        assert_eq!(model.decoder.as_ref().unwrap().num_params(), 39_294_851);
        assert_eq!(model.num_params(), 29_423_616 + 39_294_851);
    }

    /// Gradients of the whole training loss, at several entries of several parameters.
    ///
    /// The commitment and reconstruction terms are smooth as long as no code changes; the straight
    /// through gradient is not a derivative, so the decoder alone is differentiated numerically, and
    /// the encoder through the commitment term.
    #[test]
    fn gradients_equal_finite_differences() {
        let device = Device::flex().autodiff();
        let model = config().init(&device);
        let pixels = noise([1, 3, 8, 8], &device);
        let reconstruction = |model: &VqModel| {
            let codes = model.codes(model.latents(pixels.clone()));
            (model.pixels(codes) - pixels.clone()).square().mean()
        };
        let commitment =
            |model: &VqModel| model.quantize.forward(model.latents(pixels.clone())).commitment_loss;
        type Pick = fn(&mut VqModel) -> &mut Param<Tensor<4>>;
        let decoder: [Pick; 2] =
            [|m| &mut m.post_quant_conv.weight, |m| m.decoder.as_mut().unwrap().first_weight()];
        let encoder: [Pick; 2] = [|m| &mut m.quant_conv.weight, |m| m.encoder.first_weight()];
        for pick in decoder {
            check(&model, pick, &reconstruction);
        }
        for pick in encoder {
            check(&model, pick, &commitment);
        }
    }

    fn check(
        model: &VqModel,
        pick: fn(&mut VqModel) -> &mut Param<Tensor<4>>,
        loss: &dyn Fn(&VqModel) -> Tensor<1>,
    ) {
        const STEP: f32 = 2e-3;
        let mut model = model.clone();
        let gradients = loss(&model).backward();
        let weight = pick(&mut model).val();
        let gradient = weight.grad(&gradients).unwrap().into_data().try_to_vec::<f32>().unwrap();
        let values = weight.to_data().try_to_vec::<f32>().unwrap();
        let largest = gradient.iter().fold(0.0f32, |a, b| a.max(b.abs()));
        for at in [0, values.len() / 2, values.len() - 1] {
            let moved = |by: f32| {
                let mut values = values.clone();
                values[at] += by;
                let data = TensorData::new(values, weight.dims());
                let mut model = model.clone();
                *pick(&mut model) = Param::from_tensor(Tensor::from_data(data, &weight.device()));
                loss(&model).into_scalar::<f32>()
            };
            let slope = (moved(STEP) - moved(-STEP)) / (2.0 * STEP);
            let difference = (slope - gradient[at]).abs();
            // f32 losses near 1 leave about 1e-4 of noise in a difference quotient of this step.
            assert!(
                difference < 0.02 * largest + 2e-4,
                "entry {at}: {slope} measured, {} computed, largest {largest}",
                gradient[at]
            );
        }
    }

    #[test]
    fn a_step_down_the_gradient_lowers_the_loss() {
        let device = Device::flex().autodiff();
        let model = config().init(&device);
        let pixels = noise([2, 3, 8, 8], &device);
        let objective = VqObjective::default();
        let loss = objective.loss(&model, pixels.clone());
        let before = loss.total.clone().into_scalar::<f32>();
        let gradients = loss.total.backward();
        let mut model = model;
        let weight = model.decoder.as_mut().unwrap().first_weight();
        let step = weight.val().grad(&gradients).unwrap() * 0.01;
        *weight = Param::from_tensor((weight.val() - Tensor::from_inner(step)).detach());
        let after = objective.loss(&model, pixels).total.into_scalar::<f32>();
        assert!(after < before, "{before} to {after}");
    }
}
