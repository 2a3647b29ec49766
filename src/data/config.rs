//! One source of documents or images, as a recipe's `[[data]]` section names it.

use std::path::Path;

use serde::{Deserialize, Serialize};

use super::DEFAULT_TOLERANCE;
use super::augment::Augment;
use super::render::Loss;
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
    /// `images-and-answers`.
    #[serde(default)]
    pub loss: Loss,
    /// Entries of a repeated list in one document at most.
    #[serde(default = "default_turns")]
    pub max_turns: usize,
    /// Probability that the text before a closing image is dropped, for guidance.
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
    /// Random changes to the images, for tokenizer training only.
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
    /// Whether a key is set that says how samples become documents.
    fn shapes_documents(&self) -> bool {
        self.loss != Loss::default()
            || self.prompt_dropout > 0.0
            || self.explode.is_some()
            || self.group_by.is_some()
            || !self.fields.is_empty()
    }

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
    /// Their images alone.
    Images,
    /// Samples by templates, to be tokenised.
    Samples,
    /// Samples by templates or token shards, in so many stages.
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
        return Err(Error::invalid("data is empty; a recipe needs at least one source".to_owned()));
    }
    let stages = sources.iter().map(|source| source.weight.stages().len()).max().unwrap_or(1);
    let silent = |stage: &usize| {
        let weight = |source: &DataConfig| {
            let weights = source.weight.stages();
            weights.get(*stage).or(weights.last()).copied().unwrap_or(0.0)
        };
        sources.iter().all(|source| weight(source) == 0.0)
    };
    if let Some(stage) = (0..stages).find(silent) {
        let stage = stage + 1;
        let message = format!("no source of data has a weight above 0 in stage {stage}");
        return Err(Error::invalid(message));
    }
    for source in sources {
        let invalid = |key: &str, value: f64, range: &str| {
            let path = &source.path;
            Err(Error::invalid(format!("data {path}: {key} is {value}; allowed: {range}")))
        };
        let weights = source.weight.stages();
        if let Some(weight) = weights.iter().find(|w| !(**w >= 0.0 && w.is_finite())) {
            return invalid("weight", *weight, "at least 0");
        }
        let stages = match purpose {
            Purpose::Images | Purpose::Samples => 1,
            Purpose::Documents { stages } => stages,
        };
        if !(weights.len() == 1 || weights.len() == stages) {
            let (path, count) = (&source.path, weights.len());
            return Err(Error::invalid(format!(
                "data {path}: weight has {count} entries; allowed: one, or one for each of the \
                 {stages} stages of the curriculum"
            )));
        }
        if let Some(weight) = source
            .templates
            .iter()
            .map(|template| template.parts().1)
            .find(|weight| !(*weight > 0.0 && weight.is_finite()))
        {
            return invalid("a template's weight", weight, "above 0");
        }
        if source.limit == Some(0) {
            return invalid("limit", 0.0, "at least 1");
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
            .map_err(|e| Error::invalid(format!("data {}: {e}", source.path)))?;
        // A directory that is not there yet may be one of shards that are still to be made.
        let path = &source.path;
        let to_come = matches!(purpose, Purpose::Documents { .. })
            && source.templates.is_empty()
            && !path.contains(':')
            && Path::new(path).extension().is_none()
            && !Path::new(path).exists();
        let is_tokens = to_come || super::shards::is_spec(path);
        let problem = match purpose {
            Purpose::Images if is_tokens => "holds token shards, which have no images",
            Purpose::Samples if is_tokens => {
                "holds token shards; name the samples that they were made of"
            }
            Purpose::Documents { .. } if is_tokens && source.shapes_documents() => {
                "holds token shards, which loss, prompt_dropout, explode, group_by and fields cannot change"
            }
            Purpose::Documents { .. } if is_tokens && !source.templates.is_empty() => {
                "holds token shards, whose templates were applied when they were made"
            }
            Purpose::Samples | Purpose::Documents { .. }
                if !is_tokens && source.templates.is_empty() =>
            {
                "templates is empty"
            }
            _ => continue,
        };
        return Err(Error::invalid(format!("data {path}: {problem}")));
    }
    Ok(())
}
