//! An image tokenizer: `calumma vq train`.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};
use vq_tokenizer::VqConfig;
use vq_tokenizer::preprocess::PreprocessorConfig;
use vq_tokenizer::train::{
    AdversarialConfig, CodebookStart, RevivalConfig, SemanticConfig, VqLossConfig,
};

use super::super::optimizer::OptimizerConfig;
use super::super::run::Plan;
use super::super::safety::SafetyConfig;
use super::super::schedule::ScheduleConfig;
use super::{AverageConfig, Recipe, RunConfig, at_least_one, one_batch};
use crate::data::{DataConfig, Purpose, validate_sources};
use crate::error::{Error, Result};
use crate::tokenize::CODES_PER_UNIT;

/// A recipe for `calumma vq train`: an image tokenizer.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct VqRecipe {
    /// Name, length and rhythm of the run.
    pub run: RunConfig,
    /// The architecture.
    pub model: VqConfig,
    /// Images to train on; templates are not used.
    pub data: Vec<DataConfig>,
    /// Images to measure reconstruction on; weights are ignored.
    #[serde(default)]
    pub validation: Vec<DataConfig>,
    /// The shape that images are given, here and by the tokenizer that comes of it.
    #[serde(default, alias = "pictures")]
    pub images: ImagesConfig,
    /// The optimizer.
    #[serde(default)]
    pub optimizer: OptimizerConfig,
    /// The learning rate over time.
    #[serde(default)]
    pub schedule: ScheduleConfig,
    /// The loss.
    #[serde(default)]
    pub loss: VqLossConfig,
    /// Replacement of codes that fell out of use.
    #[serde(default)]
    pub codebook: RevivalConfig,
    /// The time before the codebook takes part.
    #[serde(default)]
    pub warmup: WarmupConfig,
    /// A critic of reconstructions.
    #[serde(default)]
    pub adversarial: AdversarialConfig,
    /// A distance between features of a network that the user supplies.
    #[serde(default)]
    pub perceptual: PerceptualConfig,
    /// A head that reads words from the codes.
    #[serde(default)]
    pub semantic: SemanticConfig,
    /// Averaged weights for evaluation and release.
    #[serde(default)]
    pub average: AverageConfig,
    /// What to do when a step goes wrong.
    #[serde(default)]
    pub safety: SafetyConfig,
    /// The shape of a batch.
    pub batch: ImageBatchConfig,
}

/// How images are cut.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct ImagesConfig {
    /// `square` or `flexible`.
    pub shape: ImageShape,
}

/// The shape of images.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum ImageShape {
    /// Squares of `model.resolution` pixels a side, cut from the middle.
    #[default]
    Square,
    /// Nearly their own aspect, up to 4 to 1: of the sizes with about as many pixels as the square, and sides
    /// that are multiples of two codes, the one that keeps most of the image. Every image counts the same
    /// in the loss, whatever its size.
    Flexible,
}

/// The first steps of an image tokenizer.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct WarmupConfig {
    /// Steps as a plain autoencoder; then the codebook starts from latents.
    pub autoencoder_steps: usize,
    /// Where it starts: `data` or `k-means`.
    pub codebook: CodebookStart,
}

/// The distance LPIPS, from weights that are not shipped.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct PerceptualConfig {
    /// Weight of the distance; 0 leaves it out.
    pub weight: f64,
    /// A safetensors file with the tensors that [`vq_tokenizer::train::Lpips`] names.
    pub weights: Option<PathBuf>,
}

/// The shape of an image tokenizer's batch.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ImageBatchConfig {
    /// Images.
    pub images: usize,
    /// Batches whose gradients are averaged into one step.
    #[serde(default = "one_batch")]
    pub accumulate: usize,
}

