//! An image tokenizer: `calumma vq train`.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};
use vq_tokenizer::VqConfig;
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

/// A recipe for `calumma vq train`: an image tokenizer.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct VqRecipe {
    /// Name, length and rhythm of the run.
    pub run: RunConfig,
    /// The architecture.
    pub model: VqConfig,
    /// Pictures to train on; templates are not used.
    pub data: Vec<DataConfig>,
    /// Pictures to measure reconstruction on; weights are ignored.
    #[serde(default)]
    pub validation: Vec<DataConfig>,
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
    /// Pictures.
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
}

impl Recipe for VqRecipe {
    fn validate(&self) -> Result<()> {
        self.run.validate(!self.validation.is_empty())?;
        self.model.validate()?;
        self.optimizer.validate()?;
        self.schedule.validate()?;
        self.loss.validate()?;
        if !self.validation.is_empty() {
            validate_sources(&self.validation, Purpose::Pictures)?;
        }
        if self.run.init.is_some() && self.warmup.autoencoder_steps > 0 {
            return Err(Error::Invalid(
                "run.init brings a codebook; warmup.autoencoder_steps must be 0 then".to_owned(),
            ));
        }
        at_least_one("batch.images", self.batch.images)?;
        at_least_one("batch.accumulate", self.batch.accumulate)?;
        self.adversarial.validate()?;
        self.semantic.validate()?;
        let weight = self.perceptual.weight;
        let side = self.model.resolution;
        let smallest = [
            ("adversarial.weight", self.adversarial.weight, 3 << self.adversarial.layers),
            ("loss.ms_ssim", self.loss.ms_ssim, 11),
            ("perceptual.weight", weight, 16),
        ];
        for (key, weight, smallest) in smallest {
            if weight > 0.0 && side < smallest {
                return Err(Error::Invalid(format!(
                    "{key} is {weight}, which needs a model.resolution of at least {smallest}; it is {side}"
                )));
            }
        }
        if !weight.is_finite() || weight < 0.0 {
            let message = format!("perceptual.weight is {weight}; allowed: 0 or more");
            return Err(Error::Invalid(message));
        }
        if weight > 0.0 && self.perceptual.weights.is_none() {
            return Err(Error::Invalid(
                "perceptual.weight needs perceptual.weights, a safetensors file of LPIPS' VGG-16"
                    .into(),
            ));
        }
        self.average.validate()?;
        self.safety.validate()?;
        if self.semantic.weight > 0.0 && self.data.iter().all(|source| source.words.is_empty()) {
            return Err(Error::Invalid(
                "semantic.weight needs a source with words, the columns to read them from".into(),
            ));
        }
        validate_sources(&self.data, Purpose::Pictures)
    }
}
