//! A critic that tells images from reconstructions, patch by patch, and what it teaches both sides.
//!
//! Source: the PatchGAN of Isola et al. (arXiv 1611.07004) with the hinge loss and the adaptive weight of
//! taming-transformers' `VQLPIPSWithDiscriminator`; groups of channels are normalised where that
//! normalises batches. LeCAM: Tseng et al., "Regularizing Generative Adversarial Networks under Limited
//! Data" (arXiv 2104.03310).

use burn::module::{Initializer, Module, Param};
use burn::tensor::module::conv2d;
use burn::tensor::ops::ConvOptions;
use burn::tensor::{DType, Device, Tensor, activation};
use serde::{Deserialize, Serialize};

use crate::blocks::{GroupNorm, in_format};
use crate::error::{Error, Result};

/// Slope of the activation below 0.
const SLOPE: f64 = 0.2;
/// Weight of the past in LeCAM's averages.
const DECAY: f32 = 0.99;
/// The largest adaptive weight.
const HIGHEST: f64 = 1e4;

/// How a critic takes part.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct AdversarialConfig {
    /// Weight of what the critic says of reconstructions; 0 leaves the critic out.
    pub weight: f64,
    /// Whether that weight is multiplied by the ratio of the gradients of the other pixel terms and of
    /// the critic's at the decoder's last layer.
    pub adaptive: bool,
    /// The step at which the critic begins.
    pub start_step: usize,
    /// Weight of LeCAM's pull of the critic's answers towards their averages.
    pub lecam: f64,
    /// Channels of the critic's first layer.
    pub channels: usize,
    /// Its halvings of the sides, 1 to 5.
    pub layers: usize,
    /// Its learning rate, as a multiple of the tokenizer's.
    pub lr_factor: f64,
}

impl Default for AdversarialConfig {
    fn default() -> Self {
        Self {
            weight: 0.0,
            adaptive: true,
            start_step: 0,
            lecam: 0.0,
            channels: 32,
            layers: 2,
            lr_factor: 1.0,
        }
    }
}

impl AdversarialConfig {
    /// Checks every value against its range.
    ///
    /// # Errors
    /// [`Error::Invalid`] with the key, its value and what is allowed.
    pub fn validate(&self) -> Result<()> {
        let positive =
            [("weight", self.weight), ("lecam", self.lecam), ("lr_factor", self.lr_factor)];
        for (key, value) in positive {
            if !value.is_finite() || value < 0.0 {
                let message = format!("adversarial.{key} is {value}; allowed: 0 or more");
                return Err(Error::invalid(message));
            }
        }
        if !(1..=5).contains(&self.layers) {
            let layers = self.layers;
            return Err(Error::invalid(format!("adversarial.layers is {layers}; allowed: 1 to 5")));
        }
        if self.channels == 0 || !self.channels.is_multiple_of(GROUPS) {
            return Err(Error::invalid(format!(
                "adversarial.channels is {}; it must be a positive multiple of {GROUPS}",
                self.channels
            )));
        }
        Ok(())
    }
}

/// Groups of channels that are normalised together.
const GROUPS: usize = 8;

/// A 4x4 convolution.
#[derive(Module, Debug)]
struct Layer {
    weight: Param<Tensor<4>>,
    bias: Param<Tensor<1>>,
    norm: Option<GroupNorm>,
    stride: usize,
}

impl Layer {
    fn new([inputs, outputs]: [usize; 2], stride: usize, norm: bool, device: &Device) -> Self {
        let std = 1.0 / ((inputs * 16) as f64).sqrt();
        let normal = Initializer::Normal { mean: 0.0, std };
        Self {
            weight: normal.init([outputs, inputs, 4, 4], device),
            bias: Initializer::Zeros.init([outputs], device),
            norm: norm.then(|| GroupNorm::new(outputs, GROUPS, device)),
            stride,
        }
    }

    fn forward(&self, x: Tensor<4>) -> Tensor<4> {
        let options = ConvOptions::new([self.stride; 2], [1, 1], [1, 1], 1);
        let dtype = x.dtype();
        let (weight, bias) = (self.weight.val(), self.bias.val());
        let y = conv2d(x, in_format(weight, dtype), Some(in_format(bias, dtype)), options);
        match &self.norm {
            Some(norm) => norm.forward(y),
            None => y,
        }
    }
}

/// The critic: high answers for images, low ones for reconstructions.
#[derive(Module, Debug)]
pub struct Discriminator {
    layers: Vec<Layer>,
    mixed: bool,
}

impl Discriminator {
    /// A critic of random weights.
    pub fn new(config: &AdversarialConfig, device: &Device) -> Self {
        let width = |level: usize| config.channels << level.min(3);
        let mut layers = vec![Layer::new([3, width(0)], 2, false, device)];
        for level in 1..config.layers {
            layers.push(Layer::new([width(level - 1), width(level)], 2, true, device));
        }
        let last = config.layers - 1;
        layers.push(Layer::new([width(last), width(last + 1)], 1, true, device));
        layers.push(Layer::new([width(last + 1), 1], 1, false, device));
        Self { layers, mixed: false }
    }

    /// The same critic, computing in bfloat16; its weights, their gradients, the statistics of its
    /// normalisations and its answers stay f32.
    #[must_use]
    pub fn in_mixed_precision(self) -> Self {
        Self { mixed: true, ..self }
    }

