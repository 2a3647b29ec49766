//! Questions about pictures: the share answered exactly right, by question type, beside what always
//! giving the most frequent answer would score.
//!
//! Answers are compared after the VQA normalisation ([`AnswerNormalizer`]). A question's type is its
//! `family`, `question_type` or `answer_type` column, else it is read off the right answer.

use std::collections::BTreeMap;

use image::RgbImage;
use serde_json::{Value, json};

use super::metrics::{AnswerNormalizer, AnswerRules, VqaAccuracy};
use super::question::{Majority, Question};
use super::report::{Report, SampleRecord};
use super::score::Score;
use super::{Extent, each_batch, number, one_each, picture, tone};
use crate::data::{self, BadSample, Dataset, Exploded, Fields};
use crate::error::{Error, Result};
use crate::sheet::{Cell, Tone};

/// The column of data sets with several questions per picture.
pub(super) const QUESTIONS: &str = "questions";

/// Pictures on the sheet.
const SHOWN: usize = 32;

/// Questions below one picture of the sheet.
const QUESTIONS_SHOWN: usize = 3;

/// Opens the data set that `spec` names with one sample per question: a list `questions` of
/// objects is taken apart.
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

/// Question and answer of a sample, as they are written.
///
/// # Errors
/// When a column is missing or no text.
pub fn question_and_answer(fields: &Fields) -> Result<(String, String)> {
    let question = Question::read(fields, &AnswerNormalizer::new())?;
    Ok((question.text, question.answer))
}

/// How a group of questions was answered, beside what needs no picture.
#[derive(Clone, Debug, PartialEq)]
pub struct Group {
    /// The type of the questions.
    pub name: String,
    /// The share answered right.
    pub accuracy: Score,
    /// The group's most frequent answer.
    pub majority_answer: String,
    /// The share of questions whose answer that is.
    pub majority: Score,
    /// The share answered right by the most frequent answer to each question's text.
    pub question_majority: Score,
}

/// Accuracy against several people's answers, where a data set has them.
#[derive(Clone, Debug, Default)]
pub struct PeopleScores {
    /// By the rules of the VQA challenge.
    pub official: Vec<f64>,
    /// By those of EvalAI, with which TextVQA and VizWiz are scored.
    pub evalai: Vec<f64>,
}

/// What [`evaluate`] found.
#[derive(Clone, Debug)]
pub struct VqaScores {
    /// All questions.
    pub overall: Group,
    /// By type, in alphabetical order.
    pub types: Vec<Group>,
    /// Against the ten answers of people, where there are ten.
    pub people: PeopleScores,
    /// `{"question_id", "answer"}` of every question that has an id: what the challenge's server takes.
    pub submission: Vec<Value>,
    /// Every question.
    pub samples: Vec<SampleRecord>,
    /// Samples that could not be read.
    pub bad: Vec<BadSample>,
    /// Some pictures with question and answer.
    pub sheet: Vec<Cell>,
}

struct Judged {
    question: Question,
    right: bool,
}

/// Asks the questions of `dataset` (one per sample, see [`open`]) and compares the answers.
///
/// `answer` gets pictures and questions, as many of each, and gives an answer to each.
///
/// # Errors
/// Those of `answer`; when more samples than [`data::DEFAULT_TOLERANCE`] are unreadable, or one
/// lacks question, answer or picture.
pub fn evaluate(
    dataset: &dyn Dataset,
    extent: Extent,
    majority: &Majority,
    mut answer: impl FnMut(&[RgbImage], &[String]) -> Result<Vec<String>>,
) -> Result<VqaScores> {
    let normalizer = AnswerNormalizer::new();
    let (official, evalai) =
        (VqaAccuracy::new(AnswerRules::Official), VqaAccuracy::new(AnswerRules::EvalAi));
    let (mut people, mut submission) = (PeopleScores::default(), Vec::new());
    let (mut judged, mut samples, mut sheet) = (Vec::new(), Vec::new(), Vec::new());
    let bad = each_batch(dataset, extent, |batch| {
        let (mut pictures, mut questions) = (Vec::new(), Vec::new());
        for (_, sample) in &batch {
            let in_sample = |e: Error| Error::Invalid(format!("{}: {e}", sample.source));
            questions.push(Question::read(&sample.fields, &normalizer).map_err(in_sample)?);
            pictures.push(picture(sample)?.clone());
        }
        let texts: Vec<_> = questions.iter().map(|question| question.text.clone()).collect();
        let answers = one_each(answer(&pictures, &texts)?, texts.len())?;
        for (((index, sample), question), (picture, given)) in
            batch.into_iter().zip(questions).zip(pictures.into_iter().zip(answers))
        {
            let right = normalizer.normalize(&given) == question.normalized;
            show(&mut sheet, picture, &question.text, (&given, right));
            let mut one = record(index, sample.source, &question, &given, right);
            if let Some(answers) = answers_of_people(&sample.fields) {
                let scores =
                    [official.accuracy(&given, &answers), evalai.accuracy(&given, &answers)];
                one.scores.extend(["vqa_official", "vqa_evalai"].into_iter().zip(scores));
                people.official.push(scores[0]);
                people.evalai.push(scores[1]);
            }
            if let Some(id) = sample.fields.get("question_id") {
                submission.push(json!({ "question_id": id, "answer": given }));
            }
            samples.push(one);
            judged.push(Judged { question, right });
        }
        Ok(())
    })?;
    let (overall, types) = groups(&judged, majority);
    Ok(VqaScores { overall, types, people, submission, samples, bad, sheet })
}

