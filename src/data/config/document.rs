//! Sources of documents for a language model.

use serde::{Deserialize, Serialize};

use super::check::{at, may_hold_shards, no_shards, not_empty, weights};
use super::section::Section;
use super::source::SourceConfig;
use super::template::TemplateConfig;
use super::too_long::TooLong;
use super::weight::Weight;
use crate::error::{Error, Result};

/// The keys that apply to samples.
const SAMPLE_KEYS: [&str; 13] = [
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
    "too_long",
];

/// The keys that apply to token shards.
const SHARD_KEYS: [&str; 5] = ["path", "name", "weight", "limit", "too_long"];

/// A source of documents.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(try_from = "Section", into = "Section")]
pub struct DocumentData {
    /// Name in reports; the path if absent.
    pub name: Option<String>,
    /// Share of the draws, relative to the other sources.
    pub weight: Weight,
    /// What becomes of documents longer than a row.
    pub too_long: TooLong,
    /// Samples or token shards.
    pub content: DocumentContent,
}

/// The content of a source of documents. In a recipe a source with `templates` holds samples, one without
/// holds token shards.
#[derive(Clone, Debug, PartialEq)]
pub enum DocumentContent {
    /// Samples rendered by templates.
    Samples(SourceConfig, TemplateConfig),
    /// Token shards, whose documents are already rendered.
    Shards {
        /// A directory, a file, a list, or a URL.
        path: String,
        /// If given, only the first `limit` documents are read.
        limit: Option<usize>,
    },
}

impl DocumentData {
    /// Samples of `source` rendered by `template`.
    pub fn samples(source: SourceConfig, template: TemplateConfig) -> Self {
        Self {
            name: None,
            weight: Weight::default(),
            too_long: TooLong::default(),
            content: DocumentContent::Samples(source, template),
        }
    }

    /// The token shards at `path`.
    pub fn shards(path: impl Into<String>) -> Self {
        let content = DocumentContent::Shards { path: path.into(), limit: None };
        Self { name: None, weight: Weight::default(), too_long: TooLong::default(), content }
    }

    /// The path of samples or shards.
    pub fn path(&self) -> &str {
        match &self.content {
            DocumentContent::Samples(source, _) => &source.path,
            DocumentContent::Shards { path, .. } => path,
        }
    }

    /// The limit of samples or documents.
    pub fn limit(&self) -> Option<usize> {
        match &self.content {
            DocumentContent::Samples(source, _) => source.limit,
            DocumentContent::Shards { limit, .. } => *limit,
        }
    }

    /// The source's name in reports.
    pub fn label(&self) -> &str {
        self.name.as_deref().unwrap_or_else(|| self.path())
    }

    /// Whether its documents are written by the checkpoint's chat template.
    pub(crate) fn uses_chat_template(&self) -> bool {
        match &self.content {
            DocumentContent::Samples(_, template) => template.uses_chat_template(),
            DocumentContent::Shards { .. } => false,
        }
    }

    /// The source for held-out losses: `count` samples, without prompt dropout.
    pub(crate) fn held_out(mut self, count: usize) -> Self {
        match &mut self.content {
            DocumentContent::Samples(source, template) => {
                source.limit = Some(count);
                source.allows_one = true;
                template.prompt_dropout = 0.0;
            }
            DocumentContent::Shards { limit, .. } => *limit = Some(count),
        }
        self
    }

    /// Checks that there are `sources`, each with values in range and weights for `stages` stages.
    pub(crate) fn validate_all(sources: &[Self], stages: usize) -> Result<()> {
        not_empty(sources)?;
        weights(sources.iter().map(|data| (data.path(), &data.weight)), stages)?;
        sources.iter().try_for_each(Self::validate)
    }

    fn validate(&self) -> Result<()> {
        match &self.content {
            DocumentContent::Samples(source, template) => {
                source.validate()?;
                no_shards(&source.path, "whose templates were applied when they were made")?;
                template.validate(&source.path)
            }
            DocumentContent::Shards { path, limit: Some(0) } => {
                Err(Error::invalid(at(path, "limit is 0; allowed: at least 1")))
            }
            DocumentContent::Shards { path, .. } if !may_hold_shards(path) => {
                Err(Error::invalid(at(path, "templates is empty")))
            }
            DocumentContent::Shards { .. } => Ok(()),
        }
    }
}

impl TryFrom<Section> for DocumentData {
    type Error = Error;

    fn try_from(section: Section) -> Result<Self> {
        let (name, weight) = (section.name.clone(), section.weight.clone());
        let too_long = section.too_long;
        let content = if section.templates.is_empty() {
            section.refuse_unread("a source without templates, of token shards,", &SHARD_KEYS)?;
            DocumentContent::Shards { path: section.path, limit: section.limit }
        } else {
            section.refuse_unread("a language model", &SAMPLE_KEYS)?;
            DocumentContent::Samples(section.source(), section.template())
        };
        Ok(Self { name, weight, too_long, content })
    }
}

