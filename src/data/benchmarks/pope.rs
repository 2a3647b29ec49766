//! POPE: yes-or-no questions about objects that are, or are not, in an image.
//!
//! Layout: `output/*/*_pope_*.json` of <https://github.com/AoiDragon/POPE>: JSON lines for COCO, a JSON
//! list for the other data sets.

use std::path::Path;

use serde::{Deserialize, Serialize};
use serde_json::json;

use super::{Record, columns, read};
use crate::Result;
use crate::data::Fields;

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

/// The questions in the file at `path`.
///
/// # Errors
/// When it is not of the format, or an id occurs twice.
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
