//! Sources of images for an image tokenizer.

use serde::{Deserialize, Serialize};

use super::check::{no_shards, not_empty, weights};
use super::section::Section;
use super::source::SourceConfig;
use super::weight::Weight;
use crate::data::augment::Augment;
use crate::error::{Error, Result};

/// The keys that are read.
const KEYS: [&str; 8] =
    ["path", "weight", "limit", "group_by", "explode", "max_bad", "augment", "words"];

/// A source of images; only the first image of each sample is used.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(try_from = "Section", into = "Section")]
pub struct ImageData {
    /// The samples.
    pub source: SourceConfig,
    /// Share of the draws, relative to the other sources.
    pub weight: Weight,
    /// Random changes to the images.
    pub augment: Augment,
    /// Columns whose words a tokenizer's semantic head learns to predict.
    pub words: Vec<String>,
}

impl ImageData {
    /// Checks that there are `sources`, each of samples and with values in range.
    pub(crate) fn validate_all(sources: &[Self]) -> Result<()> {
        not_empty(sources)?;
        weights(sources.iter().map(|data| (data.source.path.as_str(), &data.weight)), 1)?;
        for ImageData { source, augment, .. } in sources {
            source.validate()?;
            let context = format!("data {}", source.path);
            augment.validate().map_err(Error::because(context))?;
            no_shards(&source.path, "which have no images")?;
        }
        Ok(())
    }
}

impl TryFrom<Section> for ImageData {
    type Error = Error;

    fn try_from(section: Section) -> Result<Self> {
        section.refuse_unread("an image tokenizer", &KEYS)?;
        let source = section.source();
        let Section { weight, augment, words, .. } = section;
        Ok(Self { source, weight, augment, words })
    }
}

impl From<ImageData> for Section {
    fn from(data: ImageData) -> Self {
        let ImageData { source, weight, augment, words } = data;
        Self { weight, augment, words, ..Self::of_source(source) }
    }
}
