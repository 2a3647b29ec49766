//! VQA v2: a file of questions, a file of annotations with ten answers to each, COCO's images.
//!
//! Layout: <https://visualqa.org/download.html> and `PythonHelperTools/vqaTools/vqa.py` of
//! <https://github.com/GT-Vision-Lab/VQA>; version 1 and OK-VQA have it too. An image is
//! `COCO_<data_subtype>_<image_id in 12 digits>.jpg`, as in that repository's `vqaDemo.py`.

use std::path::Path;
use std::sync::Arc;

use serde::Deserialize;
use serde_json::json;

use super::{Record, columns, most_frequent, read};
use crate::data::Fields;
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
    /// Absent from OK-VQA.
    multiple_choice_answer: Option<Box<str>>,
    answers: Box<[Answer]>,
}

#[derive(Deserialize)]
struct Answer {
    answer: Box<str>,
}

/// A question and, outside of test splits, its annotation.
pub(super) struct Asked {
    question: Question,
    annotation: Option<Annotation>,
    /// The part of COCO that the images are from.
    subtype: Arc<str>,
}

/// The questions in the file at `path`, with those annotations.
///
/// # Errors
/// When a file is not of the format, an id occurs twice, or questions and annotations do not belong
/// to each other one by one.
pub(super) fn read(path: &Path, annotations: Option<&Path>) -> Result<Vec<Asked>> {
    let Questions { data_subtype, questions } = read::json(path)?;
    let mut found: Vec<Option<Annotation>> = questions.iter().map(|_| None).collect();
    let ids = questions.iter().map(|question| question.question_id);
    let places = read::places(path, ids, |n| format!("questions[{n}].question_id"))?;
    if let Some(file) = annotations {
        let Annotations { annotations } = read::json(file)?;
        for (n, annotation) in annotations.into_iter().enumerate() {
            let id = annotation.question_id;
            let error = |message: String| Error::file(file, format!("annotations[{n}]: {message}"));
            let Some(&place) = places.get(&id) else {
                return Err(error(format!("question {id} is not in {}", path.display())));
            };
            let (image, asked) = (annotation.image_id, questions[place].image_id);
            if image != asked {
                return Err(error(format!(
                    "question {id} is about image {image} here, about image {asked} in {}",
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
    }
    // The questions of test-dev are a part of test2015, and so named their images.
    let subtype = match data_subtype.as_str() {
        "test-dev2015" => "test2015",
        other => other,
    };
    let subtype = Arc::<str>::from(subtype);
    let asked = questions.into_iter().zip(found);
    Ok(asked
        .map(|(question, annotation)| Asked { question, annotation, subtype: subtype.clone() })
        .collect())
}

impl Record for Asked {
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
            let answers: Vec<_> = annotation.answers.iter().map(|given| &given.answer).collect();
            let told = annotation.multiple_choice_answer.as_deref();
            fields.extend(columns([
                ("answer", json!(told.or_else(|| most_frequent(&answers)))),
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
