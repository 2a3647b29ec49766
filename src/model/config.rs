//! The sizes of a transformer, under the keys of Hugging Face's `config.json`.

use serde::{Deserialize, Serialize};

use crate::error::{Error, Result};

/// Largest size in a configuration; beyond it, no machine could build the model.
const MAX_SIZE: usize = 1 << 28;
/// Most layers.
const MAX_LAYERS: usize = 1 << 12;

/// The architecture of a transformer. Absent keys take the reference's defaults (Chameleon 7B).
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct ModelConfig {
    /// Number of ids.
    pub vocab_size: usize,
    /// Width of the residual stream.
    pub hidden_size: usize,
    /// Width of the feed-forward layer.
    pub intermediate_size: usize,
    /// Number of decoder layers.
    pub num_hidden_layers: usize,
    /// Number of query heads.
    pub num_attention_heads: usize,
    /// Number of key and value heads; each serves `num_attention_heads / num_key_value_heads` query heads.
    pub num_key_value_heads: usize,
    /// Longest sequence in tokens.
    pub max_position_embeddings: usize,
    /// Added to the mean square in RMSNorm.
    pub rms_norm_eps: f64,
    /// Base of the rotary frequencies.
    pub rope_theta: f64,
    /// Norm re-ordering of the 34B model: the norms move to the outputs of attention and feed-forward.
    pub swin_norm: bool,
    /// Whether the output layer shares the embedding matrix.
    pub tie_word_embeddings: bool,
    /// Standard deviation of the initial weights.
    pub initializer_range: f64,
    /// Parts that the model was trained in: heads of one part share a row of the query and key norms.
    /// Only the original release's layout depends on it.
    pub model_parallel_size: usize,
    /// Dropout on the outputs of attention and feed-forward while training (paper section 2.3).
    pub dropout: f64,
    /// Numbers that a head gives each token besides its logits: 1 for a reward model or a value function, else 0.
    #[serde(skip_serializing_if = "is_0")]
    pub num_labels: usize,
}

fn is_0(number: &usize) -> bool {
    *number == 0
}

impl Default for ModelConfig {
    fn default() -> Self {
        Self {
            vocab_size: 65_536,
            hidden_size: 4096,
            intermediate_size: 11_008,
            num_hidden_layers: 32,
            num_attention_heads: 32,
            num_key_value_heads: 32,
            max_position_embeddings: 4096,
            rms_norm_eps: 1e-5,
            rope_theta: 10_000.0,
            swin_norm: false,
            tie_word_embeddings: false,
            initializer_range: 0.02,
            model_parallel_size: 1,
            dropout: 0.0,
            num_labels: 0,
        }
    }
}

impl ModelConfig {
    /// Width of one head.
    pub fn head_dim(&self) -> usize {
        self.hidden_size / self.num_attention_heads.max(1)
    }

    /// The number of weights.
    pub fn num_parameters(&self) -> usize {
        let norms = 2 * self.hidden_size
            + 2 * self.head_dim() * (self.num_attention_heads + self.num_key_value_heads);
        let tables = if self.tie_word_embeddings { 1 } else { 2 } * self.vocab_size;
        let rows = tables + 1 + self.num_labels;
        self.matrix_parameters() + rows * self.hidden_size + self.num_hidden_layers * norms
    }

    /// The number of weights in the matrices of all layers.
    fn matrix_parameters(&self) -> usize {
        let kv = self.num_key_value_heads * self.head_dim();
        let attention = 2 * self.hidden_size * (self.hidden_size + kv);
        self.num_hidden_layers * (attention + 3 * self.hidden_size * self.intermediate_size)
    }

    /// Floating point operations per token of a training step on rows of `seq_len` tokens: 6 for each
    /// weight in a matrix product, and causal attention over half of the row (arXiv 2204.02311,
    /// appendix B, which counts the whole row).
    pub fn training_flops(&self, seq_len: usize) -> f64 {
        let weights = self.matrix_parameters() + self.vocab_size * self.hidden_size;
        let attention = self.num_hidden_layers * seq_len * self.hidden_size;
        6.0 * (weights + attention) as f64
    }

    /// As [`Self::training_flops`] for an adapter of `trained` values: a frozen weight takes 4 operations, as it has no
    /// gradient.
    pub fn adapter_flops(&self, seq_len: usize, trained: usize) -> f64 {
        let frozen = self.matrix_parameters() + self.vocab_size * self.hidden_size;
        self.training_flops(seq_len) - 2.0 * frozen as f64 + 6.0 * trained as f64
    }

    /// Checks the ranges and that the sizes fit together.
    ///
    /// # Errors
    /// [`Error::Invalid`] that names the key, its value and what is allowed.
    pub fn validate(&self) -> Result<()> {
        let sizes = [
            ("vocab_size", self.vocab_size),
            ("hidden_size", self.hidden_size),
            ("intermediate_size", self.intermediate_size),
            ("num_hidden_layers", self.num_hidden_layers),
            ("num_attention_heads", self.num_attention_heads),
            ("num_key_value_heads", self.num_key_value_heads),
            ("max_position_embeddings", self.max_position_embeddings),
            ("model_parallel_size", self.model_parallel_size),
        ];
        if let Some((key, _)) = sizes.iter().find(|(_, value)| *value == 0) {
            return Err(Error::invalid(format!("{key} is 0; it must be at least 1")));
        }
        if let Some((key, value)) = sizes.iter().find(|(_, value)| *value > MAX_SIZE) {
            return Err(Error::invalid(format!("{key} is {value}; allowed: at most {MAX_SIZE}")));
        }
        if self.num_hidden_layers > MAX_LAYERS {
            let layers = self.num_hidden_layers;
            let message = format!("num_hidden_layers is {layers}; allowed: at most {MAX_LAYERS}");
            return Err(Error::invalid(message));
        }
        let (hidden, heads, kv_heads) =
            (self.hidden_size, self.num_attention_heads, self.num_key_value_heads);
        if hidden % (2 * heads) != 0 {
            let allowed = "it must be a multiple of 2 x num_attention_heads";
            return Err(Error::invalid(format!("hidden_size is {hidden}; {allowed} ({heads})")));
        }
        if heads % kv_heads != 0 {
            let allowed = "it must divide num_attention_heads";
            return Err(Error::invalid(format!(
                "num_key_value_heads is {kv_heads}; {allowed} ({heads})"
            )));
        }
        if !(self.initializer_range >= 0.0 && self.initializer_range.is_finite()) {
            let std = self.initializer_range;
            return Err(Error::invalid(format!("initializer_range is {std}; allowed: at least 0")));
        }
        if !(0.0..1.0).contains(&self.dropout) {
            return Err(Error::invalid(format!("dropout is {}; allowed: [0, 1)", self.dropout)));
        }
        if self.num_labels > 1 {
            return Err(Error::invalid(format!(
                "num_labels is {}; allowed: 0 or 1",
                self.num_labels
            )));
        }
        Ok(())
    }
}
