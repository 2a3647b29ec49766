//! One source of documents or pictures, as a recipe's `[[data]]` section names it.

use serde::{Deserialize, Serialize};

use super::DEFAULT_TOLERANCE;
use super::augment::Augment;
use super::template::Loss;
use crate::error::{Error, Result};

/// One source of documents.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DataConfig {
    /// A path or a `scenes:` specification.
    pub path: String,
    /// Share of the draws, relative to the other sources.
    #[serde(default = "one")]
    pub weight: f64,
    /// How a sample becomes a document; one is drawn by weight every time.
    #[serde(default)]
    pub templates: Vec<WeightedTemplate>,
    /// Rows with equal values in this column become one sample whose list `turns` holds the other
    /// columns.
    pub group_by: Option<String>,
    /// One sample per entry of this list-valued column.
    pub explode: Option<String>,
    /// What is supervised: `all` tokens, only the `answers` after a separator, or
    /// `pictures-and-answers`.
    #[serde(default)]
    pub loss: Loss,
    /// Entries of a repeated list in one document at most.
    #[serde(default = "default_turns")]
    pub max_turns: usize,
    /// Probability that the text before a closing picture is dropped, for guidance.
    #[serde(default)]
    pub prompt_dropout: f64,
    /// The first samples only.
    pub limit: Option<usize>,
    /// Text fields added to every sample, for templates.
    #[serde(default)]
    pub fields: serde_json::Map<String, serde_json::Value>,
    /// Share of the samples, 0 to 1, that may be bad; they are listed and left out.
    #[serde(default = "default_max_bad")]
    pub max_bad: f64,
    /// Random changes to the pictures, for tokenizer training only.
    #[serde(default)]
    pub augment: Augment,
    /// Columns whose words a tokenizer's semantic head learns to read.
    #[serde(default)]
    pub words: Vec<String>,
}

fn one() -> f64 {
    1.0
}
fn default_max_bad() -> f64 {
    DEFAULT_TOLERANCE
}
fn default_turns() -> usize {
    8
}

/// A template and how often it is drawn; in a recipe a plain string has weight 1.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum WeightedTemplate {
    /// Weight 1.
    Plain(String),
    /// Any weight.
    Weighted {
        /// The template.
        template: String,
        /// Relative to the source's other templates.
        weight: f64,
    },
}

impl WeightedTemplate {
    /// The template's text and weight.
    pub fn parts(&self) -> (&str, f64) {
        match self {
            Self::Plain(template) => (template, 1.0),
            Self::Weighted { template, weight } => (template, *weight),
        }
    }
}

/// Checks that there are `sources`, each with values in range and, if `templates` are needed, with one.
///
/// # Errors
/// [`Error::Invalid`] with the source, the key, its value and what is allowed.
pub(crate) fn validate_sources(sources: &[DataConfig], templates: bool) -> Result<()> {
    if sources.is_empty() {
        return Err(Error::Invalid("data is empty; a recipe needs at least one source".to_owned()));
    }
    for source in sources {
        let invalid = |key: &str, value: f64, range: &str| {
            let path = &source.path;
            Err(Error::Invalid(format!("data {path}: {key} is {value}; allowed: {range}")))
        };
        if !(source.weight >= 0.0 && source.weight.is_finite()) {
            return invalid("weight", source.weight, "at least 0");
        }
        if !(0.0..=1.0).contains(&source.prompt_dropout) {
            return invalid("prompt_dropout", source.prompt_dropout, "[0, 1]");
        }
        if !(0.0..=1.0).contains(&source.max_bad) {
            return invalid("max_bad", source.max_bad, "[0, 1]");
        }
        source
            .augment
            .validate()
            .map_err(|e| Error::Invalid(format!("data {}: {e}", source.path)))?;
        if templates && source.templates.is_empty() {
            let path = &source.path;
            return Err(Error::Invalid(format!("data {path}: templates is empty")));
        }
    }
    Ok(())
}
