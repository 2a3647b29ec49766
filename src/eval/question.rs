//! Questions as data sets hold them, and the answers that need no image.

use std::collections::BTreeMap;

use serde_json::Value;

use super::metrics::AnswerNormalizer;
use crate::data::benchmarks::most_frequent;
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
    /// What is right; a test split does not say.
    pub right: Option<Right>,
    /// Its type.
    pub kind: String,
    /// The answers of several people, where there are some.
    pub people: Vec<String>,
    /// The type of its answer, where the data set says it beside the question's.
    pub answer_type: Option<String>,
}

/// The right answer to a question.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Right {
    pub answer: String,
    /// As it is compared.
    pub normalized: String,
}

impl Question {
    pub fn read(fields: &Fields, normalizer: &AnswerNormalizer) -> Result<Self> {
        let text = |name: &str| match fields.get(name) {
            Some(Value::String(text)) => Some(text.clone()),
            Some(value @ (Value::Number(_) | Value::Bool(_))) => Some(value.to_string()),
            _ => None,
        };
        let missing = |name: &str| Error::invalid(format!("column {name} is missing or no text"));
        let question = text("question").ok_or_else(|| missing("question"))?;
        let people = match fields.get("answers") {
            None | Some(Value::Null) => Vec::new(),
            Some(answers) => of_people(answers)?,
        };
        let given = fields.get("answer").filter(|answer| !answer.is_null());
        let answer = match (text("answer"), given) {
            (None, Some(_)) => return Err(missing("answer")),
            (answer, _) => answer.or_else(|| most_frequent(&people).map(str::to_owned)),
        };
        let right =
            answer.map(|answer| Right { normalized: normalizer.normalize(&answer), answer });
        let named = TYPE_COLUMNS.iter().find_map(|name| text(name));
        let told = || right.as_ref().map_or("unanswered", |right| kind_of(&right.normalized));
        let kind = named.unwrap_or_else(|| told().to_owned());
        let answer_type = text("answer_type").filter(|answer_type| *answer_type != kind);
        Ok(Self { text: question, right, kind, people, answer_type })
    }
}

/// Texts, or VQA v2's objects with an `answer` each.
fn of_people(answers: &Value) -> Result<Vec<String>> {
    let text = |entry: &Value| {
        let answer = if entry.is_object() { entry.get("answer")? } else { entry };
        answer.as_str().map(str::to_owned)
    };
    let texts = answers.as_array().and_then(|list| list.iter().map(text).collect());
    texts.ok_or_else(|| {
        let message = "column answers holds neither texts nor objects with a text in answer";
        Error::invalid(message.to_owned())
    })
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
struct Counts {
    counts: BTreeMap<String, usize>,
    /// The most frequent answer, among equals the first in the alphabet, and its count.
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

/// The most frequent answers of a data set: what can be scored without looking at images.
#[derive(Clone, Debug, Default)]
pub struct Majority {
    overall: Counts,
    by_kind: BTreeMap<String, Counts>,
    by_question: BTreeMap<String, Counts>,
    /// How each normalised answer is written.
    spellings: BTreeMap<String, Counts>,
}

impl Majority {
    /// Counts the answers of all of `dataset`, which has one question per sample; images are not
    /// decoded. Samples without a question are passed over; where none has an answer, as in a test split,
    /// nothing is learnt.
    ///
    /// # Errors
    /// When no sample holds a question.
    pub fn learn(dataset: &dyn Dataset) -> Result<Self> {
        let normalizer = AnswerNormalizer::new();
        let mut majority = Self::default();
        let (mut questions, mut error) = (0, None);
        for index in 0..dataset.len() {
            let question = dataset.fields(index).and_then(|f| Question::read(&f, &normalizer));
            match question {
                Ok(question) => {
                    questions += 1;
                    majority.add(&question);
                }
                Err(e) => error = Some(e),
            }
        }
        match (questions, error) {
            (0, Some(error)) => Err(Error::invalid(format!("{}: {error}", dataset.name()))),
            _ => Ok(majority),
        }
    }

    fn add(&mut self, question: &Question) {
        let Some(Right { answer, normalized }) = &question.right else { return };
        self.overall.add(normalized);
        self.spellings.entry(normalized.clone()).or_default().add(answer);
        self.by_kind.entry(question.kind.clone()).or_default().add(normalized);
        self.by_question.entry(question.text.clone()).or_default().add(normalized);
    }

    /// All answers in their most frequent spelling, the most frequent answer first; among equals in the order
    /// of the alphabet. An answer of which the normalisation leaves nothing is left out.
    pub fn answers(&self) -> Vec<String> {
        let mut answers: Vec<(&String, &usize)> = self.overall.counts.iter().collect();
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
