//! Training: one loop for the image tokenizer and the language model.
//!
//! [`run`] owns steps, schedule, evaluation, checkpoints and signals; a [`Task`] owns model, data and
//! loss. The loop is a pure function of recipe and checkpoint: stopped and started again it gives the
//! same weights, bit for bit on the CPU.

mod companion;
mod config;
mod documents;
mod image_batches;
mod image_task;
mod language_task;
pub mod objective;
mod optimizer;
mod recipe;
mod schedule;
mod state;

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

pub use config::{
    AverageConfig, BatchConfig, BpeRecipe, BpeRunConfig, ImageBatchConfig, LanguageRecipe,
    ModelSizes, PerceptualConfig, Recipe, RunConfig, TokenizerConfig, VqRecipe, WarmupConfig,
};
pub use documents::{DocumentStream, StreamState, corpus, validation_batches};
pub use image_task::ImageTask;
pub use language_task::LanguageTask;
pub use optimizer::{Optimizer, OptimizerConfig, OptimizerKind};
pub use recipe::{explain, read_recipe};
pub use schedule::{ScheduleConfig, ScheduleKind};
pub use state::{latest_checkpoint, newest_good_checkpoint};

use image::RgbImage;

use crate::error::{Error, Result};
use crate::report::{Metrics, Reporter};

/// What is trained: a model, its data and its loss.
pub trait Task {
    /// What the rate counts, such as `tokens`.
    const UNIT: &'static str;

    /// One optimizer step at learning rate `lr`; `step` counts from 0. Returns the metrics and the
    /// number of units processed.
    ///
    /// # Errors
    /// [`Error::Diverged`] before a non-finite loss or gradient touches a weight; errors of the data.
    fn step(&mut self, step: usize, lr: f64) -> Result<(Metrics, usize)>;

    /// Metrics on the validation data.
    ///
    /// # Errors
    /// Those of the data.
    fn evaluate(&mut self) -> Result<Metrics>;

    /// Something to look at from the last evaluation; given once.
    fn picture(&mut self) -> Option<RgbImage> {
        None
    }

    /// Writes a usable checkpoint, with everything that [`Self::restore`] needs, into the empty
    /// directory `dir`.
    ///
    /// # Errors
    /// Those of the file system.
    fn save(&self, dir: &Path) -> Result<()>;

    /// Takes up the state that [`Self::save`] wrote.
    ///
    /// # Errors
    /// Those of the files; the task is not usable then.
    fn restore(&mut self, dir: &Path) -> Result<()>;
}

/// A request to stop, set from a signal handler: 0, or the signal's number.
pub type StopFlag = Arc<AtomicUsize>;

/// How a finished run went.
#[derive(Clone, Debug, PartialEq)]
pub struct RunSummary {
    /// The last checkpoint.
    pub checkpoint: PathBuf,
    /// The step that the run was taken up at; 0 for a fresh one.
    pub resumed_at: usize,
    /// The metrics of the last evaluation.
    pub evaluation: Metrics,
}

/// Trains `task` for `config.steps` steps, from the newest good checkpoint of the run if there is one.
///
/// `peak_lr` is multiplied by the schedule's factor. Checkpoints go to `<run>/step-NNNNNNN`, the link
/// `<run>/latest` points to the newest; the [`Reporter`] keeps the other files of the run.
///
/// # Errors
/// [`Error::Interrupted`] after a stop was asked for and the state was saved; [`Error::Diverged`];
/// errors of data and files.
pub fn run<T: Task>(
    task: &mut T,
    config: &RunConfig,
    schedule: &ScheduleConfig,
    peak_lr: f64,
    reporter: Reporter,
    stop: &StopFlag,
) -> Result<RunSummary> {
    let run_dir = config.path();
    std::fs::create_dir_all(&run_dir).map_err(Error::io(&run_dir))?;
    let resumed_at = match newest_good_checkpoint(&run_dir)? {
        Some((step, dir)) => {
            task.restore(&dir)?;
            step
        }
        None => 0,
    };
    if resumed_at > config.steps {
        let steps = config.steps;
        let message = format!("the run has taken {resumed_at} steps already; run.steps is {steps}");
        return Err(Error::file(&run_dir, message));
    }
    let mut reporter = reporter.for_run(&run_dir, resumed_at)?;
    reporter.start_at(resumed_at);
    if resumed_at > 0 {
        reporter.event(resumed_at, "resumed", "from the checkpoint of this step")?;
    }
    let mut evaluation = Metrics::new();
    for step in resumed_at..config.steps {
        let lr = peak_lr * schedule.factor(step, config.steps);
        let (mut metrics, units) = task.step(step, lr)?;
        let done = step + 1;
        reporter.step(done, units);
        if done % config.log_every == 0 || done == config.steps {
            metrics.push(("lr", lr));
            reporter.metrics(done, "train", &metrics)?;
        }
        let last = done == config.steps;
        if last || (config.eval_every > 0 && done % config.eval_every == 0) {
            evaluation = task.evaluate()?;
            reporter.metrics(done, "eval", &evaluation)?;
            if let Some(picture) = task.picture() {
                reporter.picture(done, &picture)?;
            }
            reporter.write_report();
            let shown: Vec<String> =
                evaluation.iter().map(|(k, v)| format!("{k} {v:.4}")).collect();
            reporter.note(&format!("step {done}: {}", shown.join(", ")));
        }
        let signal = stop.load(Ordering::SeqCst);
        if last || signal != 0 || done % config.checkpoint_every == 0 {
            state::save(task, &run_dir, done, config.keep)?;
        }
        if signal != 0 && !last {
            reporter.finish();
            return Err(Error::Interrupted { signal: signal as i32 });
        }
    }
    if evaluation.is_empty() {
        evaluation = task.evaluate()?;
    }
    reporter.write_report();
    reporter.finish();
    let checkpoint = latest_checkpoint(&run_dir).unwrap_or(run_dir);
    Ok(RunSummary { checkpoint, resumed_at, evaluation })
}
