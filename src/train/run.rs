//! The only training loop: steps, schedule, evaluation, checkpoints, signals, and the way back when a
//! step goes wrong.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use image::RgbImage;
use serde::{Deserialize, Serialize};

use super::config::RunConfig;
use super::safety::{SafetyConfig, SpikeDetector};
use super::schedule::ScheduleConfig;
use super::state::{self, Checkpoints};
use crate::error::{Error, Result};
use crate::report::{Metrics, Reporter, SampleText};

/// What is trained: a model, its data and its loss.
pub trait Task {
    /// What the rate counts, such as `tokens`.
    const UNIT: &'static str;

    /// One optimizer step at learning rate `lr`; `step` counts from 0.
    ///
    /// A loss or gradient that is no finite number changes nothing: the step is [skipped](Stepped).
    ///
    /// # Errors
    /// [`Error::Diverged`] when only a checkpoint can help; errors of the data.
    fn step(&mut self, step: usize, lr: f64) -> Result<Stepped>;

    /// A number for what `step` minimises and learns from: where it changes, the loss may jump.
    fn phase(&self, _step: usize) -> usize {
        0
    }

    /// Metrics over the steps since this was last asked.
    fn since_last(&mut self) -> Metrics {
        Metrics::new()
    }

    /// Metrics on the validation data.
    ///
    /// # Errors
    /// Those of the data.
    fn evaluate(&mut self) -> Result<Metrics>;

    /// Something to look at from the last evaluation; given once.
    fn image(&mut self) -> Option<RgbImage> {
        None
    }

    /// Something to read from the last evaluation; given once.
    fn texts(&mut self) -> Vec<SampleText> {
        Vec::new()
    }

    /// Floating point operations for each unit, for the share of the device's speed; unknown for some.
    fn flops_per_unit(&self) -> Option<f64> {
        None
    }

    /// About the size of a checkpoint in bytes.
    fn checkpoint_bytes(&self) -> u64 {
        0
    }

    /// Writes a usable checkpoint, with everything that [`Self::restore`] needs, into the empty
    /// directory `dir`.
    ///
    /// # Errors
    /// Those of the file system.
    fn save(&self, dir: &Path) -> Result<()>;

    /// Takes up the state that [`Self::save`] wrote, and leaves out the data of the next `skip` steps.
    ///
    /// # Errors
    /// Those of the files; the task is not usable then.
    fn restore(&mut self, dir: &Path, skip: u64) -> Result<()>;
}

/// What a step did.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Stepped {
    /// Numbers to report; the first one named `loss` is watched.
    pub metrics: Metrics,
    /// Units processed.
    pub units: usize,
    /// Why no weight was changed; `None` after an update.
    pub skipped: Option<String>,
}

impl Stepped {
    /// A step that changed nothing because its `what` is `value`.
    pub(super) fn skipped(what: &str, value: f64, units: usize) -> Self {
        let skipped = Some(format!("the {what} is {value}"));
        Self { metrics: Metrics::new(), units, skipped }
    }

    fn loss(&self) -> Option<f64> {
        self.metrics.iter().find(|(name, _)| name == "loss").map(|(_, value)| *value)
    }
}

/// A request to stop, set from a signal handler: 0, or the signal's number.
pub type StopFlag = Arc<AtomicUsize>;

/// How long a run is and what it does on the way.
#[derive(Clone, Copy, Debug)]
pub struct Plan<'a> {
    /// Name, length and rhythm.
    pub run: &'a RunConfig,
    /// The learning rate over time.
    pub schedule: &'a ScheduleConfig,
    /// What to do when a step goes wrong.
    pub safety: &'a SafetyConfig,
    /// The learning rate that the schedule's factor multiplies.
    pub peak_lr: f64,
    /// Floating point operations per second that the device can do, to report what share is used.
    pub peak_flops: Option<f64>,
}

/// How a finished run went.
#[derive(Clone, Debug, PartialEq)]
pub struct RunSummary {
    /// The last checkpoint.
    pub checkpoint: PathBuf,
    /// The step that the run was taken up at; 0 for a fresh one.
    pub resumed_at: usize,
    /// The metrics of the last evaluation.
    pub evaluation: Metrics,
    /// Units for each second of the median step, and the share of the device's speed that it takes
    /// where both are known; `None` when no step was made.
    pub rate: Option<(f64, Option<f64>)>,
}

/// The loop's own part of a checkpoint.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(default)]
pub(super) struct LoopState {
    detector: SpikeDetector,
    skipped_in_a_row: usize,
    /// Steps whose data were left out on ways back, over the whole run.
    left_out: u64,
    /// The best value of `run.keep_best`, and the step of its checkpoint.
    pub(super) best: Option<(f32, usize)>,
}

