//! Token shards: `calumma tokenize`.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use super::{Recipe, TokenizerConfig, at_least_one, default_directory, validate_name};
use crate::data::{DataConfig, Purpose, validate_sources};
use crate::error::Result;

/// A recipe for `calumma tokenize`: data sets to token shards.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TokensRecipe {
    /// Where the shards go, and how large they are.
    pub run: TokensRunConfig,
    /// The tokenizers that turn documents into ids.
    pub tokenizer: TokenizerConfig,
    /// What to turn into ids; weights are ignored.
    pub data: Vec<DataConfig>,
}

/// Where token shards go, and how large they are.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TokensRunConfig {
    /// Name of the folder.
    pub name: String,
    /// Where runs lie.
    #[serde(default = "default_directory")]
    pub directory: PathBuf,
    /// Seed of the choice among templates and list values.
    #[serde(default)]
    pub seed: u64,
    /// Samples in a shard.
    #[serde(default = "default_samples")]
    pub samples_per_shard: usize,
    /// Documents made of each sample, each with a template and choices of its own.
    #[serde(default = "one_rendering")]
    pub renderings: usize,
}

fn default_samples() -> usize {
    8192
}
fn one_rendering() -> usize {
    1
}

impl TokensRunConfig {
    /// The folder of the shards.
    pub fn path(&self) -> PathBuf {
        self.directory.join(&self.name)
    }
}

impl Recipe for TokensRecipe {
    fn validate(&self) -> Result<()> {
        validate_name(&self.run.name)?;
        at_least_one("run.samples_per_shard", self.run.samples_per_shard)?;
        at_least_one("run.renderings", self.run.renderings)?;
        validate_sources(&self.data, Purpose::Samples)
    }
}
