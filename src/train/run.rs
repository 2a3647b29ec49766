//! The training loop: steps, schedule, evaluation, checkpoints, signals, and rewinding after bad
//! steps.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Instant;

use super::best::BestBy;
use super::pace::Pace;
use super::plan::Plan;
use super::state::{Checkpoints, LoopState, latest_checkpoint};
use super::task::{Stepped, Task};
use crate::device::DeviceError;
use crate::error::{Error, Result};
use crate::guard::with_device;
use crate::lock::DirectoryLock;
use crate::report::{Metrics, Omission, Reporter};

/// A request to stop, set by a signal handler: 0, or the signal's number.
pub type StopFlag = Arc<AtomicUsize>;

/// The result of a finished run.
#[derive(Clone, Debug, PartialEq)]
pub struct RunSummary {
    /// The last checkpoint.
    pub checkpoint: PathBuf,
    /// The step that the run was resumed at; 0 for a fresh run.
    pub resumed_at: usize,
    /// The metrics of the last evaluation.
    pub evaluation: Metrics,
    /// Units per second of the median step and, if known, the share of the device's peak that this
    /// is; `None` if no step was made.
    pub rate: Option<(f64, Option<f64>)>,
    /// What was left out of the data.
    pub left_out: Vec<Omission>,
}

/// Trains `task` by `plan`, from the newest intact checkpoint of the run if there is one.
///
/// Checkpoints go to `<run>/step-NNNNNNN`; the link `<run>/latest` points to the newest and
/// `<run>/best` to the best by `run.keep_best`. Metrics go to `<run>/metrics.jsonl` and
/// `<run>/tensorboard`, sample images to `<run>/samples`, all of it to `<run>/report.html`. The run's
/// directory is locked meanwhile.
///
/// # Errors
/// [`Error::InUse`] if another process holds the run's directory; [`Error::Invalid`] before the first
/// step if `run.keep_best` is no metric of the task;
/// [`Error::Interrupted`] after a stop was requested and the state was saved; [`Error::Diverged`];
/// errors of data and files.
pub fn run<T: Task>(
    task: &mut T,
    plan: &Plan<'_>,
    reporter: Reporter,
    stop: &StopFlag,
) -> Result<RunSummary> {
    best_by(task, plan)?;
    let lock = DirectoryLock::alone(&plan.run.path())?;
    run_locked(task, plan, reporter, stop, &lock)
}

/// How the best checkpoint is known, if it is kept.
fn best_by<T: Task>(task: &T, plan: &Plan<'_>) -> Result<Option<BestBy>> {
    let name = plan.run.keep_best.as_deref();
    name.map(|name| BestBy::new(name, task.eval_metrics())).transpose()
}

/// Whether both lists are about the same sources and kinds, whatever the counts.
fn same_kinds(a: &[Omission], b: &[Omission]) -> bool {
    let kinds = |all: &[Omission]| -> Vec<(String, String)> {
        all.iter().map(|one| (one.source.clone(), one.kind.clone())).collect()
    };
    kinds(a) == kinds(b)
}

/// As [`run`], with the `lock` on the run's directory that the caller holds.
///
/// # Errors
/// As [`run`].
pub fn run_locked<T: Task>(
    task: &mut T,
    plan: &Plan<'_>,
    reporter: Reporter,
    stop: &StopFlag,
    _lock: &DirectoryLock,
) -> Result<RunSummary> {
    let best_by = best_by(task, plan)?;
    let run_dir = plan.run.path();
    let checkpoints = Checkpoints::new(&run_dir, plan.run);
    let (resumed_at, state) = resume(task, plan, &checkpoints)?;
    let mut reporter = reporter.for_run(&run_dir, resumed_at)?;
    reporter.start_at(resumed_at);
    if resumed_at > 0 {
        let text = format!("from {}", run_dir.join(format!("step-{resumed_at:07}")).display());
        reporter.event(resumed_at, "resumed", &text)?;
    }
    let pace = Pace::new(plan.peak_flops, task.flops_per_unit());
    let rewind = Rewind { to: resumed_at, times: 0 };
    let (task, reporter) = (task, &mut reporter);
    let left_out = None;
    let mut work =
        Loop { task, plan, best_by, checkpoints, reporter, stop, state, pace, rewind, left_out };
    let done = with_device(|| work.run(resumed_at));
    let (rate, left_out) = (work.pace.median(), work.task.left_out());
    if let Err(error) = &done
        && !matches!(error, Error::Interrupted { .. })
    {
        // The run's error matters more than one of reporting it.
        let _ = reporter.event(resumed_at, "failed", &error.to_string());
    }
    reporter.write_report();
    reporter.finish();
    let evaluation = done?;
    let checkpoint = latest_checkpoint(&run_dir).unwrap_or(run_dir);
    Ok(RunSummary { checkpoint, resumed_at, evaluation, rate, left_out })
}

