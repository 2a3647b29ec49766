//! The recipe of `calumma vq train`.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};
use vq_tokenizer::preprocess::PreprocessorConfig;
use vq_tokenizer::train::{
    AdversarialConfig, CodebookStart, RevivalConfig, SemanticConfig, VqLossConfig,
};
use vq_tokenizer::{Architecture, VqConfig};

use super::super::optimizer_config::OptimizerConfig;
use super::super::plan::Plan;
use super::super::safety::SafetyConfig;
use super::super::schedule::ScheduleConfig;
use super::run::{AverageConfig, RunConfig, one_batch};
use crate::data::ImageData;
use crate::error::{Error, Result};
use crate::recipe::{Recipe, at_least_one};
use crate::tokenize::CODES_PER_UNIT;

/// A recipe for `calumma vq train`: an image tokenizer.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct VqRecipe {
    /// Name, length and intervals of the run.
    pub run: RunConfig,
    /// The architecture.
    pub model: VqConfig,
    /// Images to train on.
    pub data: Vec<ImageData>,
    /// Images to measure reconstruction on; `weight`, `augment` and `words` are ignored.
    #[serde(default)]
    pub validation: Vec<ImageData>,
    /// The shape that images are cropped to, in training and by the trained tokenizer.
    #[serde(default)]
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
    /// Replacement of unused codes.
    #[serde(default)]
    pub codebook: RevivalConfig,
    /// The steps before the codebook takes part.
    #[serde(default)]
    pub warmup: WarmupConfig,
    /// The adversarial loss.
    #[serde(default)]
    pub adversarial: AdversarialConfig,
    /// The perceptual loss, with a network that the user supplies.
    #[serde(default)]
    pub perceptual: PerceptualConfig,
    /// A head that predicts words from the codes.
    #[serde(default)]
    pub semantic: SemanticConfig,
    /// Averaged weights for evaluation and release.
    #[serde(default)]
    pub average: AverageConfig,
    /// Rewinding after a bad step.
    #[serde(default)]
    pub safety: SafetyConfig,
    /// The shape of a batch.
    pub batch: ImageBatchConfig,
}

/// How images are cropped.
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
    /// The central square, resized to `model.resolution` pixels a side.
    #[default]
    Square,
    /// Nearly the image's own aspect ratio, up to 4 to 1: of the sizes with about as many pixels as
    /// the square and sides that are multiples of two codes, the one that keeps most of the image.
    /// Every image has the same weight in the loss, whatever its size.
    Flexible,
}

/// The first steps of an image tokenizer.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct WarmupConfig {
    /// Steps as an autoencoder without quantization, after which the codebook is initialised from latents.
    pub autoencoder_steps: usize,
    /// How it is initialised: from `data` or by `k-means`.
    pub codebook: CodebookStart,
}

/// The perceptual distance LPIPS, whose weights are not shipped.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct PerceptualConfig {
    /// Weight of the distance; 0 turns it off.
    pub weight: f64,
    /// A safetensors file with the tensors that [`vq_tokenizer::train::Lpips`] names.
    pub weights: Option<PathBuf>,
}

/// The shape of an image tokenizer's batch.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ImageBatchConfig {
    /// Images per batch.
    pub images: usize,
    /// Batches per step (gradient accumulation).
    #[serde(default = "one_batch")]
    pub accumulate: usize,
}

impl VqRecipe {
    /// Length, intervals and schedule of the run.
    pub fn plan(&self) -> Plan<'_> {
        Plan {
            run: &self.run,
            schedule: &self.schedule,
            safety: &self.safety,
            peak_lr: self.optimizer.lr,
            peak_flops: None,
        }
    }

    /// How images become pixels in [-1, 1], in training and by the trained tokenizer.
    pub fn preprocessor(&self) -> PreprocessorConfig {
        match self.images.shape {
            ImageShape::Square => PreprocessorConfig::original(self.model.resolution),
            ImageShape::Flexible => {
                PreprocessorConfig::flexible_original(self.model.resolution, self.unit())
            }
        }
    }

    /// The pixels that the sides of flexible images are multiples of, the unit in which a language model
    /// states sizes.
    fn unit(&self) -> usize {
        CODES_PER_UNIT * self.model.downsampling()
    }

    /// Checks that images are as large as losses and scores require.
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
    const RENAMED: &'static [(&'static str, &'static str)] = &[("pictures", "images")];

    fn validate(&self) -> Result<()> {
        if self.run.init_adapter.is_some() {
            let message =
                "run.init_adapter is for language models; an image tokenizer has no adapters";
            return Err(Error::invalid(message));
        }
        if self.optimizer.train_rows.is_some() {
            return Err(Error::invalid("optimizer.train_rows is for language models"));
        }
        self.run.validate(!self.validation.is_empty())?;
        self.model.validate()?;
        if self.model.architecture != Architecture::Chameleon {
            let message =
                "model.model_type is emu3_vqgan; Emu3's image tokenizer is not trained here";
            return Err(Error::invalid(message));
        }
        self.optimizer.validate()?;
        self.schedule.validate()?;
        self.loss.validate()?;
        if !self.validation.is_empty() {
            ImageData::validate_all(&self.validation)?;
        }
        if self.run.init.is_some() && self.warmup.autoencoder_steps > 0 {
            let message = "run.init brings a codebook; warmup.autoencoder_steps must be 0 then";
            return Err(Error::invalid(message));
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
        ImageData::validate_all(&self.data)
    }
}
