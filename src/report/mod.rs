//! What a run tells: a bar on the terminal for the moment, and in the run's directory `metrics.jsonl`
//! for programs, `tensorboard/` for TensorBoard, `samples/` and `report.html` for people.

mod chart;
pub mod html;
mod log;
mod record;
mod scale;
mod tensorboard;

use std::borrow::Cow;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::time::Instant;

use image::RgbImage;
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use serde::{Deserialize, Serialize};
use serde_json::json;

pub use record::{Evaluation, RunEvent, RunRecord, Series};

use crate::error::{Error, Result};
use crate::files::{self, write_atomic};
use crate::memory;
use log::{Line, Log};
use tensorboard::EventWriter;

/// Named numbers of a step or an evaluation, in the order in which they are shown.
pub type Metrics = Vec<(Cow<'static, str>, f64)>;

/// A text that the model wrote, beside what it was asked and what would have been right.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct SampleText {
    /// The data set.
    pub source: String,
    /// What the model was given.
    pub prompt: String,
    /// What is right; empty where nothing is.
    pub target: String,
    /// What the model wrote.
    pub generated: String,
}

/// Where a long piece of work tells how it goes.
#[derive(Debug)]
pub struct Reporter {
    bar: ProgressBar,
    is_silent: bool,
    run: Option<RunFiles>,
    started: Instant,
    unit: &'static str,
    units: u64,
}

/// The files of a run that grow while it goes on.
#[derive(Debug)]
struct RunFiles {
    dir: PathBuf,
    log: Log,
    tensorboard: EventWriter,
}

impl RunFiles {
    fn open(dir: &Path, step: usize) -> Result<Self> {
        std::fs::create_dir_all(dir).map_err(Error::io(dir))?;
        let log = Log::open(&dir.join(record::METRICS), step)?;
        Ok(Self { dir: dir.to_owned(), log, tensorboard: event_writer(dir, step)? })
    }
}

fn event_writer(run: &Path, step: usize) -> Result<EventWriter> {
    EventWriter::create(&run.join("tensorboard"), &record::run_name(run), step + 1)
}

impl Reporter {
    /// A reporter that says nothing; for tests and quiet runs.
    pub fn silent() -> Self {
        Self { is_silent: true, ..Self::new(ProgressBar::hidden(), "items") }
    }

    /// A bar of `steps` on the terminal; hidden when standard error is none. Rates count `unit`.
    pub fn bar(steps: u64, unit: &'static str) -> Self {
        let bar = ProgressBar::with_draw_target(Some(steps), ProgressDrawTarget::stderr_with_hz(4));
        let style = "{bar:24} {pos}/{len} {elapsed_precise} eta {eta_precise} {wide_msg}";
        if let Ok(style) = ProgressStyle::with_template(style) {
            bar.set_style(style);
        }
        Self::new(bar, unit)
    }

    fn new(bar: ProgressBar, unit: &'static str) -> Self {
        Self { bar, is_silent: false, run: None, started: Instant::now(), unit, units: 0 }
    }

    /// Also reports to the files of the run in `run_dir`, which goes on after `resumed_at`.
    ///
    /// Metrics of later steps are dropped from `metrics.jsonl` and from what TensorBoard shows: the
    /// run is about to repeat them. So is a line that an earlier end of the run cut off.
    ///
    /// # Errors
    /// [`Error::Io`] when the files cannot be read or written.
    pub fn for_run(mut self, run_dir: &Path, resumed_at: usize) -> Result<Self> {
        self.run = Some(RunFiles::open(run_dir, resumed_at)?);
        Ok(self)
    }

    /// Starts the bar at `step`, for resumed work.
    pub fn start_at(&self, step: usize) {
        self.bar.set_position(step as u64);
        self.bar.reset_eta();
    }

    /// One step done, in which `units` were processed.
    pub fn step(&mut self, step: usize, units: usize) {
        self.units += units as u64;
        self.bar.set_position(step as u64);
    }

    /// Units per second since the reporter was made.
    pub fn rate(&self) -> f64 {
        self.units as f64 / self.started.elapsed().as_secs_f64().max(1e-9)
    }

