//! Sections that several recipes share.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use crate::error::{Error, Result};
use crate::recipe::{at_least_one, runs_directory, validate_name};

/// Name, length and intervals of a run.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RunConfig {
    /// Name of the run's directory.
    pub name: String,
    /// Parent directory.
    #[serde(default = "runs_directory")]
    pub directory: PathBuf,
    /// Seed of weights, data order and dropout.
    #[serde(default)]
    pub seed: u64,
    /// A checkpoint whose weights the run starts from (fine-tuning); random weights if absent.
    pub init: Option<PathBuf>,
    /// An adapter of `init` that is trained further, with its own settings.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub init_adapter: Option<PathBuf>,
    /// Optimizer steps.
    pub steps: usize,
    /// Steps between checkpoints; the last step always writes one.
    #[serde(default = "default_checkpoint_every")]
    pub checkpoint_every: usize,
    /// Steps between evaluations; 0 evaluates at the end only.
    #[serde(default)]
    pub eval_every: usize,
    /// Validation samples per source in an evaluation.
    #[serde(default = "default_eval_samples")]
    pub eval_samples: usize,
    /// Validation samples per source that the report of an evaluation shows, reconstructed or continued.
    #[serde(default = "default_shown")]
    pub shown: usize,
    /// Steps between lines of `metrics.jsonl`.
    #[serde(default = "default_log_every")]
    pub log_every: usize,
    /// Checkpoints to keep, at least 1; older ones are deleted.
    #[serde(default = "default_keep")]
    pub keep: usize,
    /// A metric of the evaluations whose best checkpoint is kept too, as `<run>/best`.
    pub keep_best: Option<String>,
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
    /// The run's directory.
    pub fn path(&self) -> PathBuf {
        self.directory.join(&self.name)
    }

    /// Checks the ranges; `has_validation` tells whether the recipe has a validation set.
    pub(super) fn validate(&self, has_validation: bool) -> Result<()> {
        if self.keep_best.is_some() && !has_validation {
            return Err(Error::invalid("run.keep_best needs a [[validation]] source to choose by"));
        }
        if has_validation && self.eval_samples == 0 {
            let message = "run.eval_samples is 0; with [[validation]] it must be at least 1";
            return Err(Error::invalid(message));
        }
        validate_name(&self.name)?;
        let counts = [
            ("steps", self.steps),
            ("checkpoint_every", self.checkpoint_every),
            ("log_every", self.log_every),
            ("keep", self.keep),
        ];
        counts.iter().try_for_each(|(key, value)| at_least_one(&format!("run.{key}"), *value))
    }
}

/// Exponential moving average of the weights.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct AverageConfig {
    /// Weight of the previous average, in [0, 1); 0 turns averaging off.
    pub decay: f64,
}

impl AverageConfig {
    /// Checks the range.
    pub(super) fn validate(&self) -> Result<()> {
        if !(0.0..1.0).contains(&self.decay) {
            let decay = self.decay;
            return Err(Error::invalid(format!("average.decay is {decay}; allowed: [0, 1)")));
        }
        Ok(())
    }
}

/// The default of `batch.accumulate`.
pub(super) fn one_batch() -> usize {
    1
}
