//! The record of a run, read from its directory for a report.

use std::collections::BTreeMap;
use std::path::Path;

use serde::Deserialize;
use serde_json::Value;

use super::experts::LayerExperts;
use super::log::{self, Line};
use super::omission::Omission;
use super::sample::SampleText;
use crate::error::{Error, Result};
use crate::files::read_json;

/// Name of the log in a run's directory.
pub(super) const METRICS: &str = "metrics.jsonl";

/// Where to look for the recipe: in the run, then in its newest checkpoint.
const RECIPES: [&str; 2] = ["recipe.toml", "latest/trainer/recipe.toml"];

/// The record of a run: its metrics, events and samples.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct RunRecord {
    /// Name of the run's directory.
    pub name: String,
    /// The values in `environment.json`, nested names joined by dots; empty without the file.
    pub environment: Vec<(String, String)>,
    /// The resolved recipe, as TOML.
    pub recipe: Option<String>,
    /// The last reported step.
    pub step: u64,
    /// Duration of the run in seconds.
    pub elapsed_s: f64,
    /// Curves sorted by name; under the same name, training comes first.
    pub series: Vec<Series>,
    /// Events in chronological order.
    pub events: Vec<RunEvent>,
    /// Evaluations, newest first.
    pub evaluations: Vec<Evaluation>,
    /// What was left out of the data.
    pub left_out: Vec<Omission>,
    /// What the experts of each sparse layer did up to a step, at last.
    pub experts: Option<(u64, Vec<LayerExperts>)>,
}

/// A metric over the steps of a run.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Series {
    /// The metric, such as `loss`.
    pub name: String,
    /// The kind of its log lines, such as `train` or `eval`.
    pub kind: String,
    /// Steps and finite values.
    pub points: Vec<(u64, f64)>,
}

/// An event of a run.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(default)]
pub struct RunEvent {
    /// The step at which it happened.
    pub step: u64,
    /// The kind of event, such as `resumed`.
    #[serde(rename = "event")]
    pub kind: String,
    /// Details.
    pub text: String,
    /// Seconds since the run began.
    pub elapsed_s: f64,
}

/// The results of an evaluation.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Evaluation {
    /// The step after which it ran.
    pub step: u64,
    /// Metrics by name.
    pub metrics: BTreeMap<String, f64>,
    /// Path of its image relative to the run's directory, with `/`.
    pub image: Option<String>,
    /// Sample texts.
    pub samples: Vec<SampleText>,
}

impl RunRecord {
    /// Reads the run in `dir`. Missing files leave fields empty; damaged lines of the log are skipped.
    ///
    /// # Errors
    /// [`Error::Io`] if a file cannot be read; [`Error::File`] if `environment.json` is not JSON.
    pub fn read(dir: &Path) -> Result<Self> {
        let lines = log::read(&dir.join(METRICS))?;
        let measured = || lines.iter().filter(|line| log::kind_of(line) != log::EVENT);
        let last = measured().filter_map(log::step_of).max();
        // Images of later steps are left over from before a rewind.
        let mut images = images(dir)?;
        images.retain(|step| last.is_none_or(|last| *step <= last));
        Ok(Self {
            name: run_name(dir),
            environment: environment(&dir.join("environment.json"))?,
            recipe: RECIPES.iter().find_map(|path| std::fs::read_to_string(dir.join(path)).ok()),
            step: last.unwrap_or(0),
            elapsed_s: lines
                .iter()
                .filter_map(|line| number(line, "elapsed_s"))
                .fold(0.0, f64::max),
            series: series(measured()),
            events: lines.iter().filter_map(event).collect(),
            evaluations: evaluations(measured(), &images),
            left_out: lines.iter().rev().find_map(left_out).unwrap_or_default(),
            experts: lines.iter().rev().find_map(experts),
        })
    }

    /// The last value of each metric of `kind`, by name.
    pub fn newest(&self, kind: &str) -> impl Iterator<Item = (&str, f64)> {
        self.series
            .iter()
            .filter(move |series| series.kind == kind)
            .filter_map(|series| Some((series.name.as_str(), series.points.last()?.1)))
    }
}

/// The name of the run in `dir`.
pub(super) fn run_name(dir: &Path) -> String {
    let absolute = dir.canonicalize().unwrap_or_else(|_| dir.to_owned());
    absolute.file_name().map_or("run".to_owned(), |name| name.to_string_lossy().into_owned())
}

/// The path of the image of `step`, relative to the run's directory.
pub(super) fn image_name(step: u64) -> String {
    format!("samples/step-{step:07}.png")
}

