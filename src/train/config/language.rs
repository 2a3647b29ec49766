//! The recipe of `calumma train`.

use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use super::super::objective::LossConfig;
use super::super::objective::preference::{PreferenceConfig, UnpairedConfig};
use super::super::objective::reward_model::RewardModelConfig;
use super::super::optimizer_config::OptimizerConfig;
use super::super::plan::Plan;
use super::super::preference::ReferenceConfig;
use super::super::rl::RlConfig;
use super::super::safety::SafetyConfig;
use super::super::schedule::ScheduleConfig;
use super::model::{AddedNormConfig, ModelSizes, UpcycleConfig};
use super::run::{AverageConfig, RunConfig, one_batch};
use crate::checkpoint::{config_from_json, kept_settings};
use crate::data::{CurriculumConfig, DocumentData, TokenizerConfig};
use crate::error::{Error, Result};
use crate::files::read_json;
use crate::generate::GenerationConfig;
use crate::model::adapter::AdapterConfig;
use crate::model::{ModelConfig, is_default};
use crate::recipe::{Recipe, at_least_one};
use crate::tokenize::{PromptTemplates, Vocabulary};

/// A recipe for `calumma train`: a language model over text and images.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LanguageRecipe {
    /// Name, length and intervals of the run.
    pub run: RunConfig,
    /// Sizes of the model, by default those of `run.init`; `vocab_size` is taken from the tokenizer.
    pub model: ModelSizes,
    /// The tokenizers that turn documents into ids, by default those of `run.init`.
    pub tokenizer: TokenizerConfig,
    /// Documents to train on.
    pub data: Vec<DocumentData>,
    /// Changes of the mixture during the run.
    #[serde(default)]
    pub curriculum: CurriculumConfig,
    /// The validation set; weights are ignored.
    #[serde(default)]
    pub validation: Vec<DocumentData>,
    /// The optimizer.
    #[serde(default)]
    pub optimizer: OptimizerConfig,
    /// The learning rate over time.
    #[serde(default)]
    pub schedule: ScheduleConfig,
    /// The loss.
    #[serde(default)]
    pub loss: LossConfig,
    /// Averaged weights for evaluation and release.
    #[serde(default)]
    pub average: AverageConfig,
    /// Rewinding after a bad step.
    #[serde(default)]
    pub safety: SafetyConfig,
    /// An adapter to train in place of the weights of `run.init`, under the keys of PEFT's `LoraConfig`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub adapter: Option<AdapterConfig>,
    /// Training on pairs of answers instead of documents; `batch.sequences` is the number of pairs then.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub preference: Option<PreferenceConfig>,
    /// Training on answers with a verdict each; `batch.sequences` is their number then.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub kto: Option<UnpairedConfig>,
    /// Training of a reward model on pairs of answers, which gives it a score head.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reward_model: Option<RewardModelConfig>,
    /// How the reference of `preference` or `kto` scores answers.
    #[serde(default, skip_serializing_if = "is_default")]
    pub reference: ReferenceConfig,
    /// Training on rewards of the model's own answers to the prompts of `data`; `batch.sequences` is the number of
    /// answers whose gradients are computed at once.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub rl: Option<RlConfig>,
    /// Experts from the dense model `run.init`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub upcycle: Option<UpcycleConfig>,
    /// Norms of queries and keys for the model `run.init`, which has none.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub add_qk_norm: Option<AddedNormConfig>,
    /// The shape of a batch.
    pub batch: BatchConfig,
    /// The `generation_config.json` of the released checkpoint; without the section that of `run.init`.
    #[serde(default)]
    pub generation: Map<String, Value>,
}

/// The shape of a language model's batch.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct BatchConfig {
    /// Packed rows per batch.
    pub sequences: usize,
    /// Tokens per row.
    pub seq_len: usize,
    /// Batches per step (gradient accumulation).
    #[serde(default = "one_batch")]
    pub accumulate: usize,
    /// Whether to keep only the inputs of layers for the backward pass and recompute the rest: a third more
    /// work, activations of one layer instead of all.
    #[serde(default)]
    pub activation_checkpointing: bool,
}

