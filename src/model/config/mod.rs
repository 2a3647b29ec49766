//! The sizes of a transformer, under the keys of Hugging Face's `config.json`.

mod experts;
mod latent;
mod rope;

use serde::{Deserialize, Serialize};

pub use experts::{ExpertGroups, ExpertsConfig, RouterScores};
pub use latent::LatentConfig;
pub use rope::{RopeScaling, Yarn};

use crate::error::{Error, Result};

/// Largest size in a configuration; beyond it, no machine could build the model.
const MAX_SIZE: usize = 1 << 28;
/// Most layers.
pub(crate) const MAX_LAYERS: usize = 1 << 12;

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
    /// Width of one head, if it is not `hidden_size / num_attention_heads`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub head_dim: Option<usize>,
    /// The norm of queries and keys.
    #[serde(skip_serializing_if = "is_default")]
    pub qk_norm: QkNorm,
    /// The weight of the norm, if it is [`QkNorm::Rms`] and being blended in: `(1 - share) x + share norm(x)`, from 0 to
    /// 1.
    #[serde(skip_serializing_if = "is_whole")]
    pub qk_norm_share: f64,
    /// Whether the layers of queries, keys and values have biases.
    #[serde(skip_serializing_if = "is_default")]
    pub qkv_bias: bool,
    /// Whether the output layer of attention has one.
    #[serde(skip_serializing_if = "is_default")]
    pub o_bias: bool,
    /// Whether the layers of the feed-forward have biases.
    #[serde(skip_serializing_if = "is_default")]
    pub mlp_bias: bool,
    /// Latent attention in place of grouped-query attention.
    #[serde(skip_serializing_if = "is_default")]
    pub latent: Option<LatentConfig>,
    /// Sparse feed-forward layers.
    #[serde(skip_serializing_if = "is_default")]
    pub experts: Option<ExpertsConfig>,
    /// Longest sequence in tokens.
    pub max_position_embeddings: usize,
    /// Added to the mean square in RMSNorm.
    pub rms_norm_eps: f64,
    /// Base of the rotary frequencies.
    pub rope_theta: f64,
    /// Their scaling.
    #[serde(skip_serializing_if = "is_default")]
    pub rope_scaling: RopeScaling,
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
    #[serde(skip_serializing_if = "is_default")]
    pub num_labels: usize,
}

/// The norm of queries and keys, before the rotary embedding.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum QkNorm {
    /// LayerNorm over each head, with a weight and bias row per head (Chameleon).
    #[default]
    LayerNorm,
    /// None (LLaMA).
    None,
    /// RMSNorm over each head, with one weight row for all (Qwen3).
    Rms,
    /// RMSNorm over all heads together (OLMoE).
    RmsProjection,
}

impl QkNorm {
    /// Weights of the norm of `heads` heads of `head_dim` numbers.
    fn parameters(self, heads: usize, head_dim: usize) -> usize {
        match self {
            Self::LayerNorm => 2 * heads * head_dim,
            Self::None => 0,
            Self::Rms => head_dim,
            Self::RmsProjection => heads * head_dim,
        }
    }
}

/// Whether a key need not be written.
pub(crate) fn is_default<T: Default + PartialEq>(value: &T) -> bool {
    *value == T::default()
}

fn is_whole(share: &f64) -> bool {
    *share == 1.0
}

/// Which experts are counted.
#[derive(Clone, Copy)]
enum Count {
    All,
    /// Those that one token goes through.
    Active,
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
            head_dim: None,
            qk_norm: QkNorm::LayerNorm,
            qk_norm_share: 1.0,
            qkv_bias: false,
            o_bias: false,
            mlp_bias: false,
            latent: None,
            experts: None,
            max_position_embeddings: 4096,
            rms_norm_eps: 1e-5,
            rope_theta: 10_000.0,
            rope_scaling: RopeScaling::Default,
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
    /// Width of one head; with latent attention of the part that is rotated.
    pub fn head_dim(&self) -> usize {
        let own = self.latent.as_ref().map(|latent| latent.qk_rope_head_dim).or(self.head_dim);
        own.unwrap_or(self.hidden_size / self.num_attention_heads.max(1))
    }

    /// Width of the queries of all heads together, and of the results of attention.
    pub fn query_width(&self) -> usize {
        self.num_attention_heads * self.head_dim()
    }

    /// Width of the keys of all heads together, and of the values.
    pub fn key_width(&self) -> usize {
        self.num_key_value_heads * self.head_dim()
    }

    /// Numbers that the cache holds for a token of one layer.
    pub fn cached(&self) -> usize {
        self.latent.as_ref().map_or(2 * self.key_width(), LatentConfig::cached)
    }

    /// Whether the feed-forward of layer `layer` is sparse.
    pub fn is_sparse(&self, layer: usize) -> bool {
        self.experts.as_ref().is_some_and(|experts| experts.is_sparse(layer))
    }

    /// The number of weights.
    pub fn num_parameters(&self) -> usize {
        let tables = if self.tie_word_embeddings { 1 } else { 2 } * self.vocab_size;
        let rows = tables + 1 + self.num_labels;
        self.matrix_parameters(Count::All)
            + rows * self.hidden_size
            + self.num_hidden_layers * self.vector_parameters()
            + self.mlp_biases()
            + self.selection_biases()
    }

    /// The number of weights that one token passes: all but those of the experts that it is not sent to.
    pub fn active_parameters(&self) -> usize {
        let left_out = self.matrix_parameters(Count::All) - self.matrix_parameters(Count::Active);
        self.num_parameters() - left_out
    }