    /// Shows `metrics` beside the bar and writes them to the run's files under `kind`; with those of
    /// training goes the memory that the process holds.
    ///
    /// # Errors
    /// [`Error::Io`] when the files cannot be written.
    pub fn metrics(&mut self, step: usize, kind: &str, metrics: &Metrics) -> Result<()> {
        let shown: Vec<String> = metrics.iter().map(|(k, v)| format!("{k} {v:.4}")).collect();
        let rate = self.rate();
        self.bar.set_message(format!("{rate:.0} {}/s {}", self.unit, shown.join(" ")));
        let Some(run) = &mut self.run else { return Ok(()) };
        let mut line = Line::new();
        line.insert(format!("{}_per_s", self.unit), json!(rate));
        if let Some(bytes) = memory::resident().filter(|_| kind == "train") {
            line.insert("memory_bytes".to_owned(), json!(bytes));
        }
        line.extend(metrics.iter().map(|(k, v)| (k.to_string(), json!(v))));
        let scalar = |(name, value): (&String, &serde_json::Value)| {
            Some((format!("{kind}/{name}"), value.as_f64()?))
        };
        let scalars: Vec<_> = line.iter().filter_map(scalar).collect();
        run.tensorboard.scalars(step, &scalars)?;
        run.log.append(step, kind, line)
    }

    /// Tells of something that happened to the run, such as `resumed` or `rewound`: a note, and a line
    /// of the log that stays even when the run goes back to an earlier step.
    ///
    /// # Errors
    /// [`Error::Io`] when the log cannot be written.
    pub fn event(&mut self, step: usize, kind: &str, text: &str) -> Result<()> {
        self.note(&format!("step {step}: {kind}: {text}"));
        let Some(run) = &mut self.run else { return Ok(()) };
        let mut line = Line::new();
        line.insert("event".to_owned(), json!(kind));
        line.insert("text".to_owned(), json!(text));
        run.log.append(step, log::EVENT, line)
    }

    /// Writes texts of an evaluation to the run's files.
    ///
    /// # Errors
    /// [`Error::Io`] when the files cannot be written.
    pub fn samples(&mut self, step: usize, samples: &[SampleText]) -> Result<()> {
        let Some(run) = &mut self.run else { return Ok(()) };
        let mut rows = vec![["source", "prompt", "target", "generated"]];
        rows.extend(samples.iter().map(|sample| {
            let SampleText { source, prompt, target, generated } = sample;
            [source.as_str(), prompt, target, generated]
        }));
        run.tensorboard.table(step, "eval/samples", &rows)?;
        let mut line = Line::new();
        line.insert("samples".to_owned(), json!(samples));
        run.log.append(step, log::SAMPLES, line)
    }

    /// Writes an image of an evaluation to `samples/step-NNNNNNN.png` of the run.
    ///
    /// # Errors
    /// [`Error::Io`] or [`Error::File`] when it cannot be written.
    pub fn image(&mut self, step: usize, image: &RgbImage) -> Result<()> {
        let Some(run) = &mut self.run else { return Ok(()) };
        let path = run.dir.join(record::image_name(step as u64));
        let png = files::png(&path, image)?;
        write_atomic(&path, &png)?;
        run.tensorboard.image(step, "eval/image", image.dimensions(), &png)
    }

    /// The run goes back to `step`: metrics and samples of later steps are dropped as by
    /// [`Self::for_run`], events stay.
    ///
    /// # Errors
    /// [`Error::Io`] when the files cannot be written.
    pub fn rewind(&mut self, step: usize) -> Result<()> {
        self.start_at(step);
        let Some(run) = &mut self.run else { return Ok(()) };
        run.log.rewind(step)?;
        run.tensorboard = event_writer(&run.dir, step)?;
        Ok(())
    }

    /// Writes `report.html` from what lies in the run's directory. No run ends for want of a report:
    /// what stands in the way is noted.
    pub fn write_report(&self) {
        let Some(run) = &self.run else { return };
        let written = RunRecord::read(&run.dir).and_then(|record| {
            write_atomic(&run.dir.join("report.html"), html::render(&record).as_bytes())
        });
        if let Err(error) = written {
            self.note(&format!("no report: {error}"));
        }
    }

    /// A line for people: above the bar or, without a terminal, on standard error. Silent reporters
    /// say nothing.
    pub fn note(&self, text: &str) {
        if self.bar.is_hidden() && !self.is_silent {
            // No terminal: what would scroll past above the bar becomes a line of the log.
            let _ = writeln!(std::io::stderr(), "{text}");
        } else {
            self.bar.println(text);
        }
    }

    /// Takes the bar away.
    pub fn finish(&self) {
        self.bar.finish_and_clear();
    }
}