impl Recipe for LanguageRecipe {
    // The shipped model, the sizes of the throughput benches, and the two models of the paper (table 1;
    // heads and widths of the larger one follow from its number of parameters).
    const PRESETS: &'static [(&'static str, &'static str)] = &[
        (
            "demo",
            "hidden_size = 256\nintermediate_size = 704\nnum_hidden_layers = 6\n\
             num_attention_heads = 4\nmax_position_embeddings = 512",
        ),
        (
            "small",
            "hidden_size = 512\nintermediate_size = 1408\nnum_hidden_layers = 8\n\
             num_attention_heads = 8\nmax_position_embeddings = 1024",
        ),
        (
            "base",
            "hidden_size = 768\nintermediate_size = 2048\nnum_hidden_layers = 12\n\
             num_attention_heads = 12\nmax_position_embeddings = 2048",
        ),
        (
            "1b",
            "hidden_size = 2048\nintermediate_size = 5504\nnum_hidden_layers = 16\n\
             num_attention_heads = 16\nmax_position_embeddings = 2048",
        ),
        (
            "chameleon-7b",
            "hidden_size = 4096\nintermediate_size = 11008\nnum_hidden_layers = 32\n\
             num_attention_heads = 32\nmax_position_embeddings = 4096\ndropout = 0.1",
        ),
        (
            "chameleon-30b",
            "hidden_size = 8192\nintermediate_size = 22016\nnum_hidden_layers = 48\n\
             num_attention_heads = 64\nnum_key_value_heads = 8\n\
             max_position_embeddings = 4096\nswin_norm = true",
        ),
    ];

    /// A run that starts from a checkpoint needs no sizes, tokenizers or settings of generation of its own.
    fn complete(table: &mut toml::Table) -> Result<()> {
        let init = table.get("run").and_then(|run| run.get("init")).and_then(toml::Value::as_str);
        let Some(init) = init.map(PathBuf::from) else { return Ok(()) };
        let own = table.remove("model");
        let [upcycles, adds_norms] =
            ["upcycle", "add_qk_norm"].map(|section| table.contains_key(section));
        let model = match own {
            Some(own) if !upcycles && !adds_norms => own,
            own => {
                let path = init.join("config.json");
                let json = read_json(&path)?;
                let config = config_from_json(&json).map_err(Error::in_file(&path))?;
                let sizes = toml::Table::try_from(ModelSizes::from(config));
                let mut sizes = sizes.map_err(Error::in_file(&path))?;
                if adds_norms {
                    AddedNormConfig::complete(&mut sizes);
                }
                sizes.extend(own.and_then(|own| own.as_table().cloned()).unwrap_or_default());
                UpcycleConfig::complete(&mut sizes);
                sizes.into()
            }
        };
        table.insert("model".to_owned(), model);
        keep_settings(table, &init)?;
        if !table.contains_key("tokenizer") {
            let checkpoint = init.display().to_string();
            let section = toml::Table::from_iter([("checkpoint".to_owned(), checkpoint.into())]);
            table.insert("tokenizer".to_owned(), section.into());
        }
        Ok(())
    }

    fn validate(&self) -> Result<()> {
        self.run.validate(!self.validation.is_empty())?;
        self.optimizer.validate()?;
        self.schedule.validate()?;
        at_least_one("batch.sequences", self.batch.sequences)?;
        at_least_one("batch.accumulate", self.batch.accumulate)?;
        if self.batch.seq_len < 2 {
            let len = self.batch.seq_len;
            return Err(Error::invalid(format!("batch.seq_len is {len}; it must be at least 2")));
        }
        let context = self.model.max_position_embeddings;
        if self.batch.seq_len > context {
            let len = self.batch.seq_len;
            return Err(Error::invalid(format!(
                "batch.seq_len is {len}; allowed: up to model.max_position_embeddings, {context}"
            )));
        }
        self.model.config(1).validate()?;
        self.validate_post_training()?;
        self.loss.validate()?;
        self.loss.validate_for(self.model.experts.as_ref())?;
        self.average.validate()?;
        self.safety.validate()?;
        self.curriculum.validate()?;
        self.validate_generation()?;
        let stages = self.curriculum.num_stages();
        DocumentData::validate_all(&self.data, stages)?;
        match self.validation.is_empty() {
            true => Ok(()),
            false => DocumentData::validate_all(&self.validation, stages),
        }
    }
}

