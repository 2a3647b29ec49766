//! GQA: questions about images of Visual Genome, one JSON object with the question ids as keys.
//!
//! Layout: <https://cs.stanford.edu/people/dorarad/gqa/download.html>. The test, challenge and
//! submission splits have no answers.

use std::fmt;
use std::path::Path;

use serde::de::{Deserialize, Deserializer, MapAccess, Visitor};
use serde_json::json;

use super::read;
use super::record::{Record, columns};
use crate::Result;
use crate::data::dataset::Fields;

#[derive(serde::Deserialize)]
#[serde(rename_all = "camelCase")]
struct Question {
    image_id: Box<str>,
    question: Box<str>,
    answer: Option<Box<str>>,
    full_answer: Option<Box<str>>,
    is_balanced: Option<bool>,
    types: Option<Types>,
}

#[derive(serde::Deserialize)]
struct Types {
    structural: Box<str>,
    semantic: Box<str>,
    detailed: Box<str>,
}

/// A question with its id.
pub(super) struct Entry {
    id: Box<str>,
    question: Question,
}

/// Reads the questions of the file at `path`.
///
/// # Errors
/// If the file is malformed, an id occurs twice, or only some of the questions have an answer.
pub(super) fn read(path: &Path) -> Result<Vec<Entry>> {
    let Entries(entries) = read::json(path)?;
    read::places(path, entries.iter().map(|entry| &entry.id), |n| format!("entry {n}"))?;
    let answered = entries.iter().map(|entry| entry.question.answer.is_some());
    read::all_or_none(path, answered, |n| format!("{}.answer", entries[n].id))?;
    Ok(entries)
}

/// The entries of a JSON object in file order, including duplicate keys.
struct Entries(Vec<Entry>);

impl<'de> Deserialize<'de> for Entries {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> std::result::Result<Self, D::Error> {
        deserializer.deserialize_map(EntriesVisitor)
    }
}

struct EntriesVisitor;

impl<'de> Visitor<'de> for EntriesVisitor {
    type Value = Entries;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object with one entry per question")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> std::result::Result<Entries, A::Error> {
        let mut entries = Vec::new();
        while let Some((id, question)) = map.next_entry()? {
            entries.push(Entry { id, question });
        }
        Ok(Entries(entries))
    }
}

impl Record for Entry {
    fn label(&self) -> String {
        format!("question {}", self.id)
    }

    fn fields(&self) -> Fields {
        let Question { image_id, question, answer, full_answer, is_balanced, types } =
            &self.question;
        let mut fields = columns([
            ("question_id", json!(self.id)),
            ("image_id", json!(image_id)),
            ("question", json!(question)),
        ]);
        if let Some(answer) = answer {
            fields.insert("answer".to_owned(), json!(answer));
        }
        if let Some(full_answer) = full_answer {
            fields.insert("full_answer".to_owned(), json!(full_answer));
        }
        if let Some(is_balanced) = is_balanced {
            fields.insert("is_balanced".to_owned(), json!(is_balanced));
        }
        if let Some(types) = types {
            fields.extend(columns([
                ("question_type", json!(types.structural)),
                ("semantic_type", json!(types.semantic)),
                ("detailed_type", json!(types.detailed)),
            ]));
        }
        fields
    }

    fn image(&self) -> Option<String> {
        Some(format!("{}.jpg", self.question.image_id))
    }
}
