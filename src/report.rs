//! Progress for people (a bar on the terminal) and for programs (`metrics.jsonl`).

use std::fs::{File, OpenOptions};
use std::io::{BufWriter, Write};
use std::path::Path;
use std::time::Instant;

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use serde_json::{Map, Value, json};

use crate::error::{Error, Result};

/// Named numbers of a step or an evaluation, in the order in which they are shown.
pub type Metrics = Vec<(&'static str, f64)>;

/// Where a long piece of work tells how it goes.
#[derive(Debug)]
pub struct Reporter {
    bar: ProgressBar,
    is_silent: bool,
    log: Option<BufWriter<File>>,
    started: Instant,
    unit: &'static str,
    units: u64,
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
        Self { bar, is_silent: false, log: None, started: Instant::now(), unit, units: 0 }
    }

    /// Also appends every report to the JSON lines of `path`.
    ///
    /// Lines of steps after `resumed_at` are dropped first: the run is about to repeat them.
    ///
    /// # Errors
    /// [`Error::Io`] when the file cannot be read or written.
    pub fn with_log(mut self, path: &Path, resumed_at: usize) -> Result<Self> {
        if path.exists() {
            let text = std::fs::read_to_string(path).map_err(Error::io(path))?;
            let step = |line: &&str| -> Option<u64> {
                serde_json::from_str::<Value>(line).ok()?.get("step")?.as_u64()
            };
            let kept =
                text.lines().filter(|line| step(line).is_some_and(|s| s <= resumed_at as u64));
            let kept: String = kept.flat_map(|line| [line, "\n"]).collect();
            std::fs::write(path, kept).map_err(Error::io(path))?;
        }
        let file =
            OpenOptions::new().create(true).append(true).open(path).map_err(Error::io(path))?;
        self.log = Some(BufWriter::new(file));
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

    /// Shows `metrics` beside the bar and writes them to the log under `kind`.
    ///
    /// # Errors
    /// [`Error::Io`] when the log cannot be written.
    pub fn metrics(&mut self, step: usize, kind: &str, metrics: &Metrics) -> Result<()> {
        let shown: Vec<String> = metrics.iter().map(|(k, v)| format!("{k} {v:.4}")).collect();
        let rate = self.rate();
        self.bar.set_message(format!("{rate:.0} {}/s {}", self.unit, shown.join(" ")));
        let mut line = Map::new();
        line.insert("step".to_owned(), json!(step));
        line.insert("kind".to_owned(), json!(kind));
        line.insert("elapsed_s".to_owned(), json!(self.started.elapsed().as_secs_f64()));
        line.insert(format!("{}_per_s", self.unit), json!(rate));
        line.extend(metrics.iter().map(|(k, v)| ((*k).to_owned(), json!(v))));
        if let Some(log) = &mut self.log {
            let path = Path::new("metrics.jsonl");
            writeln!(log, "{}", Value::Object(line)).map_err(Error::io(path))?;
            log.flush().map_err(Error::io(path))?;
        }
        Ok(())
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