/// Gives the recipe `table` what it does not say of generation as the checkpoint in `init` has it, if it takes its tokenizers.
fn keep_settings(table: &mut toml::Table, init: &Path) -> Result<()> {
    let is_init = |dir: &str| match [Path::new(dir), init].map(Path::canonicalize) {
        [Ok(dir), Ok(init)] => dir == init,
        _ => Path::new(dir) == init,
    };
    let takes_tokenizers = table.get("tokenizer").is_none_or(|tokenizer| {
        let checkpoint = tokenizer.get("checkpoint").and_then(toml::Value::as_str);
        tokenizer.get("text").is_none() && checkpoint.is_some_and(is_init)
    });
    // The loading of weights complains of a directory without the file.
    if !takes_tokenizers || !init.join("config.json").exists() {
        return Ok(());
    }
    let own = table.remove("generation");
    let mut kept = kept_settings(init, own.is_some())?;
    remove_nulls(&mut kept);
    let kept = toml::Table::try_from(kept);
    let mut kept = kept.map_err(Error::in_file(&init.join("generation_config.json")))?;
    kept.extend(own.and_then(|own| own.as_table().cloned()).unwrap_or_default());
    table.insert("generation".to_owned(), kept.into());
    Ok(())
}

/// Takes out what is null, which TOML cannot say: it has its default.
fn remove_nulls(object: &mut Map<String, Value>) {
    object.retain(|_, value| !value.is_null());
    object.values_mut().filter_map(Value::as_object_mut).for_each(remove_nulls);
}

impl LanguageRecipe {
    /// The sizes of the model for a tokenizer with the ids of `vocabulary`.
    ///
    /// # Errors
    /// [`Error::Invalid`] if `model.vocab_size` is less than their number, or if images have experts of their own, but not
    /// codes in one range of ids.
    pub fn sizes(&self, vocabulary: &Vocabulary) -> Result<ModelConfig> {
        let (num_ids, num_labels) = (vocabulary.len(), usize::from(self.reward_model.is_some()));
        let mut config = ModelConfig { num_labels, ..self.model.config(num_ids) };
        if config.vocab_size < num_ids {
            let rows = config.vocab_size;
            let message =
                format!("model.vocab_size is {rows}; allowed: at least the {num_ids} ids");
            return Err(Error::invalid(message));
        }
        if let Some(experts) = &mut config.experts
            && experts.modality_groups.is_some()
            && experts.modality_ids.is_none()
        {
            experts.modality_ids = Some(vocabulary.image_range().ok_or_else(|| {
                Error::invalid(
                    "model.experts.modality_groups needs a tokenizer whose image codes are one range of ids",
                )
            })?);
        }
        Ok(config)
    }

    /// Length, intervals and schedule of the run.
    pub fn plan(&self) -> Plan<'_> {
        Plan {
            run: &self.run,
            schedule: &self.schedule,
            safety: &self.safety,
            peak_lr: self.optimizer.lr,
            peak_flops: None,
        }
    }

    /// The sampling settings of the released checkpoint.
    ///
    /// # Errors
    /// [`Error::Invalid`] for an unknown key or a value out of range.
    pub fn generation_config(&self) -> Result<GenerationConfig> {
        let config = GenerationConfig::from_json(&self.generation_json())?;
        config.validate()?;
        Ok(config)
    }

    fn generation_json(&self) -> String {
        serde_json::to_string(&self.generation).expect("JSON values are valid JSON")
    }

    /// Checks `[generation]`, so that a long run does not end in a checkpoint that cannot be opened.
    fn validate_generation(&self) -> Result<()> {
        let checked = self
            .generation_config()
            .and_then(|_| PromptTemplates::from_json(&self.generation_json())?.validate());
        checked.map_err(Error::because("generation"))
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;

    #[test]
    fn every_preset_is_a_valid_model() {
        for (name, keys) in LanguageRecipe::PRESETS {
            let sizes: ModelSizes = toml::from_str(keys).unwrap();
            assert!(sizes.config(99).validate().is_ok(), "{name}");
        }
    }
}
