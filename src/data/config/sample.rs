//! Sources of samples for token shards.

use serde::{Deserialize, Serialize};

use super::check::{no_shards, not_empty};
use super::section::Section;
use super::source::SourceConfig;
use super::template::TemplateConfig;
use crate::error::{Error, Result};

/// The keys that are read; `weight` may stay, but all sources are read in full.
const KEYS: [&str; 12] = [
    "path",
    "name",
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
];

/// A source of samples that become documents.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(try_from = "Section", into = "Section")]
pub struct SampleData {
    /// Name in reports; the path if absent.
    pub name: Option<String>,
    /// The samples.
    pub source: SourceConfig,
    /// How they become documents.
    pub template: TemplateConfig,
}

impl SampleData {
    /// The source's name in reports.
    pub fn label(&self) -> &str {
        self.name.as_deref().unwrap_or(&self.source.path)
    }

    /// Checks that there are `sources`, each of samples, with templates and values in range.
    pub(crate) fn validate_all(sources: &[Self]) -> Result<()> {
        not_empty(sources)?;
        for SampleData { source, template, .. } in sources {
            source.validate()?;
            no_shards(&source.path, "which hold ids; name the samples that they were made of")?;
            template.validate(&source.path)?;
        }
        Ok(())
    }
}

impl TryFrom<Section> for SampleData {
    type Error = Error;

    fn try_from(section: Section) -> Result<Self> {
        section.refuse_unread("`calumma tokenize`", &KEYS)?;
        let (name, source) = (section.name.clone(), section.source());
        Ok(Self { name, source, template: section.template() })
    }
}

impl From<SampleData> for Section {
    fn from(data: SampleData) -> Self {
        let SampleData { name, source, template } = data;
        Self { name, ..Self::of_samples(source, template) }
    }
}
