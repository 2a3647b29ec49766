//! Sources of text for a text tokenizer.

use serde::{Deserialize, Serialize};

use super::check::{no_shards, not_empty};
use super::section::Section;
use super::source::SourceConfig;
use super::template::{WeightedTemplate, validate_templates};
use crate::error::{Error, Result};

/// The keys that are accepted. So that a language model's section can be copied as it is, `weight`, `loss`,
/// `prompt_dropout` and `too_long` may stay, which mean nothing here: all sources are read in full.
const KEYS: [&str; 12] = [
    "path",
    "weight",
    "templates",
    "group_by",
    "explode",
    "loss",
    "max_turns",
    "prompt_dropout",
    "limit",
    "fields",
    "max_bad",
    "too_long",
];

/// A source of text: every sample is rendered by every template, regardless of weights.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(try_from = "Section", into = "Section")]
pub struct TextData {
    /// The samples.
    pub source: SourceConfig,
    /// The templates.
    pub templates: Vec<WeightedTemplate>,
    /// Maximum number of entries of a repeated list in one document; pairs, if prompts and answers take
    /// turns in it.
    pub max_turns: usize,
    /// Text fields added to every sample.
    pub fields: serde_json::Map<String, serde_json::Value>,
}

impl TextData {
    /// Checks that there are `sources`, each of samples, with templates and values in range.
    pub(crate) fn validate_all(sources: &[Self]) -> Result<()> {
        not_empty(sources)?;
        for TextData { source, templates, .. } in sources {
            source.validate()?;
            no_shards(&source.path, "which hold ids; name the samples that they were made of")?;
            validate_templates(templates, &source.path)?;
        }
        Ok(())
    }
}

impl TryFrom<Section> for TextData {
    type Error = Error;

    fn try_from(section: Section) -> Result<Self> {
        section.refuse_unread("a text tokenizer", &KEYS)?;
        let source = section.source();
        let Section { templates, max_turns, fields, .. } = section;
        Ok(Self { source, templates, max_turns, fields })
    }
}

impl From<TextData> for Section {
    fn from(data: TextData) -> Self {
        let TextData { source, templates, max_turns, fields } = data;
        Self { templates, max_turns, fields, ..Self::of_source(source) }
    }
}
