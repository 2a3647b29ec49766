//! The sizes of a model in a recipe.

use serde::{Deserialize, Serialize};

use crate::model::{ExpertsConfig, LatentConfig, ModelConfig, QkNorm, RopeScaling, is_default};

/// Sizes of a model to train, from which the other fields of [`ModelConfig`] follow.
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
    /// Key and value heads; as many as query heads if absent.
    pub num_key_value_heads: Option<usize>,
    /// Context length.
    pub max_position_embeddings: usize,
    /// Rows of embedding and output layer, at least the number of ids, which is the default; further rows
    /// are never used.
    pub vocab_size: Option<usize>,
    /// Dropout on the outputs of attention and feed-forward layer.
    #[serde(default)]
    pub dropout: f64,
    /// Norms on the outputs of attention and feed-forward layer, as in the 34B model.
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
    /// Added to the mean square in RMSNorm.
    #[serde(default = "default_eps", skip_serializing_if = "is_default_eps")]
    pub rms_norm_eps: f64,
    /// Width of one head, if it is not `hidden_size / num_attention_heads`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub head_dim: Option<usize>,
    /// The norm of queries and keys.
    #[serde(default, skip_serializing_if = "is_default")]
    pub qk_norm: QkNorm,
    /// Whether the layers of queries, keys and values have biases.
    #[serde(default, skip_serializing_if = "is_default")]
    pub qkv_bias: bool,
    /// Whether the output layer of attention has one.
    #[serde(default, skip_serializing_if = "is_default")]
    pub o_bias: bool,
    /// Whether the layers of the feed-forward have biases.
    #[serde(default, skip_serializing_if = "is_default")]
    pub mlp_bias: bool,
    /// The scaling of the rotary frequencies.
    #[serde(default, skip_serializing_if = "is_default")]
    pub rope_scaling: RopeScaling,
    /// Latent attention in place of grouped-query attention.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub latent: Option<LatentConfig>,
    /// Sparse feed-forward layers.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub experts: Option<ExpertsConfig>,
}

fn default_theta() -> f64 {
    10_000.0
}
fn default_eps() -> f64 {
    ModelConfig::default().rms_norm_eps
}
fn is_default_eps(eps: &f64) -> bool {
    *eps == default_eps()
}
fn default_std() -> f64 {
    0.02
}

impl ModelSizes {
    /// The full configuration for a tokenizer of `num_ids` ids.
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
            rms_norm_eps: self.rms_norm_eps,
            head_dim: self.head_dim,
            qk_norm: self.qk_norm,
            qkv_bias: self.qkv_bias,
            o_bias: self.o_bias,
            mlp_bias: self.mlp_bias,
            rope_scaling: self.rope_scaling.clone(),
            latent: self.latent.clone(),
            experts: self.experts.clone(),
            ..ModelConfig::default()
        }
    }
}

impl From<ModelConfig> for ModelSizes {
    fn from(config: ModelConfig) -> Self {
        Self {
            hidden_size: config.hidden_size,
            intermediate_size: config.intermediate_size,
            num_hidden_layers: config.num_hidden_layers,
            num_attention_heads: config.num_attention_heads,
            num_key_value_heads: Some(config.num_key_value_heads),
            max_position_embeddings: config.max_position_embeddings,
            vocab_size: Some(config.vocab_size),
            dropout: config.dropout,
            swin_norm: config.swin_norm,
            tie_word_embeddings: config.tie_word_embeddings,
            rope_theta: config.rope_theta,
            initializer_range: config.initializer_range,
            rms_norm_eps: config.rms_norm_eps,
            head_dim: config.head_dim,
            qk_norm: config.qk_norm,
            qkv_bias: config.qkv_bias,
            o_bias: config.o_bias,
            mlp_bias: config.mlp_bias,
            rope_scaling: config.rope_scaling,
            latent: config.latent,
            experts: config.experts,
        }
    }
}

/// How a sparse model begins as a dense one: each expert as a copy of the layer's feed-forward. `[model]` may leave out
/// all that is as in `run.init`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct UpcycleConfig {
    /// Share of the channels of each expert that is drawn anew, so that experts differ from the beginning
    /// (Drop-Upcycling, arXiv 2502.19261; 0.5 there). 0: none, and outputs are those of the dense model.
    pub redraw: f64,
}

impl UpcycleConfig {
    /// Gives the experts of `sizes` what the copy of a dense layer must have, where they do not say.
    pub(super) fn complete(sizes: &mut toml::Table) {
        let width = sizes.get("intermediate_size").cloned();
        let Some(experts) = sizes.get_mut("experts").and_then(toml::Value::as_table_mut) else {
            return;
        };
        let copied = [("moe_intermediate_size", width), ("norm_topk_prob", Some(true.into()))];
        for (key, value) in copied {
            if let (false, Some(value)) = (experts.contains_key(key), value) {
                experts.insert(key.to_owned(), value);
            }
        }
    }
}

/// A norm of queries and keys for a model that has none, `qk_norm = "rms"`, blended in over the first steps. `[model]` may
/// leave out all that is as in `run.init`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct AddedNormConfig {
    /// Steps after which queries and keys are what the norm makes of them.
    pub steps: usize,
    /// Batches of training data whose root mean squares the norms begin with.
    pub batches: usize,
}

impl Default for AddedNormConfig {
    fn default() -> Self {
        Self { steps: 100, batches: 4 }
    }
}

impl AddedNormConfig {
    /// How much the norm counts in step `step`, the first of which is 0.
    pub(in crate::train) fn share(&self, step: usize) -> f64 {
        (step as f64 / self.steps as f64).min(1.0)
    }

    /// Gives `sizes` the norm, and the biases that a published model with such norms has, where they do not say.
    pub(super) fn complete(sizes: &mut toml::Table) {
        if sizes.contains_key("latent") {
            return; // which is refused
        }
        let biases = sizes.get("qkv_bias").and_then(toml::Value::as_bool).unwrap_or(false);
        if biases {
            sizes.insert("o_bias".to_owned(), true.into());
        }
        sizes.insert("qk_norm".to_owned(), "rms".into());
    }
}