/// Restores `task` from the newest intact checkpoint; returns its step, or 0 if there is none.
fn resume<T: Task>(
    task: &mut T,
    plan: &Plan<'_>,
    checkpoints: &Checkpoints<'_>,
) -> Result<(usize, LoopState)> {
    let Some((step, dir)) = checkpoints.newest_good(usize::MAX)? else {
        return Ok((0, LoopState::default()));
    };
    task.restore(&dir, 0)?;
    let state = checkpoints.resume(step, &dir)?;
    if step > plan.run.steps {
        let steps = plan.run.steps;
        let message = format!("the run has taken {step} steps already; run.steps is {steps}");
        return Err(Error::file(&plan.run.path(), message));
    }
    Ok((step, state))
}

struct Loop<'a, T> {
    task: &'a mut T,
    plan: &'a Plan<'a>,
    best_by: Option<BestBy>,
    checkpoints: Checkpoints<'a>,
    reporter: &'a mut Reporter,
    stop: &'a StopFlag,
    state: LoopState,
    pace: Pace,
    rewind: Rewind,
    /// What the log says last.
    left_out: Option<Vec<Omission>>,
}

/// The checkpoint of the last rewinds, and their number.
struct Rewind {
    to: usize,
    times: usize,
}

/// The action after a step.
enum Next {
    Continue,
    /// To a checkpoint of at most `good` steps, for `reason`.
    Rewind {
        reason: String,
        good: usize,
    },
}