/// Trains `task` by `plan`, from the newest good checkpoint of the run if there is one.
///
/// Checkpoints go to `<run>/step-NNNNNNN`, the link `<run>/latest` points to the newest and
/// `<run>/best` to the best by `run.keep_best`; metrics go to `<run>/metrics.jsonl` and
/// `<run>/tensorboard`, images of evaluations to `<run>/samples`, all of it to `<run>/report.html`.
///
/// # Errors
/// [`Error::Interrupted`] after a stop was asked for and the state was saved; [`Error::Diverged`];
/// errors of data and files.
pub fn run<T: Task>(
    task: &mut T,
    plan: &Plan<'_>,
    reporter: Reporter,
    stop: &StopFlag,
) -> Result<RunSummary> {
    let run_dir = plan.run.path();
    std::fs::create_dir_all(&run_dir).map_err(Error::io(&run_dir))?;
    let checkpoints = Checkpoints::new(&run_dir, plan.run);
    let mut state = LoopState::default();
    let mut resumed_at = 0;
    if let Some((step, dir)) = checkpoints.newest_good(usize::MAX)? {
        task.restore(&dir, 0)?;
        state = checkpoints.take_up(step, &dir)?;
        resumed_at = step;
    }
    if resumed_at > plan.run.steps {
        let steps = plan.run.steps;
        let message = format!("the run has taken {resumed_at} steps already; run.steps is {steps}");
        return Err(Error::file(&run_dir, message));
    }
    let mut reporter = reporter.for_run(&run_dir, resumed_at)?;
    reporter.start_at(resumed_at);
    if resumed_at > 0 {
        let text = format!("from {}", run_dir.join(format!("step-{resumed_at:07}")).display());
        reporter.event(resumed_at, "resumed", &text)?;
    }
    let pace = Pace::new(plan.peak_flops, task.flops_per_unit());
    let way_back = WayBack { to: resumed_at, times: 0 };
    let (task, reporter) = (task, &mut reporter);
    let mut work = Loop { task, plan, checkpoints, reporter, stop, state, pace, way_back };
    let done = work.run(resumed_at);
    let rate = work.pace.median();
    if let Err(error) = &done
        && !matches!(error, Error::Interrupted { .. })
    {
        // The first error is the one to tell.
        let _ = reporter.event(resumed_at, "failed", &error.to_string());
    }
    reporter.write_report();
    reporter.finish();
    let evaluation = done?;
    let checkpoint = state::latest_checkpoint(&run_dir).unwrap_or(run_dir);
    Ok(RunSummary { checkpoint, resumed_at, evaluation, rate })
}

struct Loop<'a, T> {
    task: &'a mut T,
    plan: &'a Plan<'a>,
    checkpoints: Checkpoints<'a>,
    reporter: &'a mut Reporter,
    stop: &'a StopFlag,
    state: LoopState,
    pace: Pace,
    way_back: WayBack,
}

/// The checkpoint that the run went back to last, and how often.
struct WayBack {
    to: usize,
    times: usize,
}

