//! `metrics.jsonl`: one JSON object per line, in chronological order.
//!
//! Every line has `step`, `kind` and `elapsed_s`. Lines of kind `train` and `eval` also have metrics
//! under their names, [`EVENT`] lines `event` and `text`, [`SAMPLES`] lines `samples`, [`LEFT_OUT`] lines
//! `left_out`: all that the run has left out of its data up to the step, [`EXPERTS`] lines `experts`: what the experts of
//! each sparse layer did since the line before.

use std::fs::{File, OpenOptions};
use std::io::{ErrorKind, Write};
use std::path::{Path, PathBuf};
use std::time::Instant;

use serde_json::{Map, Value, json};

use crate::error::{Error, Result};
use crate::files::write_atomic;

/// The `kind` of a line with an event of the run.
pub(super) const EVENT: &str = "event";
/// The `kind` of a line with sample texts.
pub(super) const SAMPLES: &str = "samples";
/// The `kind` of a line with what was left out of the data.
pub(super) const LEFT_OUT: &str = "left_out";
/// The `kind` of a line with what experts did.
pub(super) const EXPERTS: &str = "experts";

/// The JSON object of a line.
pub(super) type Line = Map<String, Value>;

/// The log of a run, open for appending.
#[derive(Debug)]
pub(super) struct Log {
    path: PathBuf,
    file: File,
    /// Seconds that the run had taken before the log was opened.
    earlier: f64,
    opened: Instant,
}

impl Log {
    /// Opens the log at `path` for a run that resumes after `step`; see [`cut`].
    pub(super) fn open(path: &Path, step: usize) -> Result<Self> {
        let earlier = cut(path, step)?;
        let file = append_to(path)?;
        Ok(Self { path: path.to_owned(), file, earlier, opened: Instant::now() })
    }

    /// Appends a line with `fields`.
    pub(super) fn append(&mut self, step: usize, kind: &str, mut fields: Line) -> Result<()> {
        let elapsed = self.earlier + self.opened.elapsed().as_secs_f64();
        fields.insert("step".to_owned(), json!(step));
        fields.insert("kind".to_owned(), json!(kind));
        fields.insert("elapsed_s".to_owned(), json!(elapsed));
        // A single write, so that concurrent readers see whole lines.
        let line = format!("{}\n", Value::Object(fields));
        self.file.write_all(line.as_bytes()).map_err(Error::io(&self.path))
    }

    /// Rewinds to `step`; see [`cut`]. The clock keeps running.
    pub(super) fn rewind(&mut self, step: usize) -> Result<()> {
        cut(&self.path, step)?;
        self.file = append_to(&self.path)?;
        Ok(())
    }
}

fn append_to(path: &Path) -> Result<File> {
    OpenOptions::new().create(true).append(true).open(path).map_err(Error::io(path))
}

/// Drops damaged lines and lines of steps after `step`, except events. Returns the elapsed seconds at
/// the last line kept.
fn cut(path: &Path, step: usize) -> Result<f64> {
    let bytes = contents(path)?;
    let (mut kept, mut elapsed) = (Vec::new(), 0.0);
    for (text, line) in entries(&bytes) {
        if step_of(&line) <= Some(step as u64) || kind_of(&line) == EVENT {
            kept.extend_from_slice(text);
            kept.push(b'\n');
            elapsed = line.get("elapsed_s").and_then(Value::as_f64).unwrap_or(elapsed);
        }
    }
    write_atomic(path, &kept)?;
    Ok(elapsed)
}

/// The lines of the log at `path` without damaged ones; none if there is no log.
pub(super) fn read(path: &Path) -> Result<Vec<Line>> {
    Ok(entries(&contents(path)?).map(|(_, line)| line).collect())
}

/// The step of `line`.
pub(super) fn step_of(line: &Line) -> Option<u64> {
    line.get("step")?.as_u64()
}

/// The kind of `line`; empty if it has none.
pub(super) fn kind_of(line: &Line) -> &str {
    line.get("kind").and_then(Value::as_str).unwrap_or_default()
}

fn contents(path: &Path) -> Result<Vec<u8>> {
    match std::fs::read(path) {
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(Vec::new()),
        read => read.map_err(Error::io(path)),
    }
}

/// The lines as text and as objects. Damaged lines are skipped: a killed run can leave half a line, even
/// half a character.
fn entries(bytes: &[u8]) -> impl Iterator<Item = (&[u8], Line)> {
    bytes.split(|&byte| byte == b'\n').filter_map(|text| {
        let line: Line = serde_json::from_slice(text).ok()?;
        step_of(&line).map(|_| (text, line))
    })
}
