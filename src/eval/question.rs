//! Questions as data sets hold them, and the answers that need no picture.

use std::collections::BTreeMap;

use serde_json::Value;

use super::metrics::AnswerNormalizer;
use crate::data::{Dataset, Fields};
use crate::error::{Error, Result};

/// Columns that name a question's type, the first that is there.
const TYPE_COLUMNS: [&str; 3] = ["family", "question_type", "answer_type"];

const COLORS: &str = "black white red green blue yellow orange purple pink brown gray grey teal \
    cyan magenta";
const SHAPES: &str = "circle square triangle rectangle star diamond cross heart ring";

/// A question as a data set holds it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Question {
    pub text: String,
    pub answer: String,
    /// The answer as it is compared.
    pub normalized: String,
    /// Its type.
    pub kind: String,
}

impl Question {
    pub fn read(fields: &Fields, normalizer: &AnswerNormalizer) -> Result<Self> {
        let text = |name: &str| match fields.get(name) {
            Some(Value::String(text)) => Some(text.clone()),
            Some(value @ (Value::Number(_) | Value::Bool(_))) => Some(value.to_string()),
            _ => None,
        };
        let needed = |name: &str| {
            let missing = || Error::Invalid(format!("column {name} is missing or no text"));
            text(name).ok_or_else(missing)
        };
        let (question, answer) = (needed("question")?, needed("answer")?);
        let normalized = normalizer.normalize(&answer);
        let named = TYPE_COLUMNS.iter().find_map(|name| text(name));
        let kind = named.unwrap_or_else(|| kind_of(&normalized).to_owned());
        Ok(Self { text: question, answer, normalized, kind })
    }
}

/// The type of question that a normalised answer belongs to.
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
struct Counts(BTreeMap<String, usize>);

impl Counts {
    fn add(&mut self, answer: &str) {
        *self.0.entry(answer.to_owned()).or_default() += 1;
    }

    /// The most frequent answer; among equals the first in the alphabet.
    fn most_frequent(&self) -> &str {
        let best = self.0.iter().rev().max_by_key(|(_, count)| **count);
        best.map_or("", |(answer, _)| answer)
    }
}

/// The most frequent answers of a data set: what can be scored without looking at pictures.
#[derive(Clone, Debug, Default)]
pub struct Majority {
    overall: Counts,
    by_kind: BTreeMap<String, Counts>,
    by_question: BTreeMap<String, Counts>,
    /// How each normalised answer is written.
    spellings: BTreeMap<String, Counts>,
}

impl Majority {
    /// Counts the answers of all of `dataset`, which has one question per sample; pictures are not
    /// decoded. Samples without a question are passed over.
    ///
    /// # Errors
    /// When no sample holds a question.
    pub fn learn(dataset: &dyn Dataset) -> Result<Self> {
        let normalizer = AnswerNormalizer::new();
        let mut majority = Self::default();
        let mut error = None;
        for index in 0..dataset.len() {
            let question = dataset.fields(index).and_then(|f| Question::read(&f, &normalizer));
            match question {
                Ok(question) => majority.add(&question),
                Err(e) => error = Some(e),
            }
        }
        match (majority.overall.0.is_empty(), error) {
            (true, Some(error)) => Err(Error::Invalid(format!("{}: {error}", dataset.name()))),
            _ => Ok(majority),
        }
    }

    fn add(&mut self, question: &Question) {
        self.overall.add(&question.normalized);
        self.spellings.entry(question.normalized.clone()).or_default().add(&question.answer);
        self.by_kind.entry(question.kind.clone()).or_default().add(&question.normalized);
        self.by_question.entry(question.text.clone()).or_default().add(&question.normalized);
    }

    /// All answers in their most frequent spelling, the most frequent answer first; among equals in the order
    /// of the alphabet. An answer of which the normalisation leaves nothing is left out.
    pub fn answers(&self) -> Vec<String> {
        let mut answers: Vec<(&String, &usize)> = self.overall.0.iter().collect();
        answers.sort_by_key(|(_, count)| std::cmp::Reverse(**count));
        let spelled = |(answer, _): (&String, _)| self.spellings[answer].most_frequent().to_owned();
        answers.into_iter().filter(|(answer, _)| !answer.is_empty()).map(spelled).collect()
    }

    /// The most frequent answer of all, normalised; empty when nothing was learnt.
    pub fn overall(&self) -> &str {
        self.overall.most_frequent()
    }

    /// The most frequent answer to questions of the type `kind`, or of all where it was never seen.
    pub fn of_type(&self, kind: &str) -> &str {
        self.by_kind.get(kind).unwrap_or(&self.overall).most_frequent()
    }

    /// The most frequent answer to the question `text`, or of all where it was never asked.
    pub fn of_question(&self, text: &str) -> &str {
        self.by_question.get(text).unwrap_or(&self.overall).most_frequent()
    }
}
