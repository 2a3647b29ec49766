//! Rows that compare answers: a preferred and a rejected one, or one with a verdict.
//!
//! | project | row |
//! |---|---|
//! | TRL | `prompt`, `chosen`, `rejected`: texts or lists of messages; without `prompt`, what both lists begin with |
//! | LLaMA-Factory | `conversations` or `messages`, and a message each in `chosen` and `rejected` |
//! | ms-swift | `messages` with the preferred answer, and `rejected_response` or `rejected_messages`, `rejected_images` |
//! | align-anything | `prompt`, `better_image`, `worse_image`; or `input_text`, `input_image`, `better_text`, `better_img`, `worse_text`, `worse_img` |
//! | this one | `prompt`, `chosen`, `rejected`: lists of segments, so that an answer may be or hold an image |
//! | TRL, KTO | `prompt`, `completion`, `label` |
//! | LLaMA-Factory, KTO | `messages` or `conversations`, `kto_tag` |
//!
//! Readers bring all of them into one form: the columns `prompt`, `chosen` and `rejected`, or `prompt`, `completion`
//! and `label`. `<image>` marks and image parts in them stand for images in the order of these columns; images
//! without any mark stand before the prompt.

mod layout;
mod normal;
mod source;

use serde_json::Value;

pub use layout::{AnswerLayout, PreferenceTokens, UnpairedTokens};
pub(super) use normal::{normalise, show_in_prompt};
pub use source::{PreferencePair, Preferences, Unpaired, UnpairedAnswer};

use super::dataset::Fields;
use super::dialect::segments;
use super::messages::{Checked, available, type_name};
use crate::error::{Error, Result};

/// A prompt with an answer that is preferred to another.
///
/// ```
/// use calumma::data::{Fields, PreferenceRow};
///
/// let row = r#"{"prompt": "Name it:", "chosen": " fox", "rejected": " a dog", "margin": 0.5}"#;
/// let fields: Fields = serde_json::from_str(row)?;
/// let row = PreferenceRow::of(&fields)?;
/// assert_eq!(row.chosen, [serde_json::json!({ "type": "text", "text": " fox" })]);
/// assert_eq!((row.margin, row.is_conversation()), (Some(0.5), false));
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone, Debug, PartialEq)]
pub struct PreferenceRow {
    /// Segments (`type` text or image), or messages (`role`, `content`).
    pub prompt: Vec<Value>,
    /// The preferred answer, in the same form.
    pub chosen: Vec<Value>,
    /// The other one.
    pub rejected: Vec<Value>,
    /// By how much it is preferred.
    pub margin: Option<f64>,
}

/// A prompt with an answer that is good or not.
#[derive(Clone, Debug, PartialEq)]
pub struct UnpairedRow {
    /// Segments (`type` text or image), or messages (`role`, `content`).
    pub prompt: Vec<Value>,
    /// The answer, in the same form.
    pub completion: Vec<Value>,
    /// Whether it is desirable.
    pub label: bool,
}

impl PreferenceRow {
    /// The row with the columns `fields`, as a reader returns them.
    ///
    /// # Errors
    /// If a column is missing or has another form than the others.
    pub fn of(fields: &Fields) -> Result<Self> {
        let [prompt, chosen, rejected] =
            sides(fields, ["prompt", "chosen", "rejected"]).map_err(Error::invalid)?;
        let margin = match fields.get("margin") {
            None | Some(Value::Null) => None,
            Some(margin) => Some(margin.as_f64().ok_or_else(|| {
                Error::invalid(format!("margin is {margin}; it must be a number"))
            })?),
        };
        Ok(Self { prompt, chosen, rejected, margin })
    }

    /// Whether prompt and answers are messages.
    pub fn is_conversation(&self) -> bool {
        is_conversation(&self.chosen)
    }
}

impl UnpairedRow {
    /// The row with the columns `fields`, as a reader returns them.
    ///
    /// # Errors
    /// If a column is missing or has another form than the others.
    pub fn of(fields: &Fields) -> Result<Self> {
        let [prompt, completion] =
            sides(fields, ["prompt", "completion"]).map_err(Error::invalid)?;
        let label = match fields.get("label") {
            Some(Value::Bool(label)) => *label,
            Some(Value::Number(label)) if label.as_f64() == Some(1.0) => true,
            Some(Value::Number(label)) if label.as_f64() == Some(0.0) => false,
            other => {
                let found = other.unwrap_or(&Value::Null);
                let message = format!("label is {found}; allowed: true, false, 1, 0");
                return Err(Error::invalid(message));
            }
        };
        Ok(Self { prompt, completion, label })
    }

    /// Whether prompt and answer are messages.
    pub fn is_conversation(&self) -> bool {
        is_conversation(&self.completion)
    }
}

fn is_conversation(entries: &[Value]) -> bool {
    entries.first().is_some_and(|entry| entry.get("role").is_some())
}

/// The columns `names` of a row, all as segments or all as messages.
fn sides<const N: usize>(fields: &Fields, names: [&str; N]) -> Checked<[Vec<Value>; N]> {
    let mut found = [const { Vec::new() }; N];
    for (side, name) in found.iter_mut().zip(names) {
        *side = match fields.get(name) {
            Some(text @ Value::String(_)) => segments(text.clone()),
            Some(Value::Array(entries)) if !entries.is_empty() => entries.clone(),
            None | Some(Value::Null) => {
                return Err(format!("there is no {name}; {}", available(fields)));
            }
            Some(Value::Array(_)) => return Err(format!("{name} is an empty list")),
            Some(other) => {
                let kind = type_name(other);
                return Err(format!("{name} is a {kind}; it must be text, segments or messages"));
            }
        };
    }
    let conversations = found.iter().filter(|side| is_conversation(side)).count();
    match conversations {
        0 => Ok(found),
        _ if conversations == N => Ok(found),
        _ => Err(format!("of {} some are messages and some are not", names.join(", "))),
    }
}