impl VqRecipe {
    /// How long the run is and what it does on the way.
    pub fn plan(&self) -> Plan<'_> {
        Plan {
            run: &self.run,
            schedule: &self.schedule,
            safety: &self.safety,
            peak_lr: self.optimizer.lr,
            peak_flops: None,
        }
    }

    /// How images become pixels, in training and with the trained tokenizer: all of [-1, 1].
    pub fn preprocessor(&self) -> PreprocessorConfig {
        match self.images.shape {
            ImageShape::Square => PreprocessorConfig::original(self.model.resolution),
            ImageShape::Flexible => {
                PreprocessorConfig::flexible_original(self.model.resolution, self.unit())
            }
        }
    }

    /// What the sides of flexible images are multiples of, in pixels: what a language model's sized images
    /// count in.
    fn unit(&self) -> usize {
        CODES_PER_UNIT * self.model.downsampling()
    }

    /// Checks that every image is as large as losses and scores need.
    fn validate_sizes(&self) -> Result<()> {
        let (side, unit, shape) = (self.model.resolution, self.unit(), self.images.shape);
        if shape == ImageShape::Flexible && !side.is_multiple_of(unit) {
            return Err(Error::invalid(format!(
                "images.shape is flexible, which needs a model.resolution that is a multiple of {unit}, \
                 the pixels of {CODES_PER_UNIT} codes; it is {side}"
            )));
        }
        let shortest = self.preprocessor().shortest_side();
        let weights = [
            ("adversarial.weight", self.adversarial.weight, 3 << self.adversarial.layers),
            ("loss.ms_ssim", self.loss.ms_ssim, 11),
            ("perceptual.weight", self.perceptual.weight, 16),
        ];
        let weights = weights.into_iter().filter(|(_, weight, _)| *weight > 0.0);
        let mut needs: Vec<(String, usize)> =
            weights.map(|(key, weight, least)| (format!("{key} is {weight}"), least)).collect();
        if !self.validation.is_empty() {
            needs.push(("[[validation]] is scored by SSIM".to_owned(), 11));
        }
        let Some((what, least)) = needs.into_iter().find(|(_, least)| shortest < *least) else {
            return Ok(());
        };
        Err(Error::invalid(match shape {
            ImageShape::Square => {
                format!("{what}, which needs a model.resolution of at least {least}; it is {side}")
            }
            ImageShape::Flexible => format!(
                "{what}, which needs sides of at least {least} pixels; the shortest that images.shape \
                 flexible gives at a model.resolution of {side} is {shortest}"
            ),
        }))
    }
}

impl Recipe for VqRecipe {
    fn validate(&self) -> Result<()> {
        self.run.validate(!self.validation.is_empty())?;
        self.model.validate()?;
        self.optimizer.validate()?;
        self.schedule.validate()?;
        self.loss.validate()?;
        if !self.validation.is_empty() {
            validate_sources(&self.validation, Purpose::Images)?;
        }
        if self.run.init.is_some() && self.warmup.autoencoder_steps > 0 {
            return Err(Error::invalid(
                "run.init brings a codebook; warmup.autoencoder_steps must be 0 then".to_owned(),
            ));
        }
        at_least_one("batch.images", self.batch.images)?;
        at_least_one("batch.accumulate", self.batch.accumulate)?;
        self.adversarial.validate()?;
        self.semantic.validate()?;
        let weight = self.perceptual.weight;
        self.validate_sizes()?;
        if !weight.is_finite() || weight < 0.0 {
            let message = format!("perceptual.weight is {weight}; allowed: 0 or more");
            return Err(Error::invalid(message));
        }
        if weight > 0.0 && self.perceptual.weights.is_none() {
            return Err(Error::invalid(
                "perceptual.weight needs perceptual.weights, a safetensors file of LPIPS' VGG-16",
            ));
        }
        self.average.validate()?;
        self.safety.validate()?;
        if self.semantic.weight > 0.0 && self.data.iter().all(|source| source.words.is_empty()) {
            return Err(Error::invalid(
                "semantic.weight needs a source with words, the columns to read them from",
            ));
        }
        validate_sources(&self.data, Purpose::Images)
    }
}
