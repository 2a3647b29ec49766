//! The loss of a VQ tokenizer: reconstruction, codebook and commitment terms.

use burn::tensor::{Int, Tensor};
use serde::{Deserialize, Serialize};

use super::adversarial::{Discriminator, adaptive_weight};
use super::lpips::Lpips;
use super::ms_ssim::ms_ssim;
use super::semantic::SemanticHead;
use crate::error::{Error, Result};
use crate::model::VqModel;

/// The weight of each term; a term of weight 0 is not computed.
///
/// The defaults of the last two are the reference's "legacy" form, where beta = 0.25 scales the
/// codebook term (taming-transformers `VectorQuantizer2`, used by Chameleon).
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct VqLossConfig {
    /// Mean absolute error of the pixels.
    pub l1: f64,
    /// Mean squared error of the pixels.
    pub l2: f64,
    /// Mean absolute error of the differences between neighbouring pixels: keeps edges sharp.
    pub gradient: f64,
    /// One less the multi-scale structural similarity; images of at least 11 pixels a side.
    pub ms_ssim: f64,
    /// Mean squared distance that pulls the codebook to the latents.
    pub codebook: f64,
    /// Mean squared distance that pulls the latents to the codebook.
    pub commitment: f64,
    /// Entropy of each choice less that of all choices together, for quantizers that choose softly (lfq,
    /// ibq): makes choices sure and uses all codes.
    pub entropy: f64,
}

impl Default for VqLossConfig {
    fn default() -> Self {
        Self {
            l1: 1.0,
            l2: 1.0,
            gradient: 1.0,
            ms_ssim: 0.0,
            codebook: 0.25,
            commitment: 1.0,
            entropy: 0.0,
        }
    }
}

impl VqLossConfig {
    /// Checks that all weights are finite and not negative, and that some pixel term counts.
    ///
    /// # Errors
    /// [`Error::Invalid`] naming the weight and its value.
    pub fn validate(&self) -> Result<()> {
        for (key, weight) in [
            ("l1", self.l1),
            ("l2", self.l2),
            ("gradient", self.gradient),
            ("ms_ssim", self.ms_ssim),
            ("codebook", self.codebook),
            ("commitment", self.commitment),
            ("entropy", self.entropy),
        ] {
            if !weight.is_finite() || weight < 0.0 {
                let message = format!("loss weight {key} is {weight}; allowed: 0 or more");
                return Err(Error::invalid(message));
            }
        }
        if self.l1 + self.l2 == 0.0 {
            return Err(Error::invalid(
                "loss weights l1 and l2 are both 0; one must be positive".to_owned(),
            ));
        }
        Ok(())
    }
}

