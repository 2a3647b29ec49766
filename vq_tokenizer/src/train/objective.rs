//! The training loss of a VQ tokenizer: reconstruction, codebook, commitment and auxiliary terms.

use burn::tensor::{Int, Tensor};

use super::discriminator::Discriminator;
use super::loss::{VqLossConfig, squared_error};
use super::lpips::Lpips;
use super::semantic::SemanticHead;
use crate::model::VqModel;

/// The largest adaptive weight of the adversarial loss.
const MAX_ADAPTIVE_WEIGHT: f64 = 1e4;

/// Losses that other networks compute from the tokenizer's output.
#[derive(Clone, Copy, Debug, Default)]
pub struct AuxiliaryLosses<'a> {
    /// A discriminator, the weight of the adversarial loss and whether that weight is adaptive.
    pub discriminator: Option<(&'a Discriminator, f64, bool)>,
    /// A perceptual distance and its weight.
    pub perceptual: Option<(&'a Lpips, f64)>,
    /// A semantic head, its targets (`[batch, words]`, 1 or 0) and its weight.
    pub semantic: Option<(&'a SemanticHead, &'a Tensor<2>, f64)>,
}

/// The loss of one batch, with what the training loop logs and maintains the codebook with.
#[derive(Debug)]
pub struct VqLoss {
    /// `[1]`: the weighted sum, to differentiate.
    pub total: Tensor<1>,
    /// `[1]`: the mean squared error of pixels in `[-1, 1]`, detached; PSNR is `10 log10(4 / it)`.
    pub squared_error: Tensor<1>,
    /// Every other term by name, `[1]`, unweighted, detached.
    pub terms: Vec<(&'static str, Tensor<1>)>,
    /// `[batch, h, w]`: the codes.
    pub codes: Tensor<3, Int>,
    /// `[batch, embed, h, w]`: the latents before quantization, detached.
    pub latents: Tensor<4>,
    /// `[batch, 3, H, W]`: the reconstructions, detached.
    pub output: Tensor<4>,
}

/// The training objective of a VQ tokenizer.
#[derive(Clone, Debug, Default)]
pub struct VqObjective {
    /// The weights of the terms.
    pub config: VqLossConfig,
}

impl VqObjective {
    /// The loss of `model` on pixels in `[-1, 1]`.
    ///
    /// # Shapes
    /// - pixels: `[batch, 3, H, W]`
    ///
    /// # Panics
    /// Without a decoder.
    pub fn loss(&self, model: &VqModel, pixels: Tensor<4>) -> VqLoss {
        self.loss_with(model, pixels, AuxiliaryLosses::default())
    }

    /// [`Self::loss`] plus auxiliary losses.
    ///
    /// # Shapes
    /// - pixels: `[batch, 3, H, W]`
    ///
    /// # Panics
    /// Without a decoder.
    pub fn loss_with(
        &self,
        model: &VqModel,
        pixels: Tensor<4>,
        auxiliary: AuxiliaryLosses<'_>,
    ) -> VqLoss {
        let latents = model.latents(pixels.clone());
        let quantized = model.quantize.forward(latents.clone());
        let features = model.features(quantized.latents.clone());
        let output = model.last_layer(features.clone());
        let pixel_loss = |output: Tensor<4>| {
            let mut sum = self.config.reconstruction(output.clone(), pixels.clone());
            if let Some((lpips, weight)) = auxiliary.perceptual {
                sum = sum + lpips.distance(output, pixels.clone()) * weight;
            }
            sum
        };
        let mut terms = vec![("commitment", quantized.commitment_loss.clone().detach())];
        let mut total = pixel_loss(output.clone())
            + quantized.codebook_loss * self.config.codebook
            + quantized.commitment_loss * self.config.commitment;
        let mut add = |name, loss: Tensor<1>, weight: f64| {
            terms.push((name, loss.clone().detach()));
            total = total.clone() + loss * weight;
        };
        if self.config.entropy > 0.0 {
            add("entropy", quantized.entropy_loss, self.config.entropy);
        }
        if let Some((discriminator, weight, adaptive)) = auxiliary.discriminator {
            let ratio = match adaptive {
                true => adaptive_weight(model, features, discriminator, &pixel_loss),
                false => 1.0,
            };
            add("complaint", discriminator.generator_loss(output.clone()), weight * ratio);
        }
        if let Some((head, present, weight)) = auxiliary.semantic {
            add("semantic", head.loss(quantized.latents, present.clone()), weight);
        }
        VqLoss {
            total,
            squared_error: squared_error(&output, &pixels),
            terms,
            codes: quantized.codes,
            latents: latents.detach(),
            output: output.detach(),
        }
    }

    /// The loss of the autoencoder alone, without quantization: for the first steps, so that the codebook is
    /// then initialised from trained latents.
    ///
    /// # Shapes
    /// - pixels: `[batch, 3, H, W]`
    ///
    /// # Panics
    /// Without a decoder.
    pub fn autoencoder_loss(&self, model: &VqModel, pixels: Tensor<4>) -> VqLoss {
        let latents = model.latents(pixels.clone());
        let output = model.reconstruct(latents.clone());
        let total = self.config.reconstruction(output.clone(), pixels.clone());
        let latents = latents.detach();
        VqLoss {
            total,
            squared_error: squared_error(&output, &pixels),
            terms: Vec::new(),
            codes: model.codes(latents.clone()),
            latents,
            output: output.detach(),
        }
    }
}

/// The ratio of the gradient norms of pixel losses and adversarial loss at the weights of the decoder's last
/// layer, whose input `features` is held fixed.
///
/// Source: `calculate_adaptive_weight` of taming-transformers' `VQLPIPSWithDiscriminator`.
fn adaptive_weight(
    model: &VqModel,
    features: Tensor<4>,
    discriminator: &Discriminator,
    pixel_loss: &dyn Fn(Tensor<4>) -> Tensor<1>,
) -> f64 {
    let layer = model.whole_decoder().last_layer();
    let output = || model.last_layer(features.clone().detach());
    let norm = |loss: Tensor<1>| {
        let gradient = layer.weight.val().grad(&loss.backward());
        gradient.map_or(0.0, |g| f64::from(g.square().sum().into_scalar::<f32>()).sqrt())
    };
    let (pixels, adversarial) =
        (norm(pixel_loss(output())), norm(discriminator.generator_loss(output())));
    bounded_ratio(pixels, adversarial)
}

/// `pixels / adversarial`, at most [`MAX_ADAPTIVE_WEIGHT`].
fn bounded_ratio(pixels: f64, adversarial: f64) -> f64 {
    (pixels / (adversarial + 1e-4)).clamp(0.0, MAX_ADAPTIVE_WEIGHT)
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;
    use crate::train::{AdversarialBatch, AdversarialConfig, Lecam};
    use crate::{VqConfig, init};
    use burn::module::{Module, ModuleVisitor, Param};
    use burn::tensor::{DType, Device, Distribution, Gradients};

    /// Gradients of all parameters in visiting order; each must be in f32.
    struct Values<'a>(&'a Gradients, Vec<f32>);

    impl ModuleVisitor for Values<'_> {
        fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
            if let Some(gradient) = param.val().grad(self.0) {
                assert_eq!(gradient.dtype(), DType::F32, "the optimizer sees f32");
                self.1.extend(gradient.into_data().iter::<f32>());
            }
        }
    }

    /// Value and gradients of `loss` for `module`.
    fn differentiated<M: Module>(module: &M, loss: Tensor<1>) -> (f32, Vec<f32>) {
        assert_eq!(loss.dtype(), DType::F32);
        let value = loss.clone().into_scalar::<f32>();
        let gradients = loss.backward();
        let mut values = Values(&gradients, Vec::new());
        module.visit(&mut values);
        (value, values.1)
    }

    fn assert_near((value, a): (f32, Vec<f32>), (rounded, b): (f32, Vec<f32>), what: &str) {
        let off = (value - rounded).abs() / value.abs();
        assert!(off < 0.03 && a.len() == b.len(), "{what}: {value} {rounded}");
        let dot = |a: &[f32], b: &[f32]| -> f64 {
            a.iter().zip(b).map(|(a, b)| f64::from(*a) * f64::from(*b)).sum()
        };
        let cosine = dot(&a, &b) / (dot(&a, &a) * dot(&b, &b)).sqrt();
        assert!(cosine > 0.99, "{what}: cosine {cosine}");
        assert!(a != b, "{what} was not rounded at all");
    }

    /// A model with attention, up- and downsampling and a convolution as shortcut; pixels; a discriminator.
    fn fixture() -> (VqModel, Tensor<4>, Discriminator) {
        let device = Device::flex().autodiff();
        let config = VqConfig {
            base_channels: 32,
            norm_groups: 8,
            channel_multiplier: vec![1, 2],
            num_res_blocks: 1,
            attn_resolutions: Some(vec![8]),
            resolution: 16,
            latent_channels: 8,
            embed_dim: 4,
            num_embeddings: 16,
            ..VqConfig::default()
        };
        let model = config.init(&device);
        let uniform = Distribution::Uniform(-1.0, 1.0);
        let pixels = init::random([2, 3, 16, 16], uniform, &device);
        let adversarial = AdversarialConfig { channels: 16, layers: 1, ..Default::default() };
        (model, pixels, Discriminator::new(&adversarial, &device))
    }

    #[test]
    fn mixed_precision_changes_the_autoencoder_only_by_the_rounding_of_bfloat16() {
        let (model, pixels, _) = fixture();
        let mixed = model.clone().in_mixed_precision();
        let objective = VqObjective::default();
        // Not quantized: rounding may change a code.
        let full = objective.autoencoder_loss(&model, pixels.clone());
        let rounded = objective.autoencoder_loss(&mixed, pixels.clone());
        for tensor in [&rounded.latents, &rounded.output] {
            assert_eq!(tensor.dtype(), DType::F32);
        }
        let (full, rounded) =
            (differentiated(&model, full.total), differentiated(&mixed, rounded.total));
        assert_near(full, rounded, "autoencoder");
        let latents = |model: &VqModel| model.latents(pixels.clone()).into_data();
        latents(&mixed.in_full_precision()).assert_eq(&latents(&model), true);
    }

    #[test]
    fn mixed_precision_changes_the_discriminator_only_by_the_rounding_of_bfloat16() {
        let (_, pixels, discriminator) = fixture();
        let loss = |discriminator: &Discriminator| {
            let reconstructions = pixels.clone() * 0.5;
            let batch = AdversarialBatch { pixels: pixels.clone(), reconstructions, share: 1.0 };
            let loss = Lecam::default().discriminator_loss(discriminator, batch, 0.0);
            differentiated(discriminator, loss.total)
        };
        let rounded = discriminator.clone().in_mixed_precision();
        assert_near(loss(&discriminator), loss(&rounded), "discriminator");
    }

    #[test]
    fn mixed_precision_keeps_most_codes_and_the_loss_with_a_discriminator() {
        let (model, pixels, discriminator) = fixture();
        let objective = VqObjective::default();
        let loss = |model: &VqModel, discriminator: &Discriminator| {
            let discriminator = Some((discriminator, 0.1, true));
            let auxiliary = AuxiliaryLosses { discriminator, ..Default::default() };
            let loss = objective.loss_with(model, pixels.clone(), auxiliary);
            let (value, gradients) = differentiated(model, loss.total);
            assert!(gradients.iter().all(|value| value.is_finite()));
            (value, loss.codes.into_data().iter::<i64>().collect::<Vec<_>>())
        };
        let full = loss(&model, &discriminator);
        let rounded = loss(&model.in_mixed_precision(), &discriminator.in_mixed_precision());
        assert!((full.0 - rounded.0).abs() < 0.05 * full.0, "{} {}", full.0, rounded.0);
        let same = full.1.iter().zip(&rounded.1).filter(|(a, b)| a == b).count();
        assert!(10 * same > 8 * full.1.len(), "{same} of {} codes", full.1.len());
    }

    #[test]
    fn the_adaptive_weight_is_a_bounded_ratio() {
        assert!((bounded_ratio(2.0, 1.0) - 2.0).abs() < 1e-3);
        assert_eq!(bounded_ratio(1e9, 0.0), MAX_ADAPTIVE_WEIGHT);
    }
}
