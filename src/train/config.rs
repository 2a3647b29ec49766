//! What a recipe says: everything about a run. `recipe.rs` reads the file.

use std::path::PathBuf;

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use vq_tokenizer::VqConfig;
use vq_tokenizer::train::{
    AdversarialConfig, CodebookStart, RevivalConfig, SemanticConfig, VqLossConfig,
};

use super::objective::LossConfig;
use super::optimizer::OptimizerConfig;
use super::schedule::ScheduleConfig;
use crate::checkpoint::VQ_DIR;
use crate::data::{DataConfig, validate_sources};
use crate::error::{Error, Result};
use crate::generate::{GenerationConfig, PromptForms};
use crate::model::ModelConfig;
use crate::tokenize::BpeConfig;

/// A recipe for `calumma train`: a language model over text and pictures.
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
    /// The shape of a batch.
    pub batch: BatchConfig,
    /// What the released checkpoint says about sampling, as in `generation_config.json`.
    #[serde(default)]
    pub generation: serde_json::Map<String, serde_json::Value>,
}

/// A recipe for `calumma vq train`: an image tokenizer.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct VqRecipe {
    /// Name, length and rhythm of the run.
    pub run: RunConfig,
    /// The architecture.
    pub model: VqConfig,
    /// Pictures to train on; templates are not used.
    pub data: Vec<DataConfig>,
    /// Pictures to measure reconstruction on; weights are ignored.
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
    pub loss: VqLossConfig,
    /// Replacement of codes that fell out of use.
    #[serde(default)]
    pub codebook: RevivalConfig,
    /// The time before the codebook takes part.
    #[serde(default)]
    pub warmup: WarmupConfig,
    /// A critic of reconstructions.
    #[serde(default)]
    pub adversarial: AdversarialConfig,
    /// A distance between features of a network that the user supplies.
    #[serde(default)]
    pub perceptual: PerceptualConfig,
    /// A head that reads words from the codes.
    #[serde(default)]
    pub semantic: SemanticConfig,
    /// Averaged weights for evaluation and release.
    #[serde(default)]
    pub average: AverageConfig,
    /// The shape of a batch.
    pub batch: ImageBatchConfig,
}

/// The first steps of an image tokenizer.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct WarmupConfig {
    /// Steps as a plain autoencoder; then the codebook starts from latents.
    pub autoencoder_steps: usize,
    /// Where it starts: `data` or `k-means`.
    pub codebook: CodebookStart,
}

/// The distance LPIPS, from weights that are not shipped.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct PerceptualConfig {
    /// Weight of the distance; 0 leaves it out.
    pub weight: f64,
    /// A safetensors file with the tensors that [`vq_tokenizer::train::Lpips`] names.
    pub weights: Option<PathBuf>,
}

/// Moving averages of all weights.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct AverageConfig {
    /// Weight of the past, in [0, 1); 0 takes the weights as they are.
    pub decay: f64,
}

/// A recipe for `calumma bpe train`: a text tokenizer with picture and special tokens reserved.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct BpeRecipe {
    /// Where the result goes: `directory/name/tokenizer.json`.
    pub run: BpeRunConfig,
    /// The vocabulary.
    pub bpe: BpeConfig,
    /// Documents whose text is read; pictures and special marks are left out.
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

/// Name, length and rhythm of a run.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RunConfig {
    /// Name of the run's folder.
    pub name: String,
    /// Where runs lie.
    #[serde(default = "default_directory")]
    pub directory: PathBuf,
    /// Seed of weights, data order and dropout.
    #[serde(default)]
    pub seed: u64,
    /// Optimizer steps.
    pub steps: usize,
    /// Steps between checkpoints; the last step always makes one.
    #[serde(default = "default_checkpoint_every")]
    pub checkpoint_every: usize,
    /// Steps between evaluations; 0 evaluates only at the end.
    #[serde(default)]
    pub eval_every: usize,
    /// Validation samples per source and evaluation.
    #[serde(default = "default_eval_samples")]
    pub eval_samples: usize,
    /// Steps between lines of `metrics.jsonl`.
    #[serde(default = "default_log_every")]
    pub log_every: usize,
    /// Checkpoints kept; older ones are deleted. At least 1.
    #[serde(default = "default_keep")]
    pub keep: usize,
}

fn default_directory() -> PathBuf {
    PathBuf::from("runs")
}
fn default_documents() -> usize {
    20_000
}
fn default_checkpoint_every() -> usize {
    500
}
fn default_eval_samples() -> usize {
    128
}
fn default_log_every() -> usize {
    10
}
fn default_keep() -> usize {
    2
}

impl RunConfig {
    /// The run's folder.
    pub fn path(&self) -> PathBuf {
        self.directory.join(&self.name)
    }

