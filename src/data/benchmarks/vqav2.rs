//! VQA v2: questions about COCO images, and annotations with ten answers per question.
//!
//! Layout: <https://visualqa.org/download.html> and `PythonHelperTools/vqaTools/vqa.py` of
//! <https://github.com/GT-Vision-Lab/VQA>; version 1 and OK-VQA use it too. An image is
//! `COCO_<data_subtype>_<image_id in 12 digits>.jpg`, as in that repository's `vqaDemo.py`.

use std::collections::HashMap;
use std::path::Path;
use std::sync::Arc;

use serde::Deserialize;
use serde_json::json;

use super::read;
use super::record::{Record, columns, most_frequent};
use crate::data::dataset::Fields;
use crate::{Error, Result};

#[derive(Deserialize)]
struct Questions {
    data_subtype: String,
    questions: Vec<Question>,
}

#[derive(Deserialize)]
struct Question {
    question_id: u64,
    image_id: u64,
    question: Box<str>,
}

#[derive(Deserialize)]
struct Annotations {
    annotations: Vec<Annotation>,
}

#[derive(Deserialize)]
struct Annotation {
    question_id: u64,
    image_id: u64,
    question_type: Box<str>,
    answer_type: Box<str>,
    /// Absent in OK-VQA.
    multiple_choice_answer: Option<Box<str>>,
    answers: Box<[Answer]>,
}

#[derive(Deserialize)]
struct Answer {
    answer: Box<str>,
}

/// A question with its annotation; test splits have none.
pub(super) struct Entry {
    question: Question,
    annotation: Option<Annotation>,
    /// The subset of COCO that the images belong to.
    subtype: Arc<str>,
}

/// Reads the questions of the file at `path` and their annotations.
///
/// # Errors
/// If a file is malformed, an id occurs twice, or questions and annotations do not match one to one.
pub(super) fn read(path: &Path, annotations: Option<&Path>) -> Result<Vec<Entry>> {
    let Questions { data_subtype, questions } = read::json(path)?;
    let ids = questions.iter().map(|question| question.question_id);
    let places = read::places(path, ids, |n| format!("questions[{n}].question_id"))?;
    let annotations = match annotations {
        Some(file) => {
            let Annotations { annotations } = read::json(file)?;
            annotate(&Asked { path, questions: &questions, places }, file, annotations)?
        }
        None => questions.iter().map(|_| None).collect(),
    };
    // The questions of test-dev are a subset of test2015, whose image names they use.
    let subtype = match data_subtype.as_str() {
        "test-dev2015" => "test2015",
        other => other,
    };
    let subtype = Arc::<str>::from(subtype);
    let entries = questions.into_iter().zip(annotations);
    Ok(entries
        .map(|(question, annotation)| Entry { question, annotation, subtype: subtype.clone() })
        .collect())
}

/// The questions of a file with their indices by id.
struct Asked<'a> {
    path: &'a Path,
    questions: &'a [Question],
    places: HashMap<u64, usize>,
}

/// The annotation of each question, in question order; `file` holds the annotations.
fn annotate(
    asked: &Asked<'_>,
    file: &Path,
    annotations: Vec<Annotation>,
) -> Result<Vec<Option<Annotation>>> {
    let Asked { path, questions, places } = asked;
    let mut found: Vec<Option<Annotation>> = questions.iter().map(|_| None).collect();
    for (n, annotation) in annotations.into_iter().enumerate() {
        let id = annotation.question_id;
        let error = |message: String| Error::file(file, format!("annotations[{n}]: {message}"));
        let Some(&place) = places.get(&id) else {
            return Err(error(format!("question {id} is not in {}", path.display())));
        };
        let (image, expected) = (annotation.image_id, questions[place].image_id);
        if image != expected {
            return Err(error(format!(
                "question {id} is about image {image} here, about image {expected} in {}",
                path.display()
            )));
        }
        if annotation.answers.is_empty() {
            return Err(error(format!("question {id} has no answers")));
        }
        if found[place].replace(annotation).is_some() {
            return Err(error(format!("question {id} is annotated twice")));
        }
    }
    if let Some(place) = found.iter().position(Option::is_none) {
        let (id, all) = (questions[place].question_id, questions.len());
        let count = found.iter().filter(|annotation| annotation.is_none()).count();
        let message = format!("question {id} has no annotation ({count} of {all} have none)");
        return Err(Error::file(file, message));
    }
    Ok(found)
}

impl Record for Entry {
    fn label(&self) -> String {
        format!("question {}", self.question.question_id)
    }

    fn fields(&self) -> Fields {
        let Question { question_id, image_id, question } = &self.question;
        let mut fields = columns([
            ("question_id", json!(question_id)),
            ("image_id", json!(image_id)),
            ("question", json!(question)),
        ]);
        if let Some(annotation) = &self.annotation {
            let answers: Vec<_> = annotation.answers.iter().map(|answer| &answer.answer).collect();
            let given = annotation.multiple_choice_answer.as_deref();
            fields.extend(columns([
                ("answer", json!(given.or_else(|| most_frequent(&answers)))),
                ("answers", json!(answers)),
                ("question_type", json!(annotation.question_type)),
                ("answer_type", json!(annotation.answer_type)),
            ]));
        }
        fields
    }

    fn image(&self) -> Option<String> {
        Some(format!("COCO_{}_{:012}.jpg", self.subtype, self.question.image_id))
    }
}
