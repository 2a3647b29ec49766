//! The files of an evaluation: `results.json`, `samples.jsonl`, `sheet.png`, and submissions to
//! official servers.

use std::path::Path;

use serde::{Serialize, Serializer};
use serde_json::{Map, Value};

use super::score::Score;
use crate::data::BadSample;
use crate::error::{Error, Result};
use crate::files::{write_atomic, write_png};
use crate::report::Omission;
use crate::sheet::{Cell, Layout, Section, Tone, sheet};

/// Eight images in a row.
const SHEET: Layout = Layout { columns: 8, image: 128, text_scale: 1, gap: 10 };

/// The program, device and checkpoint of an evaluation.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct Environment {
    /// This program's version.
    pub version: String,
    /// The commit it was built from, if known.
    pub commit: Option<String>,
    /// The device, as in `--device`.
    pub device: String,
    /// The data type of the model.
    pub dtype: String,
    /// The random seed.
    pub seed: u64,
    /// The checkpoint's directory.
    pub checkpoint: String,
    /// A digest of the checkpoint's files; `None` without a manifest.
    pub digest: Option<String>,
}

/// One item: its input, the right answer, the response and the scores. Field names follow lmms-eval.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct SampleRecord {
    /// Index in the data set.
    pub doc_id: usize,
    /// Origin of the item: file and row or member.
    pub id: String,
    /// The question or prompt.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub input: String,
    /// The right answer.
    pub target: Value,
    /// The model's answer.
    pub response: Value,
    /// The type under which it is also scored.
    #[serde(rename = "type", skip_serializing_if = "Option::is_none")]
    pub kind: Option<String>,
    /// Name of a group of dependent items, such as the questions about one image.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub group: Option<String>,
    /// Values by score.
    #[serde(serialize_with = "in_order")]
    pub scores: Vec<(&'static str, f64)>,
}

/// The result of an evaluation.
#[derive(Clone, Debug, Default)]
pub struct Report {
    /// The measure, such as `vqa`.
    pub task: &'static str,
    /// The data set.
    pub dataset: String,
    /// Scores by name, in reading order; the first is the headline.
    pub scores: Vec<(String, Score)>,
    /// The settings that decided the result, besides data and checkpoint.
    pub config: Map<String, Value>,
    /// A record of every item.
    pub samples: Vec<SampleRecord>,
    /// File name and entries of a submission to an official server.
    pub submission: Option<(&'static str, Vec<Value>)>,
    /// Items that could not be read.
    pub bad: Vec<BadSample>,
    /// What was left out of the data, bad items included.
    pub left_out: Vec<Omission>,
    /// Some items to look at; may be empty.
    pub sheet: Vec<Cell>,
}

impl Report {
    /// The score `name`.
    pub fn score(&self, name: &str) -> Option<Score> {
        self.scores.iter().find(|(known, _)| known == name).map(|(_, score)| *score)
    }

    /// The content of `results.json`.
    pub fn results(&self, environment: &Environment) -> impl Serialize {
        let headline = self.scores.first().map(|(_, score)| *score);
        Results {
            task: self.task,
            dataset: self.dataset.clone(),
            n: headline.map_or(0, |score| score.n),
            interval: headline.and_then(|score| score.interval),
            scores: self.scores.clone(),
            bad_samples: self.bad.clone(),
            left_out: self.left_out.clone(),
            config: self.config.clone(),
            environment: environment.clone(),
        }
    }

    /// Writes the files into `dir`, which is created if needed; the sheet only if it has images. Each file is
    /// written atomically, `results.json` last.
    ///
    /// # Errors
    /// [`Error::Io`] or [`Error::File`] with the file that could not be written.
    pub fn write(&self, dir: &Path, environment: &Environment) -> Result<()> {
        std::fs::create_dir_all(dir).map_err(Error::io(dir))?;
        let lines: Vec<String> = self.samples.iter().map(|s| json(s) + "\n").collect();
        write_atomic(&dir.join("samples.jsonl"), lines.concat().as_bytes())?;
        if let Some((name, entries)) = &self.submission {
            write_atomic(&dir.join(name), json(entries).as_bytes())?;
        }
        if !self.sheet.is_empty() {
            let heading = format!("{} on {}", self.task, self.dataset);
            let section = Section { heading, cells: self.sheet.clone() };
            write_png(&dir.join("sheet.png"), &sheet(&[section], &SHEET))?;
        }
        let results = serde_json::to_string_pretty(&self.results(environment));
        let results = results.expect("names and numbers are valid JSON") + "\n";
        write_atomic(&dir.join("results.json"), results.as_bytes())
    }
}

#[derive(Serialize)]
struct Results {
    task: &'static str,
    dataset: String,
    #[serde(serialize_with = "in_order")]
    scores: Vec<(String, Score)>,
    n: usize,
    interval: Option<[f64; 2]>,
    bad_samples: Vec<BadSample>,
    left_out: Vec<Omission>,
    config: Map<String, Value>,
    environment: Environment,
}

/// Serialises pairs as an object with its keys in order.
fn in_order<S: Serializer, K: Serialize, V: Serialize>(
    pairs: &[(K, V)],
    serializer: S,
) -> std::result::Result<S::Ok, S::Error> {
    serializer.collect_map(pairs.iter().map(|(key, value)| (key, value)))
}

/// 1 if `holds`, else 0: the value of an item in a share.
pub(super) fn indicator(holds: bool) -> f64 {
    f64::from(u8::from(holds))
}

/// The colour of a right or wrong response on the sheet.
pub(super) fn tone(right: bool) -> Tone {
    if right { Tone::Right } else { Tone::Wrong }
}

fn json(value: &impl Serialize) -> String {
    serde_json::to_string(value).expect("names and numbers are valid JSON")
}
