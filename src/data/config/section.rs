//! A source as written in a recipe.

use serde::{Deserialize, Serialize};

use super::check::at;
use super::source::SourceConfig;
use super::template::{DEFAULT_TURNS, TemplateConfig, WeightedTemplate};
use super::too_long::TooLong;
use super::weight::Weight;
use crate::data::augment::Augment;
use crate::data::counted::DEFAULT_TOLERANCE;
use crate::data::render::Loss;
use crate::error::{Error, Result};

/// The keys of all kinds of sources. Results and the digests of token shards depend on their order
/// and defaults.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Section {
    /// A path, a `scenes:` specification, or the URL of token shards.
    pub(super) path: String,
    /// Name in reports; the path if absent.
    pub(super) name: Option<String>,
    /// Relative share of the draws; a list has one for each stage of the curriculum.
    #[serde(default)]
    pub(super) weight: Weight,
    #[serde(default)]
    pub(super) templates: Vec<WeightedTemplate>,
    /// Rows with equal values in this column become one sample whose list `turns` holds the other columns.
    pub(super) group_by: Option<String>,
    /// One sample per entry of this list-valued column.
    pub(super) explode: Option<String>,
    /// `all` tokens, only the `answers` after a separator, only the `last-answer`, or `images-and-answers`.
    #[serde(default)]
    pub(super) loss: Loss,
    #[serde(default = "default_turns")]
    pub(super) max_turns: usize,
    #[serde(default)]
    pub(super) prompt_dropout: f64,
    /// If given, only the first `limit` samples are read.
    pub(super) limit: Option<usize>,
    #[serde(default)]
    pub(super) fields: serde_json::Map<String, serde_json::Value>,
    /// Share of the samples, 0 to 1, that may be bad.
    #[serde(default = "default_max_bad")]
    pub(super) max_bad: f64,
    #[serde(default)]
    pub(super) augment: Augment,
    #[serde(default)]
    pub(super) words: Vec<String>,
    /// What becomes of documents longer than a row: `drop` or `truncate`.
    #[serde(default, skip_serializing_if = "TooLong::is_default")]
    pub(super) too_long: TooLong,
}

fn default_max_bad() -> f64 {
    DEFAULT_TOLERANCE
}
fn default_turns() -> usize {
    DEFAULT_TURNS
}

impl Section {
    /// A section with a path and defaults.
    fn new(path: String) -> Self {
        Self {
            path,
            name: None,
            weight: Weight::default(),
            templates: Vec::new(),
            group_by: None,
            explode: None,
            loss: Loss::default(),
            max_turns: DEFAULT_TURNS,
            prompt_dropout: 0.0,
            limit: None,
            fields: serde_json::Map::new(),
            max_bad: DEFAULT_TOLERANCE,
            augment: Augment::default(),
            words: Vec::new(),
            too_long: TooLong::default(),
        }
    }

    /// The section of a source of samples.
    pub(super) fn of_source(source: SourceConfig) -> Self {
        let SourceConfig { path, group_by, explode, limit, max_bad, allows_one: _ } = source;
        Self { group_by, explode, limit, max_bad, ..Self::new(path) }
    }

    /// The section of a source of samples with templates.
    pub(super) fn of_samples(source: SourceConfig, template: TemplateConfig) -> Self {
        let TemplateConfig { templates, loss, max_turns, prompt_dropout, fields } = template;
        Self { templates, loss, max_turns, prompt_dropout, fields, ..Self::of_source(source) }
    }

    /// The section of the token shards at `path`.
    pub(super) fn of_shards(path: String, limit: Option<usize>) -> Self {
        Self { limit, ..Self::new(path) }
    }

    /// The keys that select samples.
    pub(super) fn source(&self) -> SourceConfig {
        SourceConfig {
            path: self.path.clone(),
            group_by: self.group_by.clone(),
            explode: self.explode.clone(),
            limit: self.limit,
            max_bad: self.max_bad,
            allows_one: false,
        }
    }

    /// The keys that turn samples into documents.
    pub(super) fn template(self) -> TemplateConfig {
        TemplateConfig {
            templates: self.templates,
            loss: self.loss,
            max_turns: self.max_turns,
            prompt_dropout: self.prompt_dropout,
            fields: self.fields,
        }
    }

    /// Refuses keys that differ from their defaults but are not among those `read` by `reader`;
    /// a `name` is accepted everywhere.
    pub(super) fn refuse_unread(&self, reader: &str, read: &[&str]) -> Result<()> {
        let json = |section: &Self| {
            serde_json::to_value(section).expect("texts, numbers and lists are valid JSON")
        };
        let (given, default) = (json(self), json(&Self::new(self.path.clone())));
        let keys = given.as_object().into_iter().flat_map(serde_json::Map::keys);
        let mut unread = keys
            .filter(|key| *key != "name" && !read.contains(&key.as_str()))
            .filter(|key| given[*key] != default[*key]);
        match unread.next() {
            Some(key) => {
                let read = read.join(", ");
                let message = format!("{reader} does not read {key}; it reads {read}");
                Err(Error::invalid(at(&self.path, message)))
            }
            None => Ok(()),
        }
    }
}
