//! POPE: yes/no questions about whether an object is in an image.
//!
//! Layout: `output/*/*_pope_*.json` of <https://github.com/AoiDragon/POPE>: JSON lines for COCO, a JSON
//! list for the other data sets.

use std::path::Path;

use serde::{Deserialize, Serialize};
use serde_json::json;

use super::read;
use super::record::{Record, columns};
use crate::Result;
use crate::data::dataset::Fields;

/// A question.
#[derive(Deserialize)]
pub(super) struct Question {
    question_id: u64,
    image: Box<str>,
    text: Box<str>,
    label: Label,
}

#[derive(Clone, Copy, Deserialize, Serialize)]
#[serde(rename_all = "lowercase")]
enum Label {
    Yes,
    No,
}

/// Reads the questions of the file at `path`.
///
/// # Errors
/// If the file is malformed or an id occurs twice.
pub(super) fn read(path: &Path) -> Result<Vec<Question>> {
    let rows = read::rows::<Question>(path)?;
    let ids = rows.iter().map(|(_, question)| question.question_id);
    read::places(path, ids, |n| format!("{}: question_id", rows[n].0))?;
    Ok(rows.into_iter().map(|(_, question)| question).collect())
}

impl Record for Question {
    fn label(&self) -> String {
        format!("question {}", self.question_id)
    }

    fn fields(&self) -> Fields {
        columns([
            ("question_id", json!(self.question_id)),
            ("file_name", json!(self.image)),
            ("question", json!(self.text)),
            ("answer", json!(self.label)),
        ])
    }

    fn image(&self) -> Option<String> {
        Some(self.image.clone().into())
    }
}
