//! A text tokenizer: `calumma bpe train`.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use super::{Recipe, default_directory, validate_name};
use crate::data::{DataConfig, Purpose, validate_sources};
use crate::error::Result;
use crate::tokenize::BpeConfig;

/// A recipe for `calumma bpe train`: a text tokenizer with image and special tokens reserved.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct BpeRecipe {
    /// Where the result goes: `directory/name/tokenizer.json`.
    pub run: BpeRunConfig,
    /// The vocabulary.
    pub bpe: BpeConfig,
    /// Documents whose text is read; images and special marks are left out.
    pub data: Vec<DataConfig>,
}

/// Where a text tokenizer goes, and how much text it reads.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct BpeRunConfig {
    /// Name of the folder.
    pub name: String,
    /// Where runs lie.
    #[serde(default = "default_directory")]
    pub directory: PathBuf,
    /// Seed of the choice among templates and list values.
    #[serde(default)]
    pub seed: u64,
    /// Documents drawn from each source at most.
    #[serde(default = "default_documents")]
    pub documents: usize,
}

fn default_documents() -> usize {
    20_000
}

impl Recipe for BpeRecipe {
    fn validate(&self) -> Result<()> {
        validate_name(&self.run.name)?;
        validate_sources(&self.data, Purpose::Samples)
    }
}