impl<T: Task> Loop<'_, T> {
    fn run(&mut self, first: usize) -> Result<Metrics> {
        let config = self.plan.run;
        let mut evaluation = Metrics::new();
        let mut step = first;
        while step < config.steps {
            let lr = self.plan.peak_lr * self.plan.schedule.factor(step, config.steps);
            match self.step(step, lr)? {
                Outcome::Done => step += 1,
                Outcome::Back(reason, good) => {
                    step = self.rewind(step, good, &reason)?;
                    continue;
                }
            }
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

    /// One step, its report and its judgement.
    fn step(&mut self, step: usize, lr: f64) -> Result<Outcome> {
        let safety = self.plan.safety;
        let begun = Instant::now();
        let stepped = match self.task.step(step, lr) {
            Ok(stepped) => stepped,
            Err(Error::Diverged { message, .. }) => return Ok(Outcome::Back(message, step)),
            Err(error) => return Err(error),
        };
        let done = step + 1;
        self.reporter.step(done, stepped.units);
        self.pace.add(stepped.units, begun.elapsed());
        if let Some(reason) = &stepped.skipped {
            self.state.skipped_in_a_row += 1;
            self.reporter.event(done, "skipped", &format!("{reason}; no weight was changed"))?;
            let times = self.state.skipped_in_a_row;
            if times > safety.max_skipped {
                let reason = format!("{reason} for {times} steps in a row");
                return Ok(Outcome::Back(reason, done.saturating_sub(times)));
            }
            return Ok(Outcome::Done);
        }
        self.state.skipped_in_a_row = 0;
        let phase = self.task.phase(step);
        let loss = stepped.loss().unwrap_or(0.0);
        if self.state.detector.is_spike(step, loss, phase, safety) {
            let detector = &mut self.state.detector;
            let (suspicious, good) = (detector.suspicious(), detector.since());
            let reason =
                format!("the loss was far above its usual for {suspicious} steps ({loss:.4})");
            if self.checkpoints.newest_good(good)?.is_some() {
                return Ok(Outcome::Back(reason, good));
            }
            detector.accept();
            let text = format!("{reason}; there is no checkpoint before it to go back to");
            self.reporter.event(done, "spike", &text)?;
        }
        if done.is_multiple_of(self.plan.run.log_every) || done == self.plan.run.steps {
            let mut metrics = stepped.metrics;
            metrics.push(("lr".into(), lr));
            metrics.extend(self.task.since_last());
            metrics.extend(self.pace.take(T::UNIT));
            self.reporter.metrics(done, "train", &metrics)?;
        }
        Ok(Outcome::Done)
    }

    fn evaluate(&mut self, step: usize) -> Result<Metrics> {
        let begun = Instant::now();
        let evaluation = self.task.evaluate()?;
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
        self.pace.since += begun.elapsed();
        Ok(evaluation)
    }

    /// Whether `evaluation` has the best value so far of the metric that the recipe names.
    fn is_best(&mut self, step: usize, evaluation: &Metrics) -> bool {
        let Some(name) = &self.plan.run.keep_best else { return false };
        let Some((_, value)) = evaluation.iter().find(|(known, _)| known == name) else {
            self.reporter.note(&format!("run.keep_best: the evaluation has no metric {name}"));
            return false;
        };
        let (lower, value) = (name.contains("loss"), *value as f32);
        let better = |(best, _): (f32, usize)| if lower { value < best } else { value > best };
        let is_best = value.is_finite() && self.state.best.is_none_or(better);
        if is_best {
            self.state.best = Some((value, step));
        }
        is_best
    }

    /// Goes back to the newest checkpoint of at most `good` steps and leaves out the data of the steps
    /// since, that of `step` included. Returns the step that it stands at.
    fn rewind(&mut self, step: usize, good: usize, reason: &str) -> Result<usize> {
        let diverged = |why: &str| Error::Diverged { step, message: format!("{reason}; {why}") };
        let Some((to, dir)) = self.checkpoints.newest_good(good)? else {
            return Err(diverged("there is no checkpoint before it to go back to"));
        };
        if to != self.way_back.to {
            self.way_back = WayBack { to, times: 0 };
        }
        self.way_back.times += 1;
        if self.way_back.times > self.plan.safety.max_rewinds {
            let why = format!(
                "the run went back to step {to} {} times already (safety.max_rewinds)",
                self.plan.safety.max_rewinds
            );
            return Err(diverged(&why));
        }
        // Data read since that checkpoint: those of its steps, and what was left out before.
        let before = self.state.left_out;
        self.checkpoints.forget_after(to)?;
        self.state = self.checkpoints.take_up(to, &dir)?;
        let skip = (step + 1 - to) as u64 + before - self.state.left_out;
        self.state.left_out += skip;
        self.task.restore(&dir, skip)?;
        self.reporter.rewind(to)?;
        let text =
            format!("from step {} because {reason}; leaving out {skip} steps' data", step + 1);
        self.reporter.event(to, "rewound", &text)?;
        Ok(to)
    }
}

enum Outcome {
    Done,
    /// Why the run has to go back, and the number of steps that were good.
    Back(String, usize),
}

/// How fast it goes.
struct Pace {
    /// The share of the device's speed that one unit for each second takes, where it is known.
    share_per_rate: Option<f64>,
    /// Units for each second of every step.
    rates: Vec<f32>,
    /// Since the last report.
    units: usize,
    since: Instant,
}

impl Pace {
    fn new(peak_flops: Option<f64>, flops_per_unit: Option<f64>) -> Self {
        let share_per_rate = flops_per_unit.zip(peak_flops).map(|(flops, peak)| flops / peak);
        Self { share_per_rate, rates: Vec::new(), units: 0, since: Instant::now() }
    }

    fn add(&mut self, units: usize, time: Duration) {
        self.units += units;
        self.rates.push(units as f32 / time.as_secs_f32().max(1e-9));
    }

    /// The rate since the last report, and the share of the device's speed that it takes.
    fn take(&mut self, unit: &'static str) -> Metrics {
        let rate = self.units as f64 / self.since.elapsed().as_secs_f64().max(1e-9);
        (self.units, self.since) = (0, Instant::now());
        let mut metrics: Metrics = vec![(format!("{unit}_per_s_now").into(), rate)];
        metrics.extend(self.share_per_rate.map(|share| ("mfu".into(), share * rate)));
        metrics
    }

    /// The same of the median step.
    fn median(&mut self) -> Option<(f64, Option<f64>)> {
        let middle = self.rates.len() / 2;
        if self.rates.is_empty() {
            return None;
        }
        let rate = f64::from(*self.rates.select_nth_unstable_by(middle, f32::total_cmp).1);
        Some((rate, self.share_per_rate.map(|share| share * rate)))
    }
}
