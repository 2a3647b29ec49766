//! Grouped-query attention with normalised queries and keys.
//!
//! Shapes: `batch` rows, `seq` tokens, `heads` query heads, `kv_heads` key and value heads.

use burn::module::Module;
use burn::tensor::{Device, Tensor};

use super::ops::Lanes;
use super::paged_cache::LayerCache;
use super::{HeadNorm, Linear, Mask, ModelConfig, Rope, ops};

/// Self-attention of one layer; the fields are named as in checkpoints.
#[derive(Module, Debug)]
pub struct Attention {
    /// `[heads * head_dim, hidden]`.
    pub q_proj: Linear,
    /// `[kv_heads * head_dim, hidden]`.
    pub k_proj: Linear,
    /// `[kv_heads * head_dim, hidden]`.
    pub v_proj: Linear,
    /// `[hidden, heads * head_dim]`.
    pub o_proj: Linear,
    /// A row for every query head.
    pub q_norm: HeadNorm,
    /// A row for every key head.
    pub k_norm: HeadNorm,
    heads: usize,
    kv_heads: usize,
    head_dim: usize,
}

impl Attention {
    pub(crate) fn new(config: &ModelConfig, device: &Device) -> Self {
        let (hidden, head_dim) = (config.hidden_size, config.head_dim());
        let (heads, kv_heads) = (config.num_attention_heads, config.num_key_value_heads);
        let linear =
            |inputs, outputs| Linear::new(inputs, outputs, config.initializer_range, device);
        Self {
            q_proj: linear(hidden, heads * head_dim),
            k_proj: linear(hidden, kv_heads * head_dim),
            v_proj: linear(hidden, kv_heads * head_dim),
            o_proj: linear(heads * head_dim, hidden),
            q_norm: HeadNorm::new(heads, head_dim, device),
            k_norm: HeadNorm::new(kv_heads, head_dim, device),
            heads,
            kv_heads,
            head_dim,
        }
    }

    /// The attention's output, before the residual sum.
    ///
    /// # Shapes
    /// `x` `[batch, seq, hidden]`; returns the same.
    pub(crate) fn forward(&self, x: Tensor<3>, rope: &Rope, mask: &Mask) -> Tensor<3> {
        let [q, k, v] = self.project(x);
        let (q, k) =
            (self.q_norm.forward(q, rope, self.scale()), self.k_norm.forward(k, rope, 1.0));
        let y = ops::attention(q, k, v.swap_dims(1, 2), mask); // [batch, heads, seq, head_dim]
        self.o_proj.forward(ops::merge_heads(y))
    }

    /// As [`Self::forward`] for new tokens of `lanes`, whose keys and values are added to `cache`.
    ///
    /// # Shapes
    /// `x` `[1, rows, hidden]`; returns the same.
    pub(crate) fn paged(
        &self,
        x: Tensor<3>,
        rope: &Rope,
        lanes: &Lanes<'_>,
        cache: &mut LayerCache,
    ) -> Tensor<3> {
        let qkv = self.project(x);
        let norms = [self.q_norm.at(rope, self.scale()), self.k_norm.at(rope, 1.0)];
        let y = cache.with(|buffers| ops::paged_attention(qkv, norms, buffers, lanes));
        self.o_proj.forward(y) // from [1, rows, heads * head_dim]
    }

    /// Queries, keys and values before their norms, each `[batch, seq, heads of it, head_dim]`.
    fn project(&self, x: Tensor<3>) -> [Tensor<4>; 3] {
        let [batch, seq, _] = x.dims();
        let split = |y: Tensor<3>, heads| y.reshape([batch, seq, heads, self.head_dim]);
        let q = split(self.q_proj.forward(x.clone()), self.heads);
        let k = split(self.k_proj.forward(x.clone()), self.kv_heads);
        [q, k, split(self.v_proj.forward(x), self.kv_heads)]
    }

    /// What queries are multiplied by: one pass over [seq, head_dim] instead of [seq, seq].
    fn scale(&self) -> f64 {
        (self.head_dim as f64).powf(-0.5)
    }
}