impl From<DocumentData> for Section {
    fn from(data: DocumentData) -> Self {
        let DocumentData { name, weight, too_long, content } = data;
        let section = match content {
            DocumentContent::Samples(source, template) => Self::of_samples(source, template),
            DocumentContent::Shards { path, limit } => Self::of_shards(path, limit),
        };
        Self { name, weight, too_long, ..section }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests")]
mod tests {
    use serde_json::json;

    use super::super::{ImageData, SampleData, TextData};
    use super::*;

    /// The error that `text` gives as a section of type `T`.
    fn refused<T: serde::de::DeserializeOwned>(text: &str) -> String {
        let text = format!("path = \"p.tar\"\n{text}");
        toml::from_str::<T>(&text).err().map_or_else(|| "accepted".to_owned(), |e| e.to_string())
    }

    #[test]
    fn a_key_that_is_not_read_is_refused_by_name() {
        for (error, key) in [
            (
                refused::<ImageData>("templates = [\"{a}\"]"),
                "an image tokenizer does not read templates",
            ),
            (refused::<ImageData>("loss = \"answers\""), "an image tokenizer does not read loss"),
            (refused::<TextData>("words = [\"a\"]"), "a text tokenizer does not read words"),
            (refused::<SampleData>("words = [\"a\"]"), "`calumma tokenize` does not read words"),
            (
                refused::<DocumentData>("templates = [\"{a}\"]\naugment = true"),
                "does not read augment",
            ),
            (
                refused::<SampleData>("too_long = \"truncate\""),
                "`calumma tokenize` does not read too_long",
            ),
            (
                refused::<DocumentData>("too_long = \"cut\""),
                "unknown variant `cut`, expected `drop` or `truncate`",
            ),
            (
                refused::<DocumentData>("prompt_dropout = 0.1"),
                "token shards, does not read prompt_dropout",
            ),
            (refused::<DocumentData>("tempaltes = [\"{a}\"]"), "unknown field `tempaltes`"),
        ] {
            assert!(error.contains(key), "{error}");
        }
    }

    #[test]
    fn keys_that_sections_of_other_recipes_carry_are_accepted() {
        let name = "name = \"a\"\nweight = 2.0";
        let text =
            format!("{name}\ntemplates = [\"{{a}}\"]\nloss = \"answers\"\nprompt_dropout = 0.1");
        assert_eq!(refused::<ImageData>(name), "accepted");
        assert_eq!(refused::<TextData>(&text), "accepted");
        assert_eq!(refused::<SampleData>(&text), "accepted");
        assert_eq!(refused::<DocumentData>(&text), "accepted");
    }

    #[test]
    fn every_kind_of_source_is_written_with_all_keys_and_read_back() {
        let whole = json!({
            "path": "p.tar", "name": null, "weight": 1.0, "templates": [], "group_by": null,
            "explode": null, "loss": "all", "max_turns": 8, "prompt_dropout": 0.0, "limit": null,
            "fields": {}, "max_bad": 0.01,
            "augment": { "flip": false, "shift": 0, "scale": 0.0, "colour": 0.0 }, "words": [],
        });
        fn same<T: Serialize + serde::de::DeserializeOwned>(value: &serde_json::Value) {
            let read: T = serde_json::from_value(value.clone()).unwrap();
            assert_eq!(&serde_json::to_value(read).unwrap(), value);
        }
        same::<ImageData>(&whole);
        same::<TextData>(&whole);
        same::<SampleData>(&whole);
        same::<DocumentData>(&whole);
        let mut samples = whole;
        samples["name"] = json!("n");
        samples["weight"] = json!([1.0, 2.0]);
        samples["templates"] = json!(["{a}", { "template": "{b}", "weight": 2.0 }]);
        samples["prompt_dropout"] = json!(0.5);
        samples["fields"] = json!({ "style": "flat" });
        samples["limit"] = json!(3);
        samples["loss"] = json!("last-answer");
        samples["too_long"] = json!("truncate");
        same::<DocumentData>(&samples);
    }

    #[test]
    fn weights_and_ranges_are_checked_with_path_and_key() {
        let shards = |weight: Weight| DocumentData { weight, ..DocumentData::shards("runs/none") };
        let check = |data: &[DocumentData], stages| {
            DocumentData::validate_all(data, stages)
                .err()
                .map(|e| e.to_string())
                .unwrap_or_default()
        };
        let one = |weight| [shards(Weight::Throughout(weight))];
        let staged = |weights: &[f64]| [shards(Weight::ByStage(weights.to_vec()))];
        assert_eq!(check(&one(1.0), 3), "");
        assert!(check(&[], 1).contains("data is empty"));
        assert!(check(&one(-1.0), 1).contains("data runs/none: weight is -1; allowed: at least 0"));
        assert!(check(&staged(&[1.0, 0.0]), 2).contains("above 0 in stage 2"));
        assert!(check(&staged(&[1.0, 1.0]), 3).contains("each of the 3 stages of the curriculum"));
        let mut template = TemplateConfig::new(["{a}".to_owned()]);
        template.prompt_dropout = 1.5;
        let samples = DocumentData::samples(SourceConfig::new("p.tar"), template);
        assert!(
            check(&[samples], 1).contains("data p.tar: prompt_dropout is 1.5; allowed: [0, 1]")
        );
        assert!(check(&[DocumentData::shards("p.tar")], 1).contains("p.tar: templates is empty"));
    }
}
