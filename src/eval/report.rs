//! The files of an evaluation: `results.json`, `samples.jsonl`, `sheet.png`, and what official servers take.

use std::path::Path;

use serde::{Serialize, Serializer};
use serde_json::{Map, Value};

use super::Score;
use crate::data::BadSample;
use crate::error::{Error, Result};
use crate::files::{write_atomic, write_png};
use crate::sheet::{Cell, Layout, Section, sheet};

/// Eight images in a row.
const SHEET: Layout = Layout { columns: 8, image: 128, text_scale: 1, gap: 10 };

/// Where and with what a report was made.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct Environment {
    /// This program's version.
    pub version: String,
    /// The commit it was built from, where that is known.
    pub commit: Option<String>,
    /// The device, as in `--device`.
    pub device: String,
    /// The number format of the model.
    pub dtype: String,
    /// The seed of everything drawn at random.
    pub seed: u64,
    /// The checkpoint's directory.
    pub checkpoint: String,
    /// A digest of the checkpoint's files; none without a manifest.
    pub digest: Option<String>,
}

/// One item: what went in, what should come out, what came out, and how it was judged. The names
/// are lmms-eval's where it has one.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct SampleRecord {
    /// Index in the data set.
    pub doc_id: usize,
    /// Where the item comes from: file and row or member.
    pub id: String,
    /// What the model was asked beside the image.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub input: String,
    /// What is right.
    pub target: Value,
    /// What the model gave.
    pub response: Value,
    /// The group of items that it is counted in.
    #[serde(rename = "type", skip_serializing_if = "Option::is_none")]
    pub kind: Option<String>,
    /// Items that hang together, such as the questions about an image, have the same.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub group: Option<String>,
    /// By measure.
    #[serde(serialize_with = "in_order")]
    pub scores: Vec<(&'static str, f64)>,
}

/// All that an evaluation found.
#[derive(Clone, Debug, Default)]
pub struct Report {
    /// What was measured, such as `vqa`.
    pub task: &'static str,
    /// The data set.
    pub dataset: String,
    /// By name, in the order in which people read them; the first is the headline.
    pub scores: Vec<(String, Score)>,
    /// What decided the result beside data and checkpoint.
    pub config: Map<String, Value>,
    /// Every item.
    pub samples: Vec<SampleRecord>,
    /// What an official server takes, by the name of its file.
    pub submission: Option<(&'static str, Vec<Value>)>,
    /// Items that could not be read.
    pub bad: Vec<BadSample>,
    /// Some items to look at; may be empty.
    pub sheet: Vec<Cell>,
}

impl Report {
    /// The score `name`.
    pub fn score(&self, name: &str) -> Option<Score> {
        self.scores.iter().find(|(known, _)| known == name).map(|(_, score)| *score)
    }

    /// The content of `results.json`, keys in order.
    pub fn results(&self, environment: &Environment) -> impl Serialize {
        let headline = self.scores.first().map(|(_, score)| *score);
        Results {
            task: self.task,
            dataset: self.dataset.clone(),
            n: headline.map_or(0, |score| score.n),
            interval: headline.and_then(|score| score.interval),
            scores: self.scores.clone(),
            bad_samples: self.bad.clone(),
            config: self.config.clone(),
            environment: environment.clone(),
        }
    }

    /// Writes the files into `dir`, which is made if need be; the sheet only if it has images.
    /// Each file appears whole or not at all, `results.json` last.
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
    config: Map<String, Value>,
    environment: Environment,
}

fn in_order<S: Serializer, K: Serialize, V: Serialize>(
    pairs: &[(K, V)],
    serializer: S,
) -> std::result::Result<S::Ok, S::Error> {
    serializer.collect_map(pairs.iter().map(|(key, value)| (key, value)))
}

fn json(value: &impl Serialize) -> String {
    serde_json::to_string(value).expect("names and numbers are valid JSON")
}