    fn validate(&self) -> Result<()> {
        validate_name(&self.name)?;
        let counts = [
            ("steps", self.steps),
            ("checkpoint_every", self.checkpoint_every),
            ("log_every", self.log_every),
            ("keep", self.keep),
        ];
        match counts.iter().find(|(_, value)| *value == 0) {
            Some((key, _)) => Err(Error::Invalid(format!("run.{key} is 0; it must be at least 1"))),
            None => Ok(()),
        }
    }
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
    /// The whole configuration for a vocabulary of `vocab_size` ids.
    pub fn config(&self, vocab_size: usize) -> ModelConfig {
        ModelConfig {
            vocab_size,
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
        let nested = self.checkpoint.join(VQ_DIR);
        if nested.is_dir() { nested } else { self.checkpoint.clone() }
    }

    /// The file of the text tokenizer.
    pub fn text_path(&self) -> PathBuf {
        self.text.clone().unwrap_or_else(|| self.checkpoint.join("tokenizer.json"))
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
}

/// The shape of an image tokenizer's batch.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ImageBatchConfig {
    /// Pictures.
    pub images: usize,
    /// Batches whose gradients are averaged into one step.
    #[serde(default = "one_batch")]
    pub accumulate: usize,
}

fn one_batch() -> usize {
    1
}

/// What every recipe can check about itself.
pub trait Recipe: DeserializeOwned + Serialize {
    /// Names that `model.preset` may have, each with the keys of the section that it stands for.
    const PRESETS: &'static [(&'static str, &'static str)] = &[];

    /// Checks ranges that types do not express.
    ///
    /// # Errors
    /// [`Error::Invalid`] with the key, its value and what is allowed.
    fn validate(&self) -> Result<()>;
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
        self.run.validate()?;
        self.optimizer.validate()?;
        self.schedule.validate()?;
        at_least_one("batch.sequences", self.batch.sequences)?;
        at_least_one("batch.accumulate", self.batch.accumulate)?;
        if self.batch.seq_len < 2 {
            let len = self.batch.seq_len;
            return Err(Error::Invalid(format!("batch.seq_len is {len}; it must be at least 2")));
        }
        let context = self.model.max_position_embeddings;
        if self.batch.seq_len > context {
            let len = self.batch.seq_len;
            return Err(Error::Invalid(format!(
                "batch.seq_len is {len}; allowed: up to model.max_position_embeddings, {context}"
            )));
        }
        self.model.config(1).validate()?;
        self.loss.validate()?;
        self.validate_generation()?;
        validate_sources(&self.data, true)?;
        validate_sources(&self.validation, true).or_else(|e| match self.validation.is_empty() {
            true => Ok(()),
            false => Err(e),
        })
    }
}

impl LanguageRecipe {
    /// A run of hours must not end in a checkpoint that cannot be opened.
    fn validate_generation(&self) -> Result<()> {
        let text = serde_json::to_string(&self.generation).expect("JSON values are valid JSON");
        let checked = GenerationConfig::from_json(&text)
            .and_then(|_| PromptForms::from_json(&text)?.validate());
        checked.map_err(|e| Error::Invalid(format!("generation: {e}")))
    }
}

impl Recipe for VqRecipe {
    fn validate(&self) -> Result<()> {
        self.run.validate()?;
        self.model.validate()?;
        self.optimizer.validate()?;
        self.schedule.validate()?;
        self.loss.validate()?;
        if !self.validation.is_empty() {
            validate_sources(&self.validation, false)?;
        }
        at_least_one("batch.images", self.batch.images)?;
        at_least_one("batch.accumulate", self.batch.accumulate)?;
        self.adversarial.validate()?;
        self.semantic.validate()?;
        let (weight, decay) = (self.perceptual.weight, self.average.decay);
        let side = self.model.resolution;
        let smallest = [
            ("adversarial.weight", self.adversarial.weight, 3 << self.adversarial.layers),
            ("loss.ms_ssim", self.loss.ms_ssim, 11),
            ("perceptual.weight", weight, 16),
        ];
        for (key, weight, smallest) in smallest {
            if weight > 0.0 && side < smallest {
                return Err(Error::Invalid(format!(
                    "{key} is {weight}, which needs a model.resolution of at least {smallest}; it is {side}"
                )));
            }
        }
        if !weight.is_finite() || weight < 0.0 {
            let message = format!("perceptual.weight is {weight}; allowed: 0 or more");
            return Err(Error::Invalid(message));
        }
        if weight > 0.0 && self.perceptual.weights.is_none() {
            return Err(Error::Invalid(
                "perceptual.weight needs perceptual.weights, a safetensors file of LPIPS' VGG-16"
                    .into(),
            ));
        }
        if !(0.0..1.0).contains(&decay) {
            return Err(Error::Invalid(format!("average.decay is {decay}; allowed: [0, 1)")));
        }
        if self.semantic.weight > 0.0 && self.data.iter().all(|source| source.words.is_empty()) {
            return Err(Error::Invalid(
                "semantic.weight needs a source with words, the columns to read them from".into(),
            ));
        }
        validate_sources(&self.data, false)
    }
}

impl Recipe for BpeRecipe {
    fn validate(&self) -> Result<()> {
        validate_name(&self.run.name)?;
        validate_sources(&self.data, true)
    }
}

/// A run's name becomes a folder's.
fn validate_name(name: &str) -> Result<()> {
    let plain = !name.is_empty()
        && name.chars().all(|c| c.is_ascii_alphanumeric() || "-_.".contains(c))
        && !name.starts_with('.');
    if !plain {
        let allowed = "letters, digits, - _ and . (not first)";
        return Err(Error::Invalid(format!("run.name is {name:?}; allowed: {allowed}")));
    }
    Ok(())
}

fn at_least_one(key: &str, value: usize) -> Result<()> {
    if value == 0 {
        return Err(Error::Invalid(format!("{key} is 0; it must be at least 1")));
    }
    Ok(())
}
