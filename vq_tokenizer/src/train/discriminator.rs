//! The discriminator, which tells images from reconstructions patch by patch.
//!
//! Source: the PatchGAN of Isola et al. (arXiv 1611.07004), as in taming-transformers'
//! `NLayerDiscriminator`, with group instead of batch normalisation.

use burn::module::{Initializer, Module, Param};
use burn::tensor::{DType, Device, Tensor, activation};
use serde::{Deserialize, Serialize};

use crate::error::{Error, Result};
use crate::init;
use crate::layers::GroupNorm;
use crate::ops::{cast, conv2d_strided};

/// Slope of the leaky ReLU below 0.
const SLOPE: f64 = 0.2;
/// Groups of channels in its normalisations.
const GROUPS: usize = 8;

/// Settings of adversarial training.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct AdversarialConfig {
    /// Weight of the adversarial loss; 0 trains without a discriminator.
    pub weight: f64,
    /// Whether that weight is multiplied by the ratio of the gradient norms of the other pixel losses and
    /// of the adversarial loss at the decoder's last layer.
    pub adaptive: bool,
    /// The first step with the discriminator.
    pub start_step: usize,
    /// Weight of the LeCAM regularisation.
    pub lecam: f64,
    /// Channels of the discriminator's first layer.
    pub channels: usize,
    /// Number of its layers of stride 2, 1 to 5.
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

/// A 4x4 convolution, normalised or not.
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
        Self {
            weight: init::normal(std, [outputs, inputs, 4, 4], device),
            bias: Initializer::Zeros.init([outputs], device),
            norm: norm.then(|| GroupNorm::new(outputs, GROUPS, device)),
            stride,
        }
    }

    fn forward(&self, x: Tensor<4>) -> Tensor<4> {
        let y = conv2d_strided(x, self.weight.val(), self.bias.val(), self.stride, 1);
        match &self.norm {
            Some(norm) => norm.forward(y, None),
            None => y,
        }
    }
}

/// A PatchGAN discriminator: high logits for patches of images, low ones for those of reconstructions.
#[derive(Module, Debug)]
pub struct Discriminator {
    layers: Vec<Layer>,
    mixed: bool,
}

impl Discriminator {
    /// A randomly initialised discriminator.
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

    /// The same discriminator computing in bfloat16; weights, their gradients, the statistics of
    /// normalisations and logits stay f32.
    #[must_use]
    pub fn in_mixed_precision(self) -> Self {
        Self { mixed: true, ..self }
    }

    /// The logit of every patch of pixels in [-1, 1].
    ///
    /// # Shapes
    /// - pixels: `[batch, 3, H, W]`
    /// - result: `[batch, 1, h, w]`
    pub fn forward(&self, pixels: Tensor<4>) -> Tensor<4> {
        let pixels = if self.mixed { cast(pixels, DType::BF16) } else { pixels };
        let (last, others) = self.layers.split_last().expect("there are at least three layers");
        let x =
            others.iter().fold(pixels, |x, layer| activation::leaky_relu(layer.forward(x), SLOPE));
        cast(last.forward(x), DType::F32)
    }

    /// The adversarial loss of the tokenizer: minus the mean logit of its `reconstructions`.
    ///
    /// # Shapes
    /// - reconstructions: `[batch, 3, H, W]`
    /// - result: `[1]`
    pub fn generator_loss(&self, reconstructions: Tensor<4>) -> Tensor<1> {
        self.forward(reconstructions).mean().neg()
    }
}
