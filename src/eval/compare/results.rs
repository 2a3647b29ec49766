//! Reading the results of an evaluation.

use std::path::Path;

use serde::Deserialize;
use serde::de::{Deserializer, MapAccess, Visitor};
use serde_json::Value;

use crate::error::{Error, Result};
use crate::eval::vqa::QUESTIONS;
use crate::files::read_json;
use crate::json;

/// One line of `samples.jsonl`.
#[derive(Clone, Debug, Deserialize, PartialEq)]
pub struct Item {
    /// Index in the data set; the images of one sample share it.
    pub doc_id: u64,
    /// Origin of the item.
    pub id: String,
    /// The question or prompt.
    #[serde(default)]
    pub input: Value,
    /// The right answer.
    #[serde(default)]
    pub target: Value,
    /// The type under which it is also scored.
    #[serde(rename = "type", default)]
    pub kind: Option<String>,
    /// Name of the group of dependent items that it belongs to; see the module.
    #[serde(default)]
    pub group: Option<String>,
    /// Values by score, in the file's order; `None` if not a number.
    #[serde(deserialize_with = "in_order")]
    pub scores: Vec<(String, Option<f64>)>,
}

impl Item {
    pub(super) fn score(&self, name: &str) -> Option<f64> {
        self.scores.iter().find(|(known, _)| known == name).and_then(|(_, score)| *score)
    }

    /// The name of the group that it is resampled with.
    pub(super) fn group(&self) -> &str {
        let entry = format!(", {QUESTIONS} ");
        let exploded = self.id.rsplit_once(&entry).filter(|(_, number)| {
            !number.is_empty() && number.bytes().all(|byte| byte.is_ascii_digit())
        });
        let sample = exploded.map_or(self.id.as_str(), |(sample, _)| sample);
        self.group.as_deref().unwrap_or(sample)
    }
}

/// The content of a directory of results.
#[derive(Clone, Debug, PartialEq)]
pub struct Results {
    /// The directory.
    pub name: String,
    /// The measure.
    pub task: String,
    /// The data set.
    pub dataset: String,
    /// Every item.
    pub items: Vec<Item>,
}

impl Results {
    /// Reads `results.json` and `samples.jsonl` in `dir`.
    ///
    /// # Errors
    /// Those of the files, with the line at fault.
    pub fn read(dir: &Path) -> Result<Self> {
        #[derive(Deserialize)]
        struct Header {
            task: String,
            dataset: String,
        }
        if dir.is_dir() && !dir.join("results.json").exists() {
            let message = "holds no results.json; name the --out directory of an evaluation";
            return Err(Error::file(dir, message));
        }
        let Header { task, dataset } = read_json(&dir.join("results.json"))?;
        let path = dir.join("samples.jsonl");
        let text = std::fs::read_to_string(&path).map_err(Error::io(&path))?;
        let items = json::lines(&text).map(|(number, line)| {
            let item = json::from_slice(line.as_bytes());
            let item = item.map_err(Error::because(format!("line {number}")));
            item.map_err(Error::in_file(&path))
        });
        Ok(Self {
            name: dir.display().to_string(),
            task,
            dataset,
            items: items.collect::<Result<_>>()?,
        })
    }
}

/// Reads an object of numbers with its keys in the file's order.
fn in_order<'de, D: Deserializer<'de>>(
    deserializer: D,
) -> std::result::Result<Vec<(String, Option<f64>)>, D::Error> {
    struct Pairs;
    impl<'de> Visitor<'de> for Pairs {
        type Value = Vec<(String, Option<f64>)>;

        fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
            f.write_str("an object of numbers")
        }

        fn visit_map<M: MapAccess<'de>>(
            self,
            mut map: M,
        ) -> std::result::Result<Self::Value, M::Error> {
            let mut pairs = Vec::new();
            while let Some((name, value)) = map.next_entry::<String, Value>()? {
                pairs.push((name, value.as_f64()));
            }
            Ok(pairs)
        }
    }
    deserializer.deserialize_map(Pairs)
}
