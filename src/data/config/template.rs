//! How samples become documents.

use serde::{Deserialize, Serialize};

use super::check::{at, in_range};
use crate::data::render::Loss;
use crate::error::{Error, Result};

/// Default of `max_turns`.
pub(super) const DEFAULT_TURNS: usize = 8;

/// How samples become documents.
#[derive(Clone, Debug, PartialEq)]
pub struct TemplateConfig {
    /// The templates; one is drawn by weight for each document.
    pub templates: Vec<WeightedTemplate>,
    /// The segments that the loss counts.
    pub loss: Loss,
    /// Maximum number of entries of a repeated list in one document; pairs, if prompts and answers take
    /// turns in it.
    pub max_turns: usize,
    /// Probability that the text before a closing image is dropped, for guidance.
    pub prompt_dropout: f64,
    /// Text fields added to every sample.
    pub fields: serde_json::Map<String, serde_json::Value>,
}

impl TemplateConfig {
    /// `templates` of equal weight, with defaults for everything else.
    pub fn new(templates: impl IntoIterator<Item = String>) -> Self {
        Self {
            templates: templates.into_iter().map(WeightedTemplate::Plain).collect(),
            loss: Loss::default(),
            max_turns: DEFAULT_TURNS,
            prompt_dropout: 0.0,
            fields: serde_json::Map::new(),
        }
    }

    /// Checks the ranges for the source at `path`.
    pub(super) fn validate(&self, path: &str) -> Result<()> {
        validate_templates(&self.templates, path)?;
        in_range(path, "prompt_dropout", self.prompt_dropout, 0.0..=1.0)
    }
}

/// Checks the weights of `templates` for the source at `path`; there must be a template.
pub(super) fn validate_templates(templates: &[WeightedTemplate], path: &str) -> Result<()> {
    let weights = templates.iter().map(|template| template.parts().1);
    if let Some(weight) = weights.clone().find(|w| !(*w > 0.0 && w.is_finite())) {
        let message = format!("a template's weight is {weight}; allowed: above 0");
        return Err(Error::invalid(at(path, message)));
    }
    match templates.is_empty() {
        true => Err(Error::invalid(at(path, "templates is empty"))),
        false => Ok(()),
    }
}

/// A template and its weight; a plain string in a recipe has weight 1.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum WeightedTemplate {
    /// Weight 1.
    Plain(String),
    /// Any weight.
    Weighted {
        /// The template.
        template: String,
        /// Weight relative to the source's other templates.
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
