//! The recipe of `calumma tokenize`.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use crate::data::config::SampleData;
use crate::data::tokenizers::TokenizerConfig;
use crate::error::Result;
use crate::recipe::{Recipe, at_least_one, runs_directory, validate_name};

/// A recipe for `calumma tokenize`: data sets to token shards.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TokensRecipe {
    /// Destination and size of the shards.
    pub run: TokensRunConfig,
    /// The tokenizers that turn documents into ids.
    pub tokenizer: TokenizerConfig,
    /// The samples to turn into ids; weights are ignored.
    pub data: Vec<SampleData>,
}

/// Destination and size of token shards.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TokensRunConfig {
    /// Name of the run's directory.
    pub name: String,
    /// Parent directory.
    #[serde(default = "runs_directory")]
    pub directory: PathBuf,
    /// Seed of the choice among templates and list values.
    #[serde(default)]
    pub seed: u64,
    /// Samples per shard.
    #[serde(default = "default_samples")]
    pub samples_per_shard: usize,
    /// Documents per sample, each with its own template and random choices.
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
    /// The directory of the shards.
    pub fn path(&self) -> PathBuf {
        self.directory.join(&self.name)
    }
}

impl Recipe for TokensRecipe {
    fn validate(&self) -> Result<()> {
        validate_name(&self.run.name)?;
        at_least_one("run.samples_per_shard", self.run.samples_per_shard)?;
        at_least_one("run.renderings", self.run.renderings)?;
        SampleData::validate_all(&self.data)
    }
}
