//! A language model: `calumma train`.

use std::path::PathBuf;

use burn::tensor::Device;
use serde::{Deserialize, Serialize};
use vq_tokenizer::VqTokenizer;
use vq_tokenizer::preprocess::Rule;

use super::super::objective::LossConfig;
use super::super::optimizer_config::OptimizerConfig;
use super::super::plan::Plan;
use super::super::safety::SafetyConfig;
use super::super::schedule::ScheduleConfig;
use super::{AverageConfig, Recipe, RunConfig, at_least_one, image_dir, one_batch};
use crate::checkpoint::Manifest;
use crate::data::{DataConfig, Purpose, validate_sources};
use crate::error::{Error, Result};
use crate::generate::GenerationConfig;
use crate::model::ModelConfig;
use crate::tokenize::{ImageBlocks, Processor, PromptTemplates, TextTokenizer};

/// A recipe for `calumma train`: a language model over text and images.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LanguageRecipe {
    /// Name, length and rhythm of the run.
    pub run: RunConfig,
    /// Sizes of the model; `vocab_size` is taken from the tokenizer.
    pub model: ModelSizes,
    /// The tokenizers that turn documents into ids.
    pub tokenizer: TokenizerConfig,
    /// What to train on.
    pub data: Vec<DataConfig>,
    /// How the mixture changes on the way.
    #[serde(default)]
    pub curriculum: CurriculumConfig,
    /// What to measure the held-out loss on; weights are ignored.
    #[serde(default)]
    pub validation: Vec<DataConfig>,
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
    /// What to do when a step goes wrong.
    #[serde(default)]
    pub safety: SafetyConfig,
    /// The shape of a batch.
    pub batch: BatchConfig,
    /// What the released checkpoint says about sampling, as in `generation_config.json`.
    #[serde(default)]
    pub generation: serde_json::Map<String, serde_json::Value>,
}

/// Sizes of a model to train; the other fields of [`ModelConfig`] follow.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ModelSizes {
    /// Width of the residual stream.
    pub hidden_size: usize,
    /// Width of the feed-forward layer.
    pub intermediate_size: usize,
    /// Decoder layers.
    pub num_hidden_layers: usize,
    /// Query heads.
    pub num_attention_heads: usize,
    /// Key and value heads; the query heads' number when absent.
    pub num_key_value_heads: Option<usize>,
    /// Longest sequence the model will serve.
    pub max_position_embeddings: usize,
    /// Rows of embedding and output, at least the tokenizer's ids; those beyond them are never used. As
    /// many as ids when absent.
    pub vocab_size: Option<usize>,
    /// Dropout on the outputs of attention and feed-forward.
    #[serde(default)]
    pub dropout: f64,
    /// Norms at the outputs of attention and feed-forward (the 34B model's order).
    #[serde(default)]
    pub swin_norm: bool,
    /// Whether the output layer shares the embedding.
    #[serde(default)]
    pub tie_word_embeddings: bool,
    /// Base of the rotary frequencies.
    #[serde(default = "default_theta")]
    pub rope_theta: f64,
    /// Standard deviation of the initial weights.
    #[serde(default = "default_std")]
    pub initializer_range: f64,
}

fn default_theta() -> f64 {
    10_000.0
}
fn default_std() -> f64 {
    0.02
}

impl ModelSizes {
    /// The whole configuration for a tokenizer of `num_ids` ids.
    pub fn config(&self, num_ids: usize) -> ModelConfig {
        ModelConfig {
            vocab_size: self.vocab_size.unwrap_or(num_ids),
            hidden_size: self.hidden_size,
            intermediate_size: self.intermediate_size,
            num_hidden_layers: self.num_hidden_layers,
            num_attention_heads: self.num_attention_heads,
            num_key_value_heads: self.num_key_value_heads.unwrap_or(self.num_attention_heads),
            max_position_embeddings: self.max_position_embeddings,
            dropout: self.dropout,
            swin_norm: self.swin_norm,
            tie_word_embeddings: self.tie_word_embeddings,
            rope_theta: self.rope_theta,
            initializer_range: self.initializer_range,
            ..ModelConfig::default()
        }
    }
}

/// The tokenizers of a language model.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TokenizerConfig {
    /// An image tokenizer's directory, or a checkpoint's, whose image tokenizer is taken.
    pub checkpoint: PathBuf,
    /// A `tokenizer.json` of `bpe train`; without it the one in `checkpoint`.
    pub text: Option<PathBuf>,
}

impl TokenizerConfig {
    /// The directory of the image tokenizer.
    pub fn image_dir(&self) -> PathBuf {
        image_dir(&self.checkpoint)
    }

