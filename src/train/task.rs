//! The interface between the training loop and what it trains.

use std::path::Path;

use image::RgbImage;

use super::best::Better;
use super::trained::NotFinite;
use crate::error::Result;
use crate::report::{LayerExperts, Metrics, Omission, SampleText};

/// A model in training with its data and loss.
pub trait Task {
    /// The unit of throughput, such as `tokens`.
    const UNIT: &'static str;

    /// One optimizer step at learning rate `lr`; `step` counts from 0.
    ///
    /// A step whose loss or gradient is not finite changes no weight and is [skipped](Stepped).
    ///
    /// # Errors
    /// [`Error::Diverged`](crate::Error::Diverged) if only a rewind can help; errors of the data.
    fn step(&mut self, step: usize, lr: f64) -> Result<Stepped>;

    /// A number for the loss and the data of `step`; where it changes, the loss may jump.
    fn phase(&self, _step: usize) -> usize {
        0
    }

    /// Metrics over the steps since the last call.
    fn since_last(&mut self) -> Metrics {
        Metrics::new()
    }

    /// Whether the model is on the way to another form, so that none of its checkpoints is the best.
    fn is_changing(&self) -> bool {
        false
    }

    /// Names of all metrics that [`Self::evaluate`] may return, each with its better direction.
    fn eval_metrics(&self) -> Vec<(String, Better)>;

    /// Metrics on the validation data.
    ///
    /// # Errors
    /// Those of the data.
    fn evaluate(&mut self) -> Result<Metrics>;

    /// An image of samples from the last evaluation, handed out once.
    fn image(&mut self) -> Option<RgbImage> {
        None
    }

    /// Texts of samples from the last evaluation, handed out once.
    fn texts(&mut self) -> Vec<SampleText> {
        Vec::new()
    }

    /// What experts did over the steps of the last [`Self::since_last`], by sparse layer, handed out once.
    fn experts(&mut self) -> Vec<LayerExperts> {
        Vec::new()
    }

    /// A warning about the run, handed out once, after [`Self::since_last`].
    fn warning(&mut self) -> Option<String> {
        None
    }

    /// What was left out of the data so far.
    fn left_out(&self) -> Vec<Omission> {
        Vec::new()
    }

    /// Floating point operations per unit, if known.
    fn flops_per_unit(&self) -> Option<f64> {
        None
    }

    /// Approximate size of a checkpoint in bytes.
    fn checkpoint_bytes(&self) -> u64 {
        0
    }

    /// Goes back to the state before a step in which the device failed, so that it can be saved; false if the step had
    /// begun to change the weights.
    fn undo(&mut self) -> bool {
        false
    }

    /// Writes a complete checkpoint into the empty directory `dir`, with all that
    /// [`Self::restore`] needs.
    ///
    /// # Errors
    /// Those of the file system.
    fn save(&self, dir: &Path) -> Result<()>;

    /// Continues from the checkpoint `dir` and skips the data of the next `skip` steps.
    ///
    /// # Errors
    /// Those of the files; training cannot go on then.
    fn restore(&mut self, dir: &Path, skip: u64) -> Result<()>;
}

/// The result of a step.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Stepped {
    /// Metrics to report; the first one called `loss` is watched for spikes.
    pub metrics: Metrics,
    /// Units processed.
    pub units: usize,
    /// Why no weight was changed; `None` after an update.
    pub skipped: Option<String>,
}

impl Stepped {
    /// A step over `units` that changed nothing because of `problem`.
    pub(super) fn skipped(problem: NotFinite, units: usize) -> Self {
        Self { metrics: Metrics::new(), units, skipped: Some(problem.to_string()) }
    }

    /// The loss.
    pub(super) fn loss(&self) -> Option<f64> {
        self.metrics.iter().find(|(name, _)| name == "loss").map(|(_, value)| *value)
    }
}
