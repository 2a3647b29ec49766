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
    /// A path, a `scenes:` specification, or the URL of token shards.
    pub path: String,
    /// What the source is called in reports; its path when absent.
    pub name: Option<String>,
    /// Share of the draws, relative to the other sources; a list has one for each stage of the
    /// curriculum.
    #[serde(default)]
    pub weight: Weight,
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

fn default_max_bad() -> f64 {
    DEFAULT_TOLERANCE
}
fn default_turns() -> usize {
    8
}

/// How often a source is drawn.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum Weight {
    /// The same throughout.
    Throughout(f64),
    /// One for each stage.
    ByStage(Vec<f64>),
}

impl Default for Weight {
    fn default() -> Self {
        Self::Throughout(1.0)
    }
}

impl Weight {
    /// One weight for all stages, or one for each.
    pub fn stages(&self) -> &[f64] {
        match self {
            Self::Throughout(weight) => std::slice::from_ref(weight),
            Self::ByStage(weights) => weights,
        }
    }
}

impl DataConfig {
    /// What the source is called in reports.
    pub fn label(&self) -> &str {
        self.name.as_deref().unwrap_or(&self.path)
    }
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

/// What sources are read for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Purpose {
    /// Their pictures alone.
    Pictures,
    /// Documents by templates, in so many stages.
    Documents {
        /// Stages of the curriculum; at least 1.
        stages: usize,
    },
}

/// Checks that there are `sources`, each with values in range and with what `purpose` needs.
///
/// # Errors
/// [`Error::Invalid`] with the source, the key, its value and what is allowed.
pub(crate) fn validate_sources(sources: &[DataConfig], purpose: Purpose) -> Result<()> {
    if sources.is_empty() {
        return Err(Error::Invalid("data is empty; a recipe needs at least one source".to_owned()));
    }
    for source in sources {
        let invalid = |key: &str, value: f64, range: &str| {
            let path = &source.path;
            Err(Error::Invalid(format!("data {path}: {key} is {value}; allowed: {range}")))
        };
        let weights = source.weight.stages();
        if let Some(weight) = weights.iter().find(|w| !(**w >= 0.0 && w.is_finite())) {
            return invalid("weight", *weight, "at least 0");
        }
        let stages = match purpose {
            Purpose::Pictures => 1,
            Purpose::Documents { stages } => stages,
        };
        if !(weights.len() == 1 || weights.len() == stages) {
            let (path, count) = (&source.path, weights.len());
            return Err(Error::Invalid(format!(
                "data {path}: weight has {count} entries; allowed: one, or one for each of the \
                 {stages} stages of the curriculum"
            )));
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
        let (is_tokens, path) = (super::shards::is_spec(&source.path), &source.path);
        let problem = match purpose {
            Purpose::Pictures if is_tokens => "holds token shards, which have no pictures",
            Purpose::Documents { .. } if is_tokens && !source.templates.is_empty() => {
                "holds token shards, whose templates were applied when they were made"
            }
            Purpose::Documents { .. } if !is_tokens && source.templates.is_empty() => {
                "templates is empty"
            }
            _ => continue,
        };
        return Err(Error::Invalid(format!("data {path}: {problem}")));
    }
    Ok(())
}