    /// The file of the text tokenizer.
    pub fn text_path(&self) -> PathBuf {
        self.text.clone().unwrap_or_else(|| self.checkpoint.join("tokenizer.json"))
    }

    /// Opens both on `device`; the third is a digest of the image tokenizer's files.
    ///
    /// # Errors
    /// Those of the files; when the text tokenizer has not as many image tokens as there are codes, or no names
    /// for the sizes of an image tokenizer of any aspect.
    pub fn open(&self, device: &Device) -> Result<(Processor, VqTokenizer, String)> {
        let image_dir = self.image_dir();
        let vq = VqTokenizer::load(&image_dir, device)?;
        let text = TextTokenizer::load(&self.text_path())?;
        let processor = Processor::new(text, vq.grid())?;
        let (names, codes) = (processor.vocabulary().num_codes(), vq.config().num_embeddings);
        if names != codes {
            let message =
                format!("{names} image tokens, but the image tokenizer has {codes} codes");
            return Err(Error::file(&self.text_path(), message));
        }
        let digest = Manifest::of(&image_dir)?.digest();
        match vq.preprocessor().rule {
            Rule::Flexible => Ok((self.sized(processor, &vq)?, vq, digest)),
            Rule::HuggingFace | Rule::Original => Ok((processor, vq, digest)),
        }
    }

    /// `processor` for the images of `vq`, which have any aspect and say their size.
    fn sized(&self, processor: Processor, vq: &VqTokenizer) -> Result<Processor> {
        let longest = vq.preprocessor().longest_side() / vq.config().downsampling();
        let processor = processor.sized();
        let found = processor.as_ref().map_or(0, |processor| processor.blocks().longest_side());
        if found >= longest {
            return processor;
        }
        let needed = ImageBlocks::reserved_for(longest);
        Err(Error::file(
            &self.text_path(),
            format!(
                "can name sides of images up to {found} codes, the image tokenizer's images have up to \
                 {longest}; train it with a bpe.num_reserved of at least {needed}"
            ),
        ))
    }
}

/// The shape of a language model's batch.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct BatchConfig {
    /// Packed rows.
    pub sequences: usize,
    /// Tokens in a row.
    pub seq_len: usize,
    /// Batches whose gradients are averaged into one step.
    #[serde(default = "one_batch")]
    pub accumulate: usize,
    /// Keep only the inputs of layers for the backward pass and compute the rest again: a third more
    /// work, memory of one layer instead of all.
    #[serde(default)]
    pub activation_checkpointing: bool,
}

/// Stages of the training, each with its own mixture: a source's `weight` may list one for each. Chameleon
/// halves the weights of its first stage for the last fifth and adds better data (paper section
/// 2.2).
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct CurriculumConfig {
    /// Where each stage but the first begins, as a share of the run's steps; rising, between 0 and 1.
    pub starts: Vec<f64>,
}

impl CurriculumConfig {
    fn validate(&self) -> Result<()> {
        let inside = self.starts.iter().all(|start| *start > 0.0 && *start < 1.0);
        if !inside || self.starts.windows(2).any(|pair| pair[0] >= pair[1]) {
            let starts = &self.starts;
            return Err(Error::invalid(format!(
                "curriculum.starts is {starts:?}; allowed: rising shares between 0 and 1"
            )));
        }
        Ok(())
    }
}

impl Recipe for LanguageRecipe {
    // The shipped model, the sizes of the throughput benches, and the two of the paper (table 1; the
    // larger one's heads and widths follow from its number of parameters).
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
        self.loss.validate()?;
        self.average.validate()?;
        self.safety.validate()?;
        self.curriculum.validate()?;
        self.validate_generation()?;
        let stages = self.curriculum.starts.len() + 1;
        validate_sources(&self.data, Purpose::Documents { stages })?;
        match self.validation.is_empty() {
            true => Ok(()),
            false => validate_sources(&self.validation, Purpose::Documents { stages }),
        }
    }
}

impl LanguageRecipe {
    /// How long the run is and what it does on the way.
    pub fn plan(&self) -> Plan<'_> {
        Plan {
            run: &self.run,
            schedule: &self.schedule,
            safety: &self.safety,
            peak_lr: self.optimizer.lr,
            peak_flops: None,
        }
    }

    /// How the released checkpoint samples.
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

    /// A run of hours must not end in a checkpoint that cannot be opened.
    fn validate_generation(&self) -> Result<()> {
        let checked = self
            .generation_config()
            .and_then(|_| PromptTemplates::from_json(&self.generation_json())?.validate());
        checked.map_err(|e| Error::invalid(format!("generation: {e}")))
    }
}