    /// `[batch, 3, H, W]` in [-1, 1] to an answer per patch, `[batch, 1, h, w]`.
    pub fn forward(&self, pixels: Tensor<4>) -> Tensor<4> {
        let pixels = if self.mixed { in_format(pixels, DType::BF16) } else { pixels };
        let (last, others) = self.layers.split_last().expect("there are at least three layers");
        let x =
            others.iter().fold(pixels, |x, layer| activation::leaky_relu(layer.forward(x), SLOPE));
        in_format(last.forward(x), DType::F32)
    }

    /// What a tokenizer is to lower: the mean answer for its `reconstructions`, negated.
    pub fn complaint(&self, reconstructions: Tensor<4>) -> Tensor<1> {
        self.forward(reconstructions).mean().neg()
    }
}

/// The factor that makes the critic's gradient as long as that of the other terms: `|other| / |critic|`.
pub(super) fn adaptive_weight(other: f64, critic: f64) -> f64 {
    (other / (critic + 1e-4)).clamp(0.0, HIGHEST)
}

/// Averages of the critic's answers; serialisable, for an exact resume.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Lecam {
    real: f32,
    fake: f32,
}

/// Images of one size and their reconstructions, as a critic sees them.
#[derive(Clone, Debug)]
pub struct Seen {
    /// `[batch, 3, H, W]` in [-1, 1].
    pub pixels: Tensor<4>,
    /// Their reconstructions, of the same shape.
    pub reconstructions: Tensor<4>,
    /// Their share of the images of a batch, in (0, 1]: 1 where all are of one size.
    pub share: f64,
}

/// The critic's own loss on one batch.
#[derive(Debug)]
pub struct CriticLoss {
    /// To differentiate.
    pub total: Tensor<1>,
    /// Mean answer for images.
    pub real: f64,
    /// Mean answer for reconstructions.
    pub fake: f64,
}

impl Lecam {
    /// The hinge loss of `critic` on images and detached reconstructions, with LeCAM's term of weight
    /// `lecam`; takes the answers into the averages, of which the parts of a batch together leave as much
    /// as a whole one.
    pub fn critic_loss(&mut self, critic: &Discriminator, seen: Seen, lecam: f64) -> CriticLoss {
        let Seen { pixels, reconstructions, share } = seen;
        let (real, fake) = (critic.forward(pixels), critic.forward(reconstructions.detach()));
        let hinge = |x: Tensor<4>| activation::relu(x + 1.0).mean();
        let mut total = (hinge(real.clone().neg()) + hinge(fake.clone())) * 0.5;
        let mean = |x: &Tensor<4>| x.clone().detach().mean().into_scalar::<f32>();
        let (mean_real, mean_fake) = (mean(&real), mean(&fake));
        if lecam > 0.0 {
            let decay = DECAY.powf(share as f32);
            self.real = decay * self.real + (1.0 - decay) * mean_real;
            self.fake = decay * self.fake + (1.0 - decay) * mean_fake;
            let above = activation::relu(real - self.fake).square().mean();
            let below = activation::relu(fake.neg() + self.real).square().mean();
            total = total + (above + below) * lecam;
        }
        CriticLoss { total, real: f64::from(mean_real), fake: f64::from(mean_fake) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use burn::tensor::Distribution;

    #[test]
    fn answers_are_patches_and_the_loss_is_the_hinge() {
        let device = Device::flex();
        let config = AdversarialConfig { weight: 1.0, ..AdversarialConfig::default() };
        config.validate().expect("the defaults are allowed");
        let critic = Discriminator::new(&config, &device);
        let image = || Tensor::<4>::random([2, 3, 32, 32], Distribution::Default, &device);
        let (real, fake) = (image(), image());
        assert_eq!(critic.forward(real.clone()).dims(), [2, 1, 6, 6]);
        let values = |x: Tensor<4>| -> Vec<f32> { critic.forward(x).into_data().iter().collect() };
        let hinge = |x: Vec<f32>, sign: f32| {
            x.iter().map(|x| (1.0 + sign * x).max(0.0)).sum::<f32>() / x.len() as f32
        };
        let want = (hinge(values(real.clone()), -1.0) + hinge(values(fake.clone()), 1.0)) / 2.0;
        let seen = |share| Seen { pixels: real.clone(), reconstructions: fake.clone(), share };
        let loss = Lecam::default().critic_loss(&critic, seen(1.0), 0.0);
        assert!((loss.total.into_scalar::<f32>() - want).abs() < 1e-5);
        // LeCAM: the averages move towards the answers and pull back.
        let mut lecam = Lecam::default();
        let with = lecam.critic_loss(&critic, seen(1.0), 0.5).total.into_scalar::<f32>();
        assert!(with >= want && lecam != Lecam::default());
        // Parts of a batch move them as far as the whole of it.
        let mut parts = Lecam::default();
        for share in [0.25, 0.75] {
            parts.critic_loss(&critic, seen(share), 0.5);
        }
        assert!((parts.real - lecam.real).abs() < 1e-6 && (parts.fake - lecam.fake).abs() < 1e-6);
    }

    #[test]
    fn the_adaptive_weight_is_a_bounded_ratio() {
        assert!((adaptive_weight(2.0, 1.0) - 2.0).abs() < 1e-3);
        assert_eq!(adaptive_weight(1e9, 0.0), HIGHEST);
    }
}
