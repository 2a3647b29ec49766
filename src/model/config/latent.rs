//! Sizes of multi-head latent attention.

use serde::{Deserialize, Serialize};

use crate::error::{Error, Result};

/// Multi-head latent attention (DeepSeek-V2, arXiv 2405.04434 section 2.1): keys and values are products of one short
/// vector for each token, the latent, and a rotated key that all heads share; only these two are cached.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LatentConfig {
    /// Length of the vector that queries are products of; without it they are products of the input.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub q_lora_rank: Option<usize>,
    /// Length of the latent.
    pub kv_lora_rank: usize,
    /// Numbers of a head's query and key without position.
    pub qk_nope_head_dim: usize,
    /// Numbers of a head's query, and of the shared key, that are rotated.
    pub qk_rope_head_dim: usize,
    /// Numbers of a head's value.
    pub v_head_dim: usize,
}

impl LatentConfig {
    /// Width of a head's queries and keys.
    pub fn qk_head_dim(&self) -> usize {
        self.qk_nope_head_dim + self.qk_rope_head_dim
    }

    /// Numbers that the cache holds for a token of one layer.
    pub fn cached(&self) -> usize {
        self.kv_lora_rank + self.qk_rope_head_dim
    }

    /// Key and value heads of the grouped-query attention that latent attention is compared with, 8 of them or one for 4
    /// of `heads` query heads if those are fewer, and the numbers that its cache holds for a token of one layer. Keys are
    /// as wide as the part without position, values as here (arXiv 2405.04434 table 1).
    pub fn grouped(&self, heads: usize) -> (usize, usize) {
        let kv_heads = (heads / 4).clamp(1, 8);
        (kv_heads, kv_heads * (self.qk_nope_head_dim + self.v_head_dim))
    }

    /// Weights in the matrices of one layer.
    pub(super) fn matrix_parameters(&self, hidden: usize, heads: usize) -> usize {
        let q = heads * self.qk_head_dim();
        let queries = match self.q_lora_rank {
            Some(rank) => rank * (hidden + q),
            None => hidden * q,
        };
        let expanded = heads * (self.qk_nope_head_dim + self.v_head_dim);
        queries
            + hidden * self.cached()
            + self.kv_lora_rank * expanded
            + heads * self.v_head_dim * hidden
    }

    /// Numbers in the biases of one layer but that of its output.
    pub(super) fn biases(&self) -> usize {
        self.q_lora_rank.unwrap_or(0) + self.cached()
    }

    /// Weights of the norms of one layer.
    pub(super) fn norm_parameters(&self) -> usize {
        self.q_lora_rank.unwrap_or(0) + self.kv_lora_rank
    }

    /// # Errors
    /// [`Error::Invalid`] that names the key, its value and what is allowed.
    pub(super) fn validate(&self) -> Result<()> {
        let sizes = [
            ("q_lora_rank", self.q_lora_rank.unwrap_or(1)),
            ("kv_lora_rank", self.kv_lora_rank),
            ("qk_nope_head_dim", self.qk_nope_head_dim),
            ("qk_rope_head_dim", self.qk_rope_head_dim),
            ("v_head_dim", self.v_head_dim),
        ];
        if let Some((key, value)) =
            sizes.iter().find(|(_, size)| !(1..=super::MAX_SIZE).contains(size))
        {
            let allowed = format!("1 to {}", super::MAX_SIZE);
            return Err(Error::invalid(format!("{key} is {value}; allowed: {allowed}")));
        }
        if self.v_head_dim > self.qk_head_dim() {
            return Err(Error::invalid(format!(
                "v_head_dim is {}; allowed: up to qk_nope_head_dim + qk_rope_head_dim ({})",
                self.v_head_dim,
                self.qk_head_dim()
            )));
        }
        if !self.qk_rope_head_dim.is_multiple_of(2) {
            let found = self.qk_rope_head_dim;
            return Err(Error::invalid(format!("qk_rope_head_dim is {found}; it must be even")));
        }
        Ok(())
    }
}