/// Networks beside the tokenizer that have a say in its loss.
#[derive(Clone, Copy, Debug, Default)]
pub struct Judges<'a> {
    /// A critic, with the weight of its answer and whether that is adaptive.
    pub critic: Option<(&'a Discriminator, f64, bool)>,
    /// A perceptual distance, with its weight.
    pub perceptual: Option<(&'a Lpips, f64)>,
    /// A head, what it should find (`[batch, words]`, 1 or 0), and its weight.
    pub semantic: Option<(&'a SemanticHead, &'a Tensor<2>, f64)>,
}

/// The loss of one batch and what the loop wants to know about it.
#[derive(Debug)]
pub struct VqLoss {
    /// The weighted sum, to differentiate.
    pub total: Tensor<1>,
    /// Mean squared error of the pixels in `[-1, 1]`, detached; PSNR is `10 log10(4 / it)`.
    pub squared_error: Tensor<1>,
    /// Every other term by name, unweighted, detached.
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
    /// The loss of `model` on `pixels`, `[batch, 3, H, W]` in `[-1, 1]`.
    pub fn loss(&self, model: &VqModel, pixels: Tensor<4>) -> VqLoss {
        self.judged_loss(model, pixels, Judges::default())
    }

    /// As [`Self::loss`], with what `judges` say.
    pub fn judged_loss(&self, model: &VqModel, pixels: Tensor<4>, judges: Judges<'_>) -> VqLoss {
        let latents = model.latents(pixels.clone());
        let quantized = model.quantize.forward(latents.clone());
        let features = model.features(quantized.latents.clone());
        let output = model.last_layer(features.clone());
        let mut terms = vec![("commitment", quantized.commitment_loss.clone().detach())];
        let of_pixels = |output: Tensor<4>| {
            let mut sum = self.reconstruction(output.clone(), pixels.clone());
            if let Some((lpips, weight)) = judges.perceptual {
                sum = sum + lpips.distance(output, pixels.clone()) * weight;
            }
            sum
        };
        let mut total = of_pixels(output.clone())
            + quantized.codebook_loss * self.config.codebook
            + quantized.commitment_loss * self.config.commitment;
        if self.config.entropy > 0.0 {
            terms.push(("entropy", quantized.entropy_loss.clone().detach()));
            total = total + quantized.entropy_loss * self.config.entropy;
        }
        if let Some((critic, weight, adaptive)) = judges.critic {
            let ratio = match adaptive {
                true => gradient_ratio(model, features, critic, &of_pixels),
                false => 1.0,
            };
            let complaint = critic.complaint(output.clone());
            terms.push(("complaint", complaint.clone().detach()));
            total = total + complaint * (weight * ratio);
        }
        if let Some((head, present, weight)) = judges.semantic {
            let loss = head.loss(quantized.latents, present.clone());
            terms.push(("semantic", loss.clone().detach()));
            total = total + loss * weight;
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

    /// The loss of the autoencoder alone, with latents that are not quantized: the start of a training
    /// whose codebook is then initialised from latents that already mean something.
    pub fn autoencoder_loss(&self, model: &VqModel, pixels: Tensor<4>) -> VqLoss {
        let latents = model.latents(pixels.clone());
        let output = model.reconstruct(latents.clone());
        let total = self.reconstruction(output.clone(), pixels.clone());
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

    /// The weighted pixel terms.
    fn reconstruction(&self, output: Tensor<4>, pixels: Tensor<4>) -> Tensor<1> {
        let error = output.clone() - pixels.clone();
        let mut sum = error.clone().square().mean() * self.config.l2;
        if self.config.l1 > 0.0 {
            sum = sum + error.clone().abs().mean() * self.config.l1;
        }
        if self.config.gradient > 0.0 {
            sum = sum + edge_error(error) * self.config.gradient;
        }
        if self.config.ms_ssim > 0.0 {
            sum = sum + (ms_ssim(output, pixels).neg() + 1.0) * self.config.ms_ssim;
        }
        sum
    }
}

fn squared_error(output: &Tensor<4>, pixels: &Tensor<4>) -> Tensor<1> {
    (output.clone() - pixels.clone()).detach().square().mean()
}

/// How much longer the gradient of the pixel terms is than the critic's, at the weights of the decoder's
/// last layer, whose input is taken as fixed.
fn gradient_ratio(
    model: &VqModel,
    features: Tensor<4>,
    critic: &Discriminator,
    of_pixels: &dyn Fn(Tensor<4>) -> Tensor<1>,
) -> f64 {
    let layer = model.whole_decoder().last_layer();
    let output = || model.last_layer(features.clone().detach());
    let length = |loss: Tensor<1>| {
        let gradient = layer.weight.val().grad(&loss.backward());
        gradient.map_or(0.0, |g| f64::from(g.square().sum().into_scalar::<f32>()).sqrt())
    };
    adaptive_weight(length(of_pixels(output())), length(critic.complaint(output())))
}

/// Mean absolute difference between neighbours, horizontal plus vertical.
fn edge_error(error: Tensor<4>) -> Tensor<1> {
    let [_, _, height, width] = error.dims();
    let difference = |dim: usize, len: usize| {
        let next = error.clone().narrow(dim, 1, len - 1);
        (next - error.clone().narrow(dim, 0, len - 1)).abs().mean()
    };
    difference(3, width) + difference(2, height)
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;
    use crate::VqConfig;
    use crate::train::{AdversarialConfig, Lecam, Seen};
    use burn::module::{Module, ModuleVisitor, Param};
    use burn::tensor::{DType, Device, Distribution, Gradients};

    #[test]
    fn edge_error_of_a_ramp_is_its_slopes() {
        let device = Device::flex();
        let column = Tensor::<1, Int>::arange(0..5, &device).float().reshape([1, 1, 1, 5]) * 0.5;
        let row = Tensor::<1, Int>::arange(0..4, &device).float().reshape([1, 1, 4, 1]) * 0.25;
        let value = edge_error(column + row).into_scalar::<f32>();
        assert!((value - 0.75).abs() < 1e-6, "{value}");
    }

    /// Gradients of all parameters by visiting order, each in f32.
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

    /// With attention, an up- and a downsampling, a shortcut of its own, and a critic.
    #[test]
    fn mixed_precision_moves_loss_and_gradients_by_the_rounding_of_bfloat16() {
        let device = Device::flex().autodiff();
        device.seed(21);
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
        let mixed = model.clone().in_mixed_precision();
        let size = [2, 3, 16, 16];
        let pixels = Tensor::<4>::random(size, Distribution::Uniform(-1.0, 1.0), &device);
        let objective = VqObjective::default();
        // Without codes, one of which rounding may turn into another.
        let full = objective.autoencoder_loss(&model, pixels.clone());
        let rounded = objective.autoencoder_loss(&mixed, pixels.clone());
        for tensor in [&rounded.latents, &rounded.output] {
            assert_eq!(tensor.dtype(), DType::F32);
        }
        let (full, rounded) =
            (differentiated(&model, full.total), differentiated(&mixed, rounded.total));
        assert_near(full, rounded, "autoencoder");

        let adversarial = AdversarialConfig { channels: 16, layers: 1, ..Default::default() };
        let critic = Discriminator::new(&adversarial, &device);
        let of_critic = |critic: Discriminator| {
            let reconstructions = pixels.clone() * 0.5;
            let seen = Seen { pixels: pixels.clone(), reconstructions, share: 1.0 };
            let loss = Lecam::default().critic_loss(&critic, seen, 0.0).total;
            differentiated(&critic, loss)
        };
        let rounded = critic.clone().in_mixed_precision();
        assert_near(of_critic(critic.clone()), of_critic(rounded.clone()), "critic");

        let judged = |model: &VqModel, critic: &Discriminator| {
            let critic = Some((critic, 0.1, true));
            let judges = Judges { critic, ..Judges::default() };
            let loss = objective.judged_loss(model, pixels.clone(), judges);
            let value = loss.total.clone().into_scalar::<f32>();
            assert!(differentiated(model, loss.total).1.iter().all(|value| value.is_finite()));
            (value, loss.codes.into_data().iter::<i64>().collect::<Vec<_>>())
        };
        let (full, rounded) = (judged(&model, &critic), judged(&mixed, &rounded));
        assert!((full.0 - rounded.0).abs() < 0.05 * full.0, "{} {}", full.0, rounded.0);
        let same = full.1.iter().zip(&rounded.1).filter(|(a, b)| a == b).count();
        assert!(10 * same > 8 * full.1.len(), "{same} of {} codes", full.1.len());
        // Back in full precision it is the model it was.
        let back = mixed.in_full_precision();
        let latents = |model: &VqModel| model.latents(pixels.clone()).into_data();
        latents(&back).assert_eq(&latents(&model), true);
    }

    #[test]
    fn unknown_keys_and_bad_weights_are_refused() {
        assert!(serde_json::from_str::<VqLossConfig>(r#"{"l3": 1}"#).is_err());
        let bad = VqLossConfig { gradient: -1.0, ..VqLossConfig::default() };
        assert!(bad.validate().unwrap_err().to_string().contains("gradient is -1"));
        assert!(VqLossConfig::default().validate().is_ok());
    }
}
