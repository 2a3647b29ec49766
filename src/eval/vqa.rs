//! Questions about images: exact-match accuracy by question type, compared with the baseline of
//! always giving the most frequent answer.
//!
//! Answers are compared after the VQA normalisation ([`AnswerNormalizer`]). A question's type is
//! its `family`, `question_type` or `answer_type` column, else guessed from the right answer.

use std::collections::BTreeMap;

use image::RgbImage;
use serde_json::{Value, json};

use super::batches::{Extent, each_batch, one_per_item, single_image};
use super::metrics::{AnswerNormalizer, AnswerRules, VqaAccuracy};
use super::question::{Majority, Question};
use super::report::{Report, SampleRecord, indicator, tone};
use super::score::Score;
use crate::data::{self, BadSample, Dataset, Exploded, Fields, Sample};
use crate::error::{Error, Result};
use crate::sheet::{Cell, Tone};

/// The column of data sets with several questions per sample.
pub(super) const QUESTIONS: &str = "questions";

/// Images on the sheet.
const SHOWN: usize = 32;

/// Questions below one image of the sheet.
const QUESTIONS_SHOWN: usize = 3;

/// The data set that `spec` names with one sample per question: a list of objects in the column
/// `questions` is exploded.
///
/// # Errors
/// As [`data::open`].
pub fn open(spec: &str) -> Result<Box<dyn Dataset>> {
    let dataset = data::open(spec)?;
    let first = (0..dataset.len()).find_map(|index| dataset.fields(index).ok());
    let list = first.as_ref().and_then(|fields| fields.get(QUESTIONS)).and_then(Value::as_array);
    match list.is_some_and(|list| list.iter().all(Value::is_object)) {
        true => Ok(Box::new(Exploded::new(dataset, QUESTIONS)?)),
        false => Ok(dataset),
    }
}

/// The question and the answer of a sample, as written.
///
/// # Errors
/// If a column is missing or no text.
pub fn question_and_answer(fields: &Fields) -> Result<(String, String)> {
    let question = Question::read(fields, &AnswerNormalizer::new())?;
    let missing = || Error::invalid("column answer is missing or no text");
    Ok((question.text, question.right.ok_or_else(missing)?.answer))
}

/// The accuracy on a group of questions, with the majority baselines.
#[derive(Clone, Debug, PartialEq)]
pub struct Group {
    /// The type of the questions.
    pub name: String,
    /// The share answered right by the model.
    pub accuracy: Score,
    /// The group's most frequent answer.
    pub majority_answer: String,
    /// The share answered right by `majority_answer`.
    pub majority: Score,
    /// The share answered right by the most frequent answer to the exact text of each question.
    pub question_majority: Score,
}

/// The accuracy of an answer to a question that several annotators answered.
#[derive(Clone, Debug, PartialEq)]
pub struct AnnotatorScore {
    /// By the rules of the VQA challenge.
    pub official: f64,
    /// By the rules of EvalAI, which TextVQA and VizWiz use.
    pub evalai: f64,
    /// The types of the question and of its answer; the challenge reports accuracy by both.
    pub types: Vec<String>,
    /// See [`SampleRecord::group`].
    group: String,
}

/// The result of [`evaluate`].
#[derive(Clone, Debug)]
pub struct VqaScores {
    /// All questions.
    pub overall: Group,
    /// By type, in alphabetical order.
    pub types: Vec<Group>,
    /// Accuracy on the questions that several annotators answered.
    pub annotators: Vec<AnnotatorScore>,
    /// `{"question_id", "answer"}` of every question that has an id, for the challenge's server. It wants all
    /// questions, so the answer of a bad sample is empty.
    pub submission: Vec<Value>,
    /// A record of every question.
    pub samples: Vec<SampleRecord>,
    /// Samples that could not be read.
    pub bad: Vec<BadSample>,
    /// Some images with question and answer.
    pub sheet: Vec<Cell>,
}

/// A question to be asked.
#[derive(Clone)]
struct Asked {
    question: Question,
    image: RgbImage,
    source: String,
    /// The image's name, which questions about the same image share.
    group: String,
    id: Option<Value>,
}

