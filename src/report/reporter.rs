//! The [`Reporter`] of a run: a progress bar, and the files in the run's directory.

use std::borrow::Cow;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::time::Instant;

use image::RgbImage;
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use serde_json::json;

use super::experts::LayerExperts;
use super::html;
use super::log::{self, Line, Log};
use super::omission::Omission;
use super::record::{self, RunRecord};
use super::sample::SampleText;
use super::tensorboard::EventWriter;
use crate::error::{Error, Result};
use crate::files::{self, write_atomic};
use crate::memory;

/// Named numbers of a step or an evaluation, in the order in which they are shown.
pub type Metrics = Vec<(Cow<'static, str>, f64)>;

/// Reports the progress of long work: on a progress bar, and for a training run in its files.
#[derive(Debug)]
pub struct Reporter {
    bar: ProgressBar,
    is_silent: bool,
    run: Option<RunFiles>,
    started: Instant,
    unit: &'static str,
    units: u64,
}

/// The open files of a run.
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
    /// A reporter without output, for tests and quiet runs.
    pub fn silent() -> Self {
        Self { is_silent: true, ..Self::new(ProgressBar::hidden(), "items") }
    }

    /// A reporter with a progress bar of `steps`; hidden if standard error is no terminal. Rates are in
    /// `unit` per second.
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

    /// Also writes to the files of the run in `run_dir`, which resumes after step `resumed_at`.
    ///
    /// Metrics of later steps are dropped from `metrics.jsonl` and hidden in TensorBoard, since the run
    /// repeats those steps; so is a truncated last line.
    ///
    /// # Errors
    /// [`Error::Io`] if the files cannot be read or written.
    pub fn for_run(mut self, run_dir: &Path, resumed_at: usize) -> Result<Self> {
        self.run = Some(RunFiles::open(run_dir, resumed_at)?);
        Ok(self)
    }

    /// Sets the bar to `step`, for resumed work.
    pub fn start_at(&self, step: usize) {
        self.bar.set_position(step as u64);
        self.bar.reset_eta();
    }

    /// Advances the bar to `step`, which processed `units`.
    pub fn step(&mut self, step: usize, units: usize) {
        self.units += units as u64;
        self.bar.set_position(step as u64);
    }

    /// Units per second since the reporter was created.
    pub fn rate(&self) -> f64 {
        self.units as f64 / self.started.elapsed().as_secs_f64().max(1e-9)
    }

    /// Shows `metrics` next to the bar and writes them to the run's files under `kind`, those of `train`
    /// with the resident memory of the process.
    ///
    /// # Errors
    /// [`Error::Io`] if the files cannot be written.
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

    /// Reports an event of the run, such as `resumed` or `rewound`: as a note, and as a line of the log
    /// that stays even if the run is rewound to an earlier step.
    ///
    /// # Errors
    /// [`Error::Io`] if the log cannot be written.
    pub fn event(&mut self, step: usize, kind: &str, text: &str) -> Result<()> {
        self.note(&format!("step {step}: {kind}: {text}"));
        let Some(run) = &mut self.run else { return Ok(()) };
        let mut line = Line::new();
        line.insert("event".to_owned(), json!(kind));
        line.insert("text".to_owned(), json!(text));
        run.log.append(step, log::EVENT, line)
    }

    /// Writes sample texts of an evaluation to the run's files.
    ///
    /// # Errors
    /// [`Error::Io`] if the files cannot be written.
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

    /// Writes what the run has left out of its data up to `step` to the log.
    ///
    /// # Errors
    /// [`Error::Io`] if the log cannot be written.
    pub fn left_out(&mut self, step: usize, left_out: &[Omission]) -> Result<()> {
        let Some(run) = &mut self.run else { return Ok(()) };
        let mut line = Line::new();
        line.insert("left_out".to_owned(), json!(left_out));
        run.log.append(step, log::LEFT_OUT, line)
    }

    /// Writes what the experts of each sparse layer did since the last call to the run's files; nothing without any.
    ///
    /// # Errors
    /// [`Error::Io`] if the files cannot be written.
    pub fn experts(&mut self, step: usize, layers: &[LayerExperts]) -> Result<()> {
        let Some(run) = self.run.as_mut().filter(|_| !layers.is_empty()) else { return Ok(()) };
        let scalars: Vec<_> = layers.iter().flat_map(LayerExperts::scalars).collect();
        run.tensorboard.scalars(step, &scalars)?;
        let mut line = Line::new();
        line.insert("experts".to_owned(), json!(layers));
        run.log.append(step, log::EXPERTS, line)
    }

    /// Writes an image of an evaluation to `samples/step-NNNNNNN.png` of the run.
    ///
    /// # Errors
    /// [`Error::Io`] or [`Error::File`] if it cannot be written.
    pub fn image(&mut self, step: usize, image: &RgbImage) -> Result<()> {
        let Some(run) = &mut self.run else { return Ok(()) };
        let path = run.dir.join(record::image_name(step as u64));
        let png = files::png(&path, image)?;
        write_atomic(&path, &png)?;
        run.tensorboard.image(step, "eval/image", image.dimensions(), &png)
    }

    /// Rewinds the run to `step`: metrics and samples of later steps are dropped as by
    /// [`Self::for_run`], events stay.
    ///
    /// # Errors
    /// [`Error::Io`] if the files cannot be written.
    pub fn rewind(&mut self, step: usize) -> Result<()> {
        self.start_at(step);
        let Some(run) = &mut self.run else { return Ok(()) };
        run.log.rewind(step)?;
        run.tensorboard = event_writer(&run.dir, step)?;
        Ok(())
    }

    /// Writes `report.html` from the files in the run's directory. A failure is only noted, so that it
    /// does not end the run.
    pub fn write_report(&self) {
        let Some(run) = &self.run else { return };
        let written = RunRecord::read(&run.dir).and_then(|record| {
            write_atomic(&run.dir.join("report.html"), html::render(&record).as_bytes())
        });
        if let Err(error) = written {
            self.note(&format!("report.html was not written: {error}"));
        }
    }

    /// Prints a line above the bar or, if the bar is hidden, to standard error. Silent reporters print
    /// nothing.
    pub fn note(&self, text: &str) {
        if self.bar.is_hidden() && !self.is_silent {
            // A closed standard error must not end the run.
            let _ = writeln!(std::io::stderr(), "{text}");
        } else {
            self.bar.println(text);
        }
    }

    /// Removes the bar.
    pub fn finish(&self) {
        self.bar.finish_and_clear();
    }
}