impl<T: Task> Loop<'_, T> {
    fn run(&mut self, first: usize) -> Result<Metrics> {
        let config = self.plan.run;
        let mut evaluation = Metrics::new();
        let mut step = first;
        while step < config.steps {
            let lr = self.plan.peak_lr * self.plan.schedule.factor(step, config.steps);
            if let Next::Rewind { reason, good } = self.step(step, lr)? {
                step = self.rewind(step, good, &reason)?;
                continue;
            }
            step += 1;
            let last = step == config.steps;
            let mut is_best = false;
            if last || (config.eval_every > 0 && step.is_multiple_of(config.eval_every)) {
                evaluation = self.evaluate(step)?;
                is_best = self.is_best(step, &evaluation);
            }
            let signal = self.stop.load(Ordering::SeqCst);
            if last || is_best || signal != 0 || step.is_multiple_of(config.checkpoint_every) {
                self.checkpoints.save(self.task, step, &self.state, is_best)?;
            }
            if signal != 0 && !last {
                self.reporter.event(step, "stopped", &format!("by signal {signal}"))?;
                return Err(Error::Interrupted { signal: signal as i32 });
            }
        }
        if evaluation.is_empty() {
            evaluation = self.task.evaluate()?;
        }
        Ok(evaluation)
    }

    /// Takes, checks and reports one step.
    fn step(&mut self, step: usize, lr: f64) -> Result<Next> {
        let begun = Instant::now();
        let stepped = match with_device(|| self.task.step(step, lr)) {
            Ok(stepped) => stepped,
            Err(Error::Diverged { message: reason, .. }) => {
                return Ok(Next::Rewind { reason, good: step });
            }
            Err(Error::Device(error)) => return Err(self.failed(step, error)),
            Err(error) => return Err(error),
        };
        let done = step + 1;
        self.reporter.step(done, stepped.units);
        self.pace.add(stepped.units, begun.elapsed());
        if let Some(reason) = &stepped.skipped {
            return self.after_skipped(done, reason);
        }
        self.state.skipped_in_a_row = 0;
        if let Some(next) = self.after_spike(step, &stepped)? {
            return Ok(next);
        }
        if done.is_multiple_of(self.plan.run.log_every) || done == self.plan.run.steps {
            let mut metrics = stepped.metrics;
            metrics.push(("lr".into(), lr));
            metrics.extend(self.task.since_last());
            metrics.extend(self.pace.take(T::UNIT));
            self.reporter.metrics(done, "train", &metrics)?;
            self.reporter.experts(done, &self.task.experts())?;
            if let Some(text) = self.task.warning() {
                self.reporter.event(done, "warning", &text)?;
            }
            self.report_left_out(done)?;
        }
        Ok(Next::Continue)
    }

    /// Saves the state after `done` steps, behind which the device failed with `error`, if it can still be read.
    fn failed(&mut self, done: usize, error: DeviceError) -> Error {
        let newest = self.checkpoints.newest_good(usize::MAX).ok().flatten();
        if done > 0 && newest.is_none_or(|(at, _)| at != done) && self.task.undo() {
            let save = || self.checkpoints.save(self.task, done, &self.state, false);
            let (kind, text) = match with_device(save) {
                Ok(()) => ("saved", "as the device failed behind this step".to_owned()),
                Err(error) => ("lost", format!("all after the last checkpoint: {error}")),
            };
            // The device's error matters more than one of reporting.
            let _ = self.reporter.event(done, kind, &text);
        }
        error.into()
    }

    /// Writes what was left out of the data to the log: at the last step, and when there is another kind.
    fn report_left_out(&mut self, step: usize) -> Result<()> {
        let left_out = self.task.left_out();
        let is_last = step == self.plan.run.steps;
        let is_new = match &self.left_out {
            // The log may hold what an earlier process left out.
            None => !left_out.is_empty() || self.rewind.to > 0,
            Some(known) => !same_kinds(known, &left_out) || (is_last && *known != left_out),
        };
        if is_new {
            self.reporter.left_out(step, &left_out)?;
            self.left_out = Some(left_out);
        }
        Ok(())
    }

    /// Counts a skipped step, the last of `done`; too many in a row end in a rewind.
    fn after_skipped(&mut self, done: usize, reason: &str) -> Result<Next> {
        self.state.skipped_in_a_row += 1;
        self.reporter.event(done, "skipped", &format!("{reason}; no weight was changed"))?;
        let times = self.state.skipped_in_a_row;
        if times <= self.plan.safety.max_skipped {
            return Ok(Next::Continue);
        }
        let reason = format!("{reason} for {times} steps in a row");
        Ok(Next::Rewind { reason, good: done.saturating_sub(times) })
    }

    /// Looks for a spike of the loss; `None` if there is none, or no checkpoint before it.
    fn after_spike(&mut self, step: usize, stepped: &Stepped) -> Result<Option<Next>> {
        let phase = self.task.phase(step);
        let loss = stepped.loss().unwrap_or(0.0);
        let detector = &mut self.state.detector;
        if !detector.is_spike(step, loss, phase, self.plan.safety) {
            return Ok(None);
        }
        let (suspicious, good) = (detector.suspicious(), detector.since());
        let reason = format!("the loss was far above its usual for {suspicious} steps ({loss:.4})");
        if self.checkpoints.newest_good(good)?.is_some() {
            return Ok(Some(Next::Rewind { reason, good }));
        }
        detector.accept();
        let text = format!("{reason}; there is no checkpoint before it to go back to");
        self.reporter.event(step + 1, "spike", &text)?;
        Ok(None)
    }

    fn evaluate(&mut self, step: usize) -> Result<Metrics> {
        let begun = Instant::now();
        let evaluation = match with_device(|| self.task.evaluate()) {
            Ok(evaluation) => evaluation,
            Err(Error::Device(error)) => return Err(self.failed(step, error)),
            Err(error) => return Err(error),
        };
        self.reporter.metrics(step, "eval", &evaluation)?;
        if let Some(image) = self.task.image() {
            self.reporter.image(step, &image)?;
        }
        let texts = self.task.texts();
        if !texts.is_empty() {
            self.reporter.samples(step, &texts)?;
        }
        let shown: Vec<String> = evaluation.iter().map(|(k, v)| format!("{k} {v:.4}")).collect();
        self.reporter.note(&format!("step {step}: {}", shown.join(", ")));
        self.reporter.write_report();
        self.pace.pause(begun.elapsed());
        Ok(evaluation)
    }

    /// Whether `evaluation` is the best so far by `run.keep_best`.
    fn is_best(&mut self, step: usize, evaluation: &Metrics) -> bool {
        let Some(best_by) = self.best_by.as_ref().filter(|_| !self.task.is_changing()) else {
            return false;
        };
        let Some(value) = best_by.value(evaluation) else {
            let name = best_by.name();
            self.reporter.note(&format!("run.keep_best: the evaluation has no metric {name}"));
            return false;
        };
        let is_best = best_by.improves(value, self.state.best.map(|(best, _)| best));
        if is_best {
            self.state.best = Some((value, step));
        }
        is_best
    }

    /// Goes back to the newest checkpoint of at most `good` steps and skips the data of the steps
    /// since, that of `step` included. Returns the checkpoint's step.
    fn rewind(&mut self, step: usize, good: usize, reason: &str) -> Result<usize> {
        let diverged = |why: &str| Error::Diverged { step, message: format!("{reason}; {why}") };
        let Some((to, dir)) = self.checkpoints.newest_good(good)? else {
            return Err(diverged("there is no checkpoint before it to go back to"));
        };
        if to != self.rewind.to {
            self.rewind = Rewind { to, times: 0 };
        }
        self.rewind.times += 1;
        let most = self.plan.safety.max_rewinds;
        if self.rewind.times > most {
            let why =
                format!("the run went back to step {to} {most} times already (safety.max_rewinds)");
            return Err(diverged(&why));
        }
        // Data read since that checkpoint: those of its steps, and those that were skipped before.
        let before = self.state.left_out;
        self.checkpoints.delete_after(to)?;
        self.state = self.checkpoints.resume(to, &dir)?;
        let skip = (step + 1 - to) as u64 + before - self.state.left_out;
        self.state.left_out += skip;
        self.task.restore(&dir, skip)?;
        self.reporter.rewind(to)?;
        self.left_out = None;
        let from = step + 1;
        let text = format!("from step {from} because {reason}; leaving out {skip} steps' data");
        self.reporter.event(to, "rewound", &text)?;
        Ok(to)
    }
}
