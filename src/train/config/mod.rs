//! What a recipe says: everything about a run. `recipe.rs` reads the file.

mod image;
mod language;
mod text;
mod tokens;

use std::path::{Path, PathBuf};

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

pub use image::{
    ImageBatchConfig, ImageShape, ImagesConfig, PerceptualConfig, VqRecipe, WarmupConfig,
};
pub use language::{BatchConfig, CurriculumConfig, LanguageRecipe, ModelSizes, TokenizerConfig};
pub use text::{BpeRecipe, BpeRunConfig};
pub use tokens::{TokensRecipe, TokensRunConfig};

use crate::checkpoint::VQ_DIR;
use crate::error::{Error, Result};

/// What every recipe can check about itself.
pub trait Recipe: DeserializeOwned + Serialize {
    /// Names that `model.preset` may have, each with the keys of the section that it stands for.
    const PRESETS: &'static [(&'static str, &'static str)] = &[];

    /// Checks ranges that types do not express.
    ///
    /// # Errors
    /// [`Error::Invalid`] with the key, its value and what is allowed.
    fn validate(&self) -> Result<()>;
}

/// Name, length and rhythm of a run.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RunConfig {
    /// Name of the run's folder.
    pub name: String,
    /// Where runs lie.
    #[serde(default = "default_directory")]
    pub directory: PathBuf,
    /// Seed of weights, data order and dropout.
    #[serde(default)]
    pub seed: u64,
    /// A checkpoint whose weights the run begins with: fine-tuning. Random weights when absent.
    pub init: Option<PathBuf>,
    /// Optimizer steps.
    pub steps: usize,
    /// Steps between checkpoints; the last step always makes one.
    #[serde(default = "default_checkpoint_every")]
    pub checkpoint_every: usize,
    /// Steps between evaluations; 0 evaluates only at the end.
    #[serde(default)]
    pub eval_every: usize,
    /// Validation samples per source and evaluation.
    #[serde(default = "default_eval_samples")]
    pub eval_samples: usize,
    /// Validation samples per source that are shown at an evaluation: reconstructed, or continued.
    #[serde(default = "default_shown")]
    pub shown: usize,
    /// Steps between lines of `metrics.jsonl`.
    #[serde(default = "default_log_every")]
    pub log_every: usize,
    /// Checkpoints kept; older ones are deleted. At least 1.
    #[serde(default = "default_keep")]
    pub keep: usize,
    /// A metric of the evaluations whose best checkpoint is kept too, as `<run>/best`.
    pub keep_best: Option<String>,
}

pub(super) fn default_directory() -> PathBuf {
    PathBuf::from("runs")
}
fn default_checkpoint_every() -> usize {
    500
}
fn default_eval_samples() -> usize {
    128
}
fn default_shown() -> usize {
    6
}
fn default_log_every() -> usize {
    10
}
fn default_keep() -> usize {
    2
}

impl RunConfig {
    /// The run's folder.
    pub fn path(&self) -> PathBuf {
        self.directory.join(&self.name)
    }

    pub(super) fn validate(&self, has_validation: bool) -> Result<()> {
        if self.keep_best.is_some() && !has_validation {
            let message = "run.keep_best needs a [[validation]] source to choose by".to_owned();
            return Err(Error::invalid(message));
        }
        if has_validation && self.eval_samples == 0 {
            let message = "run.eval_samples is 0; with [[validation]] it must be at least 1";
            return Err(Error::invalid(message.to_owned()));
        }
        validate_name(&self.name)?;
        let counts = [
            ("steps", self.steps),
            ("checkpoint_every", self.checkpoint_every),
            ("log_every", self.log_every),
            ("keep", self.keep),
        ];
        match counts.iter().find(|(_, value)| *value == 0) {
            Some((key, _)) => Err(Error::invalid(format!("run.{key} is 0; it must be at least 1"))),
            None => Ok(()),
        }
    }
}

/// Moving averages of all weights.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct AverageConfig {
    /// Weight of the past, in [0, 1); 0 takes the weights as they are.
    pub decay: f64,
}

impl AverageConfig {
    fn validate(&self) -> Result<()> {
        if !(0.0..1.0).contains(&self.decay) {
            let decay = self.decay;
            return Err(Error::invalid(format!("average.decay is {decay}; allowed: [0, 1)")));
        }
        Ok(())
    }
}

fn one_batch() -> usize {
    1
}

/// The image tokenizer's directory within the checkpoint `dir`, or `dir` itself when it is one.
pub(super) fn image_dir(dir: &Path) -> PathBuf {
    let nested = dir.join(VQ_DIR);
    if nested.is_dir() { nested } else { dir.to_owned() }
}

/// A run's name becomes a folder's.
fn validate_name(name: &str) -> Result<()> {
    let plain = !name.is_empty()
        && name.chars().all(|c| c.is_ascii_alphanumeric() || "-_.".contains(c))
        && !name.starts_with('.');
    if !plain {
        let allowed = "letters, digits, - _ and . (not first)";
        return Err(Error::invalid(format!("run.name is {name:?}; allowed: {allowed}")));
    }
    Ok(())
}

fn at_least_one(key: &str, value: usize) -> Result<()> {
    if value == 0 {
        return Err(Error::invalid(format!("{key} is 0; it must be at least 1")));
    }
    Ok(())
}
