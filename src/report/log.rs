//! `metrics.jsonl`: a JSON object a line, in the order in which things happened.
//!
//! Every line has `step`, `kind` and `elapsed_s`. Metrics lie beside them under their own names, `kind`
//! being `train` or `eval`; [`EVENT`] lines have `event` and `text`, [`SAMPLES`] lines `samples`.

use std::fs::{File, OpenOptions};
use std::io::{ErrorKind, Write};
use std::path::{Path, PathBuf};
use std::time::Instant;

use serde_json::{Map, Value, json};

use crate::error::{Error, Result};
use crate::files::write_atomic;

/// The `kind` of a line that tells what happened to the run.
pub(super) const EVENT: &str = "event";
/// The `kind` of a line with texts that the model wrote.
pub(super) const SAMPLES: &str = "samples";

/// A line's object.
pub(super) type Line = Map<String, Value>;

/// The log of a run, open at its end.
#[derive(Debug)]
pub(super) struct Log {
    path: PathBuf,
    file: File,
    /// Seconds that the run took before the log was opened.
    earlier: f64,
    opened: Instant,
}

impl Log {
    /// Opens the log at `path` for a run that goes on after `step`: see [`cut`].
    pub(super) fn open(path: &Path, step: usize) -> Result<Self> {
        let earlier = cut(path, step)?;
        let file = append_to(path)?;
        Ok(Self { path: path.to_owned(), file, earlier, opened: Instant::now() })
    }

    /// Adds a line of `fields`.
    pub(super) fn append(&mut self, step: usize, kind: &str, mut fields: Line) -> Result<()> {
        let elapsed = self.earlier + self.opened.elapsed().as_secs_f64();
        fields.insert("step".to_owned(), json!(step));
        fields.insert("kind".to_owned(), json!(kind));
        fields.insert("elapsed_s".to_owned(), json!(elapsed));
        // One write, so that a reader beside the run sees whole lines.
        let line = format!("{}\n", Value::Object(fields));
        self.file.write_all(line.as_bytes()).map_err(Error::io(&self.path))
    }

    /// Goes back to `step`: see [`cut`]. The clock goes on.
    pub(super) fn rewind(&mut self, step: usize) -> Result<()> {
        cut(&self.path, step)?;
        self.file = append_to(&self.path)?;
        Ok(())
    }
}

fn append_to(path: &Path) -> Result<File> {
    OpenOptions::new().create(true).append(true).open(path).map_err(Error::io(path))
}

/// Drops damaged lines and those of steps after `step`, events excepted: what happened stays told.
/// Returns the time in seconds at the last line that is kept.
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

/// The lines of the log at `path`, damaged ones left out; none without a log.
pub(super) fn read(path: &Path) -> Result<Vec<Line>> {
    Ok(entries(&contents(path)?).map(|(_, line)| line).collect())
}

/// The step of `line`.
pub(super) fn step_of(line: &Line) -> Option<u64> {
    line.get("step")?.as_u64()
}

/// The kind of `line`; empty when it has none.
pub(super) fn kind_of(line: &Line) -> &str {
    line.get("kind").and_then(Value::as_str).unwrap_or_default()
}

fn contents(path: &Path) -> Result<Vec<u8>> {
    match std::fs::read(path) {
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(Vec::new()),
        read => read.map_err(Error::io(path)),
    }
}

/// Lines as text and as objects. A run that was killed leaves half a line, even half a character:
/// that is no object and is passed over.
fn entries(bytes: &[u8]) -> impl Iterator<Item = (&[u8], Line)> {
    bytes.split(|&byte| byte == b'\n').filter_map(|text| {
        let line: Line = serde_json::from_slice(text).ok()?;
        step_of(&line).map(|_| (text, line))
    })
}