/// The steps that have an image.
fn images(dir: &Path) -> Result<Vec<u64>> {
    let dir = dir.join("samples");
    if !dir.is_dir() {
        return Ok(Vec::new());
    }
    let mut steps = Vec::new();
    for entry in std::fs::read_dir(&dir).map_err(Error::io(&dir))? {
        let name = entry.map_err(Error::io(&dir))?.file_name();
        let step = name.to_str().and_then(|name| name.strip_prefix("step-")?.strip_suffix(".png"));
        steps.extend(step.and_then(|step| step.parse::<u64>().ok()));
    }
    Ok(steps)
}

fn number(line: &Line, name: &str) -> Option<f64> {
    line.get(name)?.as_f64()
}

/// The metrics of `line`. In evaluations the rate is omitted, as it is that of training.
fn metrics(line: &Line) -> impl Iterator<Item = (&String, f64)> {
    let trains = log::kind_of(line) == "train";
    line.iter()
        .filter(move |(name, _)| trains || !name.ends_with("_per_s"))
        .filter(|(name, _)| *name != "step" && *name != "elapsed_s")
        .filter_map(|(name, value)| Some((name, value.as_f64()?)))
}

fn series<'a>(lines: impl Iterator<Item = &'a Line>) -> Vec<Series> {
    let mut found: BTreeMap<_, Vec<(u64, f64)>> = BTreeMap::new();
    for line in lines {
        let (Some(step), kind) = (log::step_of(line), log::kind_of(line)) else { continue };
        for (name, value) in metrics(line) {
            // `false` sorts first: training before evaluation.
            found.entry((name, kind != "train", kind)).or_default().push((step, value));
        }
    }
    let series = |((name, _, kind), points): ((&String, bool, &str), _)| Series {
        name: name.clone(),
        kind: kind.to_owned(),
        points,
    };
    found.into_iter().map(series).collect()
}

fn event(line: &Line) -> Option<RunEvent> {
    let is_event = log::kind_of(line) == log::EVENT;
    is_event.then(|| serde_json::from_value(Value::Object(line.clone())).ok()).flatten()
}

fn left_out(line: &Line) -> Option<Vec<Omission>> {
    let is_left_out = log::kind_of(line) == log::LEFT_OUT;
    is_left_out.then(|| serde_json::from_value(line.get("left_out")?.clone()).ok()).flatten()
}

fn experts(line: &Line) -> Option<(u64, Vec<LayerExperts>)> {
    let is_experts = log::kind_of(line) == log::EXPERTS;
    let layers = is_experts.then(|| serde_json::from_value(line.get("experts")?.clone()).ok());
    Some((log::step_of(line)?, layers.flatten()?))
}

fn evaluations<'a>(lines: impl Iterator<Item = &'a Line>, images: &[u64]) -> Vec<Evaluation> {
    let mut found = BTreeMap::new();
    for line in lines {
        let Some(step) = log::step_of(line) else { continue };
        match log::kind_of(line) {
            "eval" => {
                let metrics = metrics(line).map(|(name, value)| (name.clone(), value));
                at(&mut found, step).metrics.extend(metrics);
            }
            log::SAMPLES => {
                let samples = line.get("samples").cloned().unwrap_or_default();
                let samples: Vec<SampleText> = serde_json::from_value(samples).unwrap_or_default();
                at(&mut found, step).samples.extend(samples);
            }
            _ => {}
        }
    }
    for &step in images {
        at(&mut found, step).image = Some(image_name(step));
    }
    found.into_values().rev().collect()
}

fn at(found: &mut BTreeMap<u64, Evaluation>, step: u64) -> &mut Evaluation {
    found.entry(step).or_insert_with(|| Evaluation { step, ..Evaluation::default() })
}

fn environment(path: &Path) -> Result<Vec<(String, String)>> {
    let mut rows = Vec::new();
    if path.exists() {
        flatten("", &read_json(path)?, &mut rows);
    }
    Ok(rows)
}

/// Appends the leaves of `value` under their dotted names, without nulls.
fn flatten(name: &str, value: &Value, rows: &mut Vec<(String, String)>) {
    match value {
        Value::Object(fields) => {
            for (key, value) in fields {
                let dot = if name.is_empty() { "" } else { "." };
                flatten(&format!("{name}{dot}{key}"), value, rows);
            }
        }
        Value::Null => {}
        Value::String(text) => rows.push((name.to_owned(), text.clone())),
        other => rows.push((name.to_owned(), other.to_string())),
    }
}