impl Asked {
    fn take(sample: Sample, normalizer: &AnswerNormalizer) -> Result<Self> {
        let Sample { fields, images, source } = sample;
        let question = Question::read(&fields, normalizer)?;
        let of_image = fields.get("image_id").map(|id| format!("image {id}"));
        let exploded = || source.rsplit_once(&format!(", {QUESTIONS} ")).map(|(s, _)| s.to_owned());
        let group = of_image.or_else(exploded).unwrap_or_else(|| source.clone());
        let id = fields.get("question_id").cloned();
        Ok(Self { question, image: single_image(images)?, source, group, id })
    }
}

/// An answer to a question whose right answer is known.
struct Judged {
    text: String,
    right_answer: String,
    kind: String,
    group: String,
    right: bool,
}

/// Asks the questions of `dataset` (one per sample, see [`open`]) and compares the answers.
///
/// `answer` is called with equally many images and questions and returns an answer to each.
/// Questions without a right answer are asked and not scored.
///
/// # Errors
/// Those of `answer`; if more samples than [`data::DEFAULT_TOLERANCE`], and more than one, are
/// unreadable or lack question or image.
pub fn evaluate(
    dataset: &dyn Dataset,
    extent: Extent,
    majority: &Majority,
    mut answer: impl FnMut(&[RgbImage], &[String]) -> Result<Vec<String>>,
) -> Result<VqaScores> {
    let normalizer = AnswerNormalizer::new();
    let (official, evalai) =
        (VqaAccuracy::new(AnswerRules::Official), VqaAccuracy::new(AnswerRules::EvalAi));
    let (mut annotators, mut submission) = (Vec::new(), Vec::new());
    let (mut judged, mut samples, mut sheet) = (Vec::new(), Vec::new(), Vec::new());
    let take = |sample| Asked::take(sample, &normalizer);
    let bad = each_batch(dataset, extent, take, |batch: Vec<(usize, Asked)>| {
        let images: Vec<_> = batch.iter().map(|(_, asked)| asked.image.clone()).collect();
        let texts: Vec<_> = batch.iter().map(|(_, asked)| asked.question.text.clone()).collect();
        let answers = one_per_item(answer(&images, &texts)?, texts.len())?;
        for ((index, asked), given) in batch.into_iter().zip(answers) {
            let Asked { question, image, source, group, id } = asked;
            let right = question.right.as_ref();
            let right = right.map(|right| normalizer.normalize(&given) == right.normalized);
            show(&mut sheet, image, &question.text, (&given, right));
            let mut one = record(index, source, &question, &given, right);
            if question.annotators.len() > 1 {
                let score = AnnotatorScore {
                    official: official.accuracy(&given, &question.annotators),
                    evalai: evalai.accuracy(&given, &question.annotators),
                    types: std::iter::once(question.kind.clone())
                        .chain(question.answer_type.clone())
                        .collect(),
                    group: group.clone(),
                };
                one.scores.push(("vqa_official", score.official));
                one.scores.push(("vqa_evalai", score.evalai));
                annotators.push(score);
            }
            submission.extend(id.map(|id| json!({ "question_id": id, "answer": given })));
            one.group = Some(group.clone());
            samples.push(one);
            if let (Some(right), Some(known)) = (right, question.right) {
                let Question { text, kind, .. } = question;
                judged.push(Judged { text, right_answer: known.normalized, kind, group, right });
            }
        }
        Ok(())
    })?;
    for sample in &bad {
        let fields = dataset.fields(sample.index).unwrap_or_default();
        let id = fields.get("question_id");
        submission.extend(id.map(|id| json!({ "question_id": id, "answer": "" })));
    }
    let (overall, types) = groups(&judged, majority);
    Ok(VqaScores { overall, types, annotators, submission, samples, bad, sheet })
}

/// Adds question and answer below their image on the sheet, up to a limit.
fn show(
    sheet: &mut Vec<Cell>,
    image: RgbImage,
    question: &str,
    (given, right): (&str, Option<bool>),
) {
    let full = sheet.len() >= SHOWN;
    let cell = match sheet.last_mut() {
        Some(last) if last.image == image => last,
        _ if full => return,
        _ => {
            sheet.push(Cell::new(image));
            sheet.last_mut().expect("one was just pushed")
        }
    };
    if cell.notes.len() < 2 * QUESTIONS_SHOWN {
        cell.notes.push((Tone::Plain, question.to_owned()));
        cell.notes.push((right.map_or(Tone::Plain, tone), given.to_owned()));
    }
}

