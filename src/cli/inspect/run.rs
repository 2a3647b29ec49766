//! Describes a run by its newest checkpoint and its last metrics.

use std::path::Path;

use calumma::train::newest_good_checkpoint;
use calumma::{Error, Result};
use serde_json::{Map, Value, json};

use crate::cli::session::{Session, name};

/// Describes the run in `dir`.
///
/// # Errors
/// If `dir` is not a run or its files cannot be read.
pub fn show(dir: &Path, session: &Session) -> Result<()> {
    let log = dir.join("metrics.jsonl");
    let newest = newest_good_checkpoint(dir)?;
    if newest.is_none() && !log.exists() {
        return Err(Error::file(dir, "contains no checkpoint, run or data set"));
    }
    let lines = if log.exists() {
        std::fs::read_to_string(&log).map_err(Error::io(&log))?
    } else {
        String::new()
    };
    let last = |kind: &str| last_metrics(&lines, kind);
    session.line(format_args!("{}: run", dir.display()))?;
    match &newest {
        Some((step, path)) => session
            .line(format_args!("  newest good checkpoint {} (step {step})", path.display()))?,
        None => session.line("  no checkpoint yet")?,
    }
    for kind in ["train", "eval"] {
        if let Some(metrics) = last(kind) {
            session.line(format_args!("  last {kind}: {}", in_words(&metrics)))?;
        }
    }
    session.object(&json!({
        "kind": "run",
        "path": name(dir),
        "step": newest.as_ref().map(|(step, _)| step),
        "checkpoint": newest.as_ref().map(|(_, path)| name(path)),
        "train": last("train"),
        "eval": last("eval"),
    }))
}

/// The last line of `kind`.
fn last_metrics(lines: &str, kind: &str) -> Option<Map<String, Value>> {
    lines.lines().rev().find_map(|line| {
        let line: Map<String, Value> = serde_json::from_str(line).ok()?;
        (line.get("kind")? == kind).then_some(line)
    })
}

/// The metrics as text.
fn in_words(metrics: &Map<String, Value>) -> String {
    let shown = metrics.iter().filter(|(key, _)| *key != "kind").map(|(key, value)| {
        match value.as_f64().filter(|_| !value.is_u64()) {
            Some(number) => format!("{key} {number:.4}"),
            None => format!("{key} {value}"),
        }
    });
    shown.collect::<Vec<_>>().join(", ")
}
