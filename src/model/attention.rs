//! Grouped-query attention.
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
    /// The norm of queries, if they have one.
    pub q_norm: Option<HeadNorm>,
    /// The norm of keys.
    pub k_norm: Option<HeadNorm>,
    heads: usize,
    kv_heads: usize,
    head_dim: usize,
}

impl Attention {
    pub(crate) fn new(config: &ModelConfig, device: &Device) -> Self {
        let (hidden, head_dim) = (config.hidden_size, config.head_dim());
        let (heads, kv_heads) = (config.num_attention_heads, config.num_key_value_heads);
        let (q, k, std) = (config.query_width(), config.key_width(), config.initializer_range);
        let in_linear = |width| Linear::biased([hidden, width], config.qkv_bias, std, device);
        Self {
            q_proj: in_linear(q),
            k_proj: in_linear(k),
            v_proj: in_linear(k),
            o_proj: Linear::biased([q, hidden], config.o_bias, std, device),
            q_norm: HeadNorm::new(config, heads, device),
            k_norm: HeadNorm::new(config, kv_heads, device),
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
        let [of_q, of_k] = self.norms(rope);
        let (q, k) = (ops::head_norm_rope(q, of_q), ops::head_norm_rope(k, of_k));
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
        let y = cache.with(|buffers| ops::paged_attention(qkv, self.norms(rope), buffers, lanes));
        self.o_proj.forward(y) // from [1, rows, heads * head_dim]
    }

    /// Queries, keys and values before what [`Self::norms`] does to them, each `[batch, seq, heads of it, head_dim]`.
    fn project(&self, x: Tensor<3>) -> [Tensor<4>; 3] {
        let [batch, seq, _] = x.dims();
        let split = |y: Tensor<3>, heads| y.reshape([batch, seq, heads, self.head_dim]);
        let q = HeadNorm::before_split(self.q_norm.as_ref(), self.q_proj.forward(x.clone()));
        let k = HeadNorm::before_split(self.k_norm.as_ref(), self.k_proj.forward(x.clone()));
        let v = self.v_proj.forward(x);
        [split(q, self.heads), split(k, self.kv_heads), split(v, self.kv_heads)]
    }

    /// What is done to queries and keys. Queries are scaled: one pass over [seq, head_dim] instead of [seq, seq].
    fn norms(&self, rope: &Rope) -> [ops::NormAndRope; 2] {
        let scale = (self.head_dim as f64).powf(-0.5);
        [(&self.q_norm, scale), (&self.k_norm, 1.0)]
            .map(|(norm, scale)| HeadNorm::after_split(norm.as_ref(), rope, scale))
    }

    /// Whether training drops entries of the input of an adapter's factors.
    pub(super) fn has_dropout(&self) -> bool {
        [&self.q_proj, &self.k_proj, &self.v_proj, &self.o_proj]
            .iter()
            .any(|linear| linear.has_dropout())
    }

    /// The linear layers by name.
    pub(super) fn linears(&mut self) -> Vec<(&'static str, &mut Linear)> {
        vec![
            ("q_proj", &mut self.q_proj),
            ("k_proj", &mut self.k_proj),
            ("v_proj", &mut self.v_proj),
            ("o_proj", &mut self.o_proj),
        ]
    }
}