fn record(
    doc_id: usize,
    id: String,
    question: &Question,
    given: &str,
    right: Option<bool>,
) -> SampleRecord {
    SampleRecord {
        doc_id,
        id,
        input: question.text.clone(),
        target: json!(question.right.as_ref().map(|right| &right.answer)),
        response: json!(given),
        kind: Some(question.kind.clone()),
        scores: right.map(|right| ("exact_match", indicator(right))).into_iter().collect(),
        ..SampleRecord::default()
    }
}

/// The scores over all questions and by type.
fn groups(judged: &[Judged], majority: &Majority) -> (Group, Vec<Group>) {
    let share = |of: &[&Judged], holds: &dyn Fn(&Judged) -> bool| {
        Score::share_in_groups(of.iter().map(|one| (holds(one), one.group.as_str())))
    };
    let group = |name: &str, answer: &str, of: &[&Judged]| Group {
        name: name.to_owned(),
        accuracy: share(of, &|one| one.right),
        majority_answer: answer.to_owned(),
        majority: share(of, &|one| one.right_answer == answer),
        question_majority: share(of, &|one| one.right_answer == majority.of_question(&one.text)),
    };
    let mut kinds: BTreeMap<&str, Vec<&Judged>> = BTreeMap::new();
    for one in judged {
        kinds.entry(&one.kind).or_default().push(one);
    }
    let all: Vec<_> = judged.iter().collect();
    let overall = group("overall", majority.overall(), &all);
    let types = kinds.iter().map(|(kind, of)| group(kind, majority.of_type(kind), of)).collect();
    (overall, types)
}

impl VqaScores {
    /// The scores as a report on the data set called `dataset`: with several annotators
    /// `vqa_official` and `vqa_evalai`, over all and by the type of question and answer; then
    /// `exact_match` and the baselines `majority_answer` and `question_majority`, and the same by
    /// type as `exact_match/TYPE`. No scores if no right answer is known.
    pub fn report(self, dataset: &str) -> Report {
        let mut scores = self.annotator_scores();
        let mut put = |group: &Group, suffix: &str| {
            scores.push((format!("exact_match{suffix}"), group.accuracy));
            scores.push((format!("majority_answer{suffix}"), group.majority));
            scores.push((format!("question_majority{suffix}"), group.question_majority));
        };
        if self.overall.accuracy.n > 0 {
            put(&self.overall, "");
        }
        self.types.iter().for_each(|group| put(group, &format!("/{}", group.name)));
        Report {
            task: "vqa",
            dataset: dataset.to_owned(),
            scores,
            samples: self.samples,
            submission: (!self.submission.is_empty())
                .then_some(("vqa_submission.json", self.submission)),
            bad: self.bad,
            sheet: self.sheet,
            ..Report::default()
        }
    }

    /// Accuracy against annotators, over all and by type.
    fn annotator_scores(&self) -> Vec<(String, Score)> {
        let mut of_type: BTreeMap<&str, Vec<&AnnotatorScore>> = BTreeMap::new();
        for score in &self.annotators {
            for name in &score.types {
                of_type.entry(name).or_default().push(score);
            }
        }
        let mean = |of: &[&AnnotatorScore], value: fn(&AnnotatorScore) -> f64| {
            Score::mean_in_groups(of.iter().map(|score| (value(score), score.group.as_str())))
        };
        let both = |suffix: String, of: &[&AnnotatorScore]| {
            [
                (format!("vqa_official{suffix}"), mean(of, |score| score.official)),
                (format!("vqa_evalai{suffix}"), mean(of, |score| score.evalai)),
            ]
        };
        let all: Vec<&AnnotatorScore> = self.annotators.iter().collect();
        let mut scores: Vec<_> = match all.is_empty() {
            true => Vec::new(),
            false => both(String::new(), &all).into(),
        };
        scores.extend(of_type.iter().flat_map(|(name, of)| both(format!("/{name}"), of)));
        scores
    }
}
