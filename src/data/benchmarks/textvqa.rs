//! TextVQA: questions about text in images of Open Images, with ten answers each.
//!
//! Layout: `TextVQA_0.5.1_{train,val,test}.json` of <https://textvqa.org/dataset/>. The test split
//! has no answers.

use std::path::Path;

use serde::Deserialize;
use serde_json::json;

use super::read;
use super::record::{Record, columns, most_frequent};
use crate::Result;
use crate::data::dataset::Fields;

#[derive(Deserialize)]
struct Questions {
    data: Vec<Question>,
}

/// A question.
#[derive(Deserialize)]
pub(super) struct Question {
    question_id: u64,
    image_id: Box<str>,
    question: Box<str>,
    #[serde(default)]
    answers: Box<[Box<str>]>,
}

/// Reads the questions of the file at `path`.
///
/// # Errors
/// If the file is malformed, an id occurs twice, or only some of the questions have answers.
pub(super) fn read(path: &Path) -> Result<Vec<Question>> {
    let Questions { data } = read::json(path)?;
    let ids = data.iter().map(|question| question.question_id);
    read::places(path, ids, |n| format!("data[{n}].question_id"))?;
    let answered = data.iter().map(|question| !question.answers.is_empty());
    read::all_or_none(path, answered, |n| format!("data[{n}].answers"))?;
    Ok(data)
}

impl Record for Question {
    fn label(&self) -> String {
        format!("question {}", self.question_id)
    }

    fn fields(&self) -> Fields {
        let mut fields = columns([
            ("question_id", json!(self.question_id)),
            ("image_id", json!(self.image_id)),
            ("question", json!(self.question)),
        ]);
        if let Some(answer) = most_frequent(&self.answers) {
            fields.extend(columns([("answer", json!(answer)), ("answers", json!(self.answers))]));
        }
        fields
    }

    fn image(&self) -> Option<String> {
        Some(format!("{}.jpg", self.image_id))
    }
}