/// The answers of several people to a question, if the sample has more than one.
fn answers_of_people(fields: &Fields) -> Option<Vec<String>> {
    let answers = fields.get("answers")?.as_array()?;
    let texts: Option<Vec<String>> =
        answers.iter().map(|answer| answer.as_str().map(str::to_owned)).collect();
    texts.filter(|texts| texts.len() > 1)
}

/// Puts question and answer below their picture, a few on each.
fn show(sheet: &mut Vec<Cell>, picture: RgbImage, question: &str, (given, right): (&str, bool)) {
    let full = sheet.len() >= SHOWN;
    let cell = match sheet.last_mut() {
        Some(last) if last.image == picture => last,
        _ if full => return,
        _ => {
            sheet.push(Cell::new(picture));
            sheet.last_mut().expect("one was just pushed")
        }
    };
    if cell.notes.len() < 2 * QUESTIONS_SHOWN {
        cell.notes.push((Tone::Plain, question.to_owned()));
        cell.notes.push((tone(right), given.to_owned()));
    }
}

fn record(
    doc_id: usize,
    id: String,
    question: &Question,
    given: &str,
    right: bool,
) -> SampleRecord {
    SampleRecord {
        doc_id,
        id,
        input: question.text.clone(),
        target: json!(question.answer),
        response: json!(given),
        kind: Some(question.kind.clone()),
        scores: vec![("exact_match", number(right))],
    }
}

/// The scores of all questions and of each type.
fn groups(judged: &[Judged], majority: &Majority) -> (Group, Vec<Group>) {
    let group = |name: &str, answer: &str, of: &[&Judged]| Group {
        name: name.to_owned(),
        accuracy: Score::share(of.iter().map(|one| one.right)),
        majority_answer: answer.to_owned(),
        majority: Score::share(of.iter().map(|one| one.question.normalized == answer)),
        question_majority: Score::share(
            of.iter()
                .map(|one| one.question.normalized == majority.of_question(&one.question.text)),
        ),
    };
    let mut kinds: BTreeMap<&str, Vec<&Judged>> = BTreeMap::new();
    for one in judged {
        kinds.entry(&one.question.kind).or_default().push(one);
    }
    let all: Vec<_> = judged.iter().collect();
    let overall = group("overall", majority.overall(), &all);
    let types = kinds.iter().map(|(kind, of)| group(kind, majority.of_type(kind), of)).collect();
    (overall, types)
}

impl VqaScores {
    /// The scores as a report on the data set called `dataset`: `exact_match`, the baselines
    /// `majority_answer` and `question_majority`, then the same by type as `exact_match/TYPE`.
    pub fn report(self, dataset: &str) -> Report {
        let mut scores = Vec::new();
        if !self.people.official.is_empty() {
            scores.push(("vqa_official".to_owned(), Score::mean(&self.people.official)));
            scores.push(("vqa_evalai".to_owned(), Score::mean(&self.people.evalai)));
        }
        let mut put = |group: &Group, suffix: &str| {
            scores.push((format!("exact_match{suffix}"), group.accuracy));
            scores.push((format!("majority_answer{suffix}"), group.majority));
            scores.push((format!("question_majority{suffix}"), group.question_majority));
        };
        put(&self.overall, "");
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
}