    /// Norms and biases of one layer, without those of the feed-forward.
    fn vector_parameters(&self) -> usize {
        let (q, k) = (self.query_width(), self.key_width());
        let hidden = self.hidden_size;
        let of_heads = match &self.latent {
            Some(latent) => latent.norm_parameters(),
            None => [self.num_attention_heads, self.num_key_value_heads]
                .map(|heads| self.qk_norm.parameters(heads, self.head_dim()))
                .iter()
                .sum(),
        };
        let of_qkv = self.latent.as_ref().map_or(q + 2 * k, LatentConfig::biases);
        let biases = usize::from(self.qkv_bias) * of_qkv + usize::from(self.o_bias) * hidden;
        2 * hidden + of_heads + biases
    }

    /// Biases of dense feed-forward layers and shared experts.
    fn mlp_biases(&self) -> usize {
        let of_width = |inner: usize| 2 * inner + self.hidden_size;
        let shared = self
            .experts
            .as_ref()
            .map_or(0, |experts| experts.n_shared_experts * experts.moe_intermediate_size);
        let (sparse, layers) = (self.sparse_layers(), self.num_hidden_layers);
        let of_shared = if shared > 0 { sparse * of_width(shared) } else { 0 };
        usize::from(self.mlp_bias)
            * ((layers - sparse) * of_width(self.intermediate_size) + of_shared)
    }

    /// Biases of the choice of experts.
    fn selection_biases(&self) -> usize {
        match &self.experts {
            Some(experts) if experts.scores == RouterScores::Sigmoid => {
                self.sparse_layers() * experts.num_experts
            }
            _ => 0,
        }
    }

    fn sparse_layers(&self) -> usize {
        (0..self.num_hidden_layers).filter(|layer| self.is_sparse(*layer)).count()
    }

    /// The number of weights in the matrices of all layers.
    fn matrix_parameters(&self, count: Count) -> usize {
        let (q, k) = (self.query_width(), self.key_width());
        let hidden = self.hidden_size;
        let attention = match &self.latent {
            Some(latent) => latent.matrix_parameters(hidden, self.num_attention_heads),
            None => 2 * hidden * (q + k),
        };
        let sparse = self.sparse_layers();
        let of_sparse = self.experts.as_ref().map_or(0, |experts| {
            let counted = match count {
                Count::All => experts.num_experts,
                Count::Active => experts.num_experts_per_tok,
            };
            experts.matrix_parameters(hidden, counted)
        });
        let of_dense = 3 * hidden * self.intermediate_size;
        let dense = self.num_hidden_layers - sparse;
        self.num_hidden_layers * attention + dense * of_dense + sparse * of_sparse
    }

    /// Floating point operations per token of a training step on rows of `seq_len` tokens: 6 for each
    /// weight in a matrix product that a token passes, and causal attention over half of the row (arXiv 2204.02311,
    /// appendix B, which counts the whole row).
    pub fn training_flops(&self, seq_len: usize) -> f64 {
        let weights = self.matrix_parameters(Count::Active) + self.vocab_size * self.hidden_size;
        // Scores and sums of values, a multiplication each for half of the row.
        let width = match &self.latent {
            Some(latent) => {
                self.num_attention_heads * (latent.qk_head_dim() + latent.v_head_dim) / 2
            }
            None => self.query_width(),
        };
        6.0 * (weights + self.num_hidden_layers * seq_len * width) as f64
    }

    /// As [`Self::training_flops`] for an adapter of `trained` values: a frozen weight takes 4 operations, as it has no
    /// gradient.
    pub fn adapter_flops(&self, seq_len: usize, trained: usize) -> f64 {
        let frozen = self.matrix_parameters(Count::Active) + self.vocab_size * self.hidden_size;
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
        self.validate_heads()?;
        if self.latent.is_some() && (self.qk_norm != QkNorm::None || self.head_dim.is_some()) {
            let message = "latent attention has widths and norms of its own: qk_norm must be \"none\", and head_dim absent";
            return Err(Error::invalid(message));
        }
        self.validate_norm_share()?;
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
        self.rope_scaling.validate()?;
        self.latent.as_ref().map_or(Ok(()), LatentConfig::validate)?;
        self.experts.as_ref().map_or(Ok(()), ExpertsConfig::validate)
    }

    fn validate_norm_share(&self) -> Result<()> {
        let share = self.qk_norm_share;
        if !(0.0..=1.0).contains(&share) {
            return Err(Error::invalid(format!("qk_norm_share is {share}; allowed: [0, 1]")));
        }
        if share < 1.0 && self.qk_norm != QkNorm::Rms {
            let message =
                format!("qk_norm_share is {share}; allowed with qk_norm other than \"rms\": 1");
            return Err(Error::invalid(message));
        }
        Ok(())
    }

    fn validate_heads(&self) -> Result<()> {
        let (hidden, heads, kv_heads) =
            (self.hidden_size, self.num_attention_heads, self.num_key_value_heads);
        match self.head_dim {
            None if self.latent.is_none() && hidden % (2 * heads) != 0 => {
                let allowed = "it must be a multiple of 2 x num_attention_heads";
                return Err(Error::invalid(format!(
                    "hidden_size is {hidden}; {allowed} ({heads})"
                )));
            }
            Some(width) if width == 0 || width > MAX_SIZE || width % 2 != 0 => {
                return Err(Error::invalid(format!(
                    "head_dim is {width}; it must be even and at least 2"
                )));
            }
            _ => {}
        }
        if heads % kv_heads != 0 {
            let allowed = "it must divide num_attention_heads";
            return Err(Error::invalid(format!(
                "num_key_value_heads is {kv_heads}; {allowed} ({heads})"
            )));
        }
        Ok(())
    }
}
