//! Questions of data sets, and majority answers, which need no image.

use std::collections::BTreeMap;

use serde_json::Value;

use super::metrics::AnswerNormalizer;
use crate::data::benchmarks::most_frequent;
use crate::data::{BadSample, Dataset, Fields};
use crate::error::{Error, Result};

/// Columns of a question's type; the first present one is read.
const TYPE_COLUMNS: [&str; 3] = ["family", "question_type", "answer_type"];

const COLORS: &str = "black white red green blue yellow orange purple pink brown gray grey teal \
    cyan magenta";
const SHAPES: &str = "circle square triangle rectangle star diamond cross heart ring";

/// A question of a data set.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Question {
    pub text: String,
    /// The right answer; `None` in a test split.
    pub right: Option<Right>,
    /// Its type.
    pub kind: String,
    /// The answers of several annotators, if any.
    pub annotators: Vec<String>,
    /// The type of its answer, if the data set has one in addition to the question's.
    pub answer_type: Option<String>,
}

/// The right answer to a question.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Right {
    pub answer: String,
    /// The form in which it is compared.
    pub normalized: String,
}

impl Question {
    /// The question in `fields`.
    pub fn read(fields: &Fields, normalizer: &AnswerNormalizer) -> Result<Self> {
        let text = |name: &str| match fields.get(name) {
            Some(Value::String(text)) => Some(text.clone()),
            Some(value @ (Value::Number(_) | Value::Bool(_))) => Some(value.to_string()),
            _ => None,
        };
        let missing = |name: &str| Error::invalid(format!("column {name} is missing or no text"));
        let question = text("question").ok_or_else(|| missing("question"))?;
        let annotators = match fields.get("answers") {
            None | Some(Value::Null) => Vec::new(),
            Some(answers) => annotators_answers(answers)?,
        };
        let given = fields.get("answer").filter(|answer| !answer.is_null());
        let answer = match (text("answer"), given) {
            (None, Some(_)) => return Err(missing("answer")),
            (answer, _) => answer.or_else(|| most_frequent(&annotators).map(str::to_owned)),
        };
        let right =
            answer.map(|answer| Right { normalized: normalizer.normalize(&answer), answer });
        let named = TYPE_COLUMNS.iter().find_map(|name| text(name));
        let guessed = || right.as_ref().map_or("unanswered", |right| kind_of(&right.normalized));
        let kind = named.unwrap_or_else(|| guessed().to_owned());
        let answer_type = text("answer_type").filter(|answer_type| *answer_type != kind);
        Ok(Self { text: question, right, kind, annotators, answer_type })
    }
}

/// The answers of annotators: texts, or VQA v2's objects with an `answer` each.
fn annotators_answers(answers: &Value) -> Result<Vec<String>> {
    let text = |entry: &Value| {
        let answer = if entry.is_object() { entry.get("answer")? } else { entry };
        answer.as_str().map(str::to_owned)
    };
    let texts = answers.as_array().and_then(|list| list.iter().map(text).collect());
    let message = "column answers holds neither texts nor objects with a text in answer";
    texts.ok_or_else(|| Error::invalid(message))
}

/// The type of a question, guessed from its normalised answer.
fn kind_of(answer: &str) -> &'static str {
    let one_of = |words: &str| words.split_whitespace().any(|word| word == answer);
    match answer {
        "yes" | "no" => "yes/no",
        _ if one_of(COLORS) => "color",
        _ if one_of(SHAPES) => "shape",
        _ if answer.parse::<f64>().is_ok() => "number",
        _ => "other",
    }
}

/// How often each answer occurs.
#[derive(Clone, Debug, Default)]
struct Counts {
    counts: BTreeMap<String, usize>,
    /// The most frequent answer and its count; ties are broken alphabetically.
    best: (String, usize),
}

impl Counts {
    fn add(&mut self, answer: &str) {
        let count = self.counts.entry(answer.to_owned()).or_default();
        *count += 1;
        let (count, (best, most)) = (*count, &self.best);
        if count > *most || (count == *most && answer < best.as_str()) {
            self.best = (answer.to_owned(), count);
        }
    }

    fn most_frequent(&self) -> &str {
        &self.best.0
    }
}

/// The most frequent answers of a data set: a baseline that does not look at images.
#[derive(Clone, Debug, Default)]
pub struct Majority {
    overall: Counts,
    by_kind: BTreeMap<String, Counts>,
    by_question: BTreeMap<String, Counts>,
    /// The spellings of each normalised answer.
    spellings: BTreeMap<String, Counts>,
    bad: Vec<BadSample>,
}

impl Majority {
    /// Counts the answers in `dataset`, which has one question per sample, without decoding images.
    /// Samples without a question are [bad](Self::bad); a test split without answers gives an empty result.
    ///
    /// # Errors
    /// If no sample has a question.
    pub fn learn(dataset: &dyn Dataset) -> Result<Self> {
        let normalizer = AnswerNormalizer::new();
        let mut majority = Self::default();
        for index in 0..dataset.len() {
            let read = |fields: Fields| {
                let in_sample = Error::because(dataset.place(index));
                Question::read(&fields, &normalizer).map_err(in_sample)
            };
            match dataset.fields(index).and_then(read) {
                Ok(question) => majority.add(&question),
                Err(error) => {
                    majority.bad.push(BadSample { index, reason: error.to_string() });
                }
            }
        }
        match majority.bad.first() {
            Some(first) if majority.bad.len() == dataset.len() => {
                let (name, reason) = (dataset.name(), &first.reason);
                Err(Error::invalid(format!(
                    "{name}: no sample has a question; the first: {reason}"
                )))
            }
            _ => Ok(majority),
        }
    }

    /// The samples without a question.
    pub fn bad(&self) -> &[BadSample] {
        &self.bad
    }

    fn add(&mut self, question: &Question) {
        let Some(Right { answer, normalized }) = &question.right else { return };
        self.overall.add(normalized);
        self.spellings.entry(normalized.clone()).or_default().add(answer);
        self.by_kind.entry(question.kind.clone()).or_default().add(normalized);
        self.by_question.entry(question.text.clone()).or_default().add(normalized);
    }

    /// All answers in their most frequent spelling, the most frequent answer first; ties are broken
    /// alphabetically. Answers that are empty after normalisation are omitted.
    pub fn answers(&self) -> Vec<String> {
        let mut answers: Vec<(&String, &usize)> = self.overall.counts.iter().collect();
        answers.sort_by_key(|(_, count)| std::cmp::Reverse(**count));
        let spelled = |(answer, _): (&String, _)| self.spellings[answer].most_frequent().to_owned();
        answers.into_iter().filter(|(answer, _)| !answer.is_empty()).map(spelled).collect()
    }

    /// The most frequent answer of all, normalised; empty without answers.
    pub fn overall(&self) -> &str {
        self.overall.most_frequent()
    }

    /// The most frequent answer to questions of the type `kind`, or of all questions if the type is unknown.
    pub fn of_type(&self, kind: &str) -> &str {
        self.by_kind.get(kind).unwrap_or(&self.overall).most_frequent()
    }

    /// The most frequent answer to the question `text`, or of all questions if the text is unknown.
    pub fn of_question(&self, text: &str) -> &str {
        self.by_question.get(text).unwrap_or(&self.overall).most_frequent()
    }
}
