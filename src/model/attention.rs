//! Grouped-query attention with normalised queries and keys.
//!
//! Shapes: `batch` rows, `seq` new tokens, `keys` tokens seen in all, `heads` query heads,
//! `kv_heads` key and value heads, `group = heads / kv_heads`.

use burn::module::Module;
use burn::tensor::{DType, Device, Tensor, activation};

use super::kv_cache::LayerCache;
use super::{HeadNorm, Linear, Mask, ModelConfig, Rope};

/// Self-attention of one layer; the fields are the checkpoint's.
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
    /// Rows for every query head.
    pub q_norm: HeadNorm,
    /// Rows for every key head.
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

    /// `[batch, seq, hidden]` to the same shape.
    pub(crate) fn forward(
        &self,
        x: Tensor<3>,
        rope: &Rope,
        mask: Option<&Mask>,
        cache: Option<(&mut LayerCache, usize)>,
    ) -> Tensor<3> {
        let [batch, seq, _] = x.dims();
        let split = |y: Tensor<3>, heads| y.reshape([batch, seq, heads, self.head_dim]);
        // The scale sits on the queries: one pass over [seq, head_dim] instead of [seq, keys].
        let scale = (self.head_dim as f64).powf(-0.5);
        let q = split(self.q_proj.forward(x.clone()), self.heads);
        let q = self.q_norm.rotated(q, rope, scale); // [batch, heads, seq, head_dim]
        let k = split(self.k_proj.forward(x.clone()), self.kv_heads);
        let k = self.k_norm.rotated(k, rope, 1.0); // [batch, kv_heads, seq, head_dim]
        let v = split(self.v_proj.forward(x), self.kv_heads).swap_dims(1, 2);
        let (k, v) = match cache {
            Some((cache, start)) => cache.append(start, k, v), // [batch, kv_heads, keys, head_dim]
            None => (k, v),
        };
        let y = attend(q, k, v, mask).swap_dims(1, 2); // [batch, seq, heads, head_dim]
        self.o_proj.forward(y.reshape([batch, seq, self.heads * self.head_dim]))
    }
}

/// `softmax(q k^T) v` for queries that carry the scale already; the softmax in f32.
///
/// `q` `[batch, heads, seq, head_dim]`, `k` and `v` `[batch, kv_heads, keys, head_dim]`. The queries
/// of a group are laid one after the other along the sequence, so keys and values are never repeated.
/// On the CPU in f32 one fused operation, elsewhere [`attend_composed`].
fn attend(q: Tensor<4>, k: Tensor<4>, v: Tensor<4>, mask: Option<&Mask>) -> Tensor<4> {
    #[cfg(feature = "cpu")]
    if super::ops::applies(&q) {
        return super::ops::attention(q, k, v, mask.map(Mask::spans));
    }
    attend_composed(q, k, v, mask)
}

/// The reference, from stock operations.
pub(super) fn attend_composed(
    q: Tensor<4>,
    k: Tensor<4>,
    v: Tensor<4>,
    mask: Option<&Mask>,
) -> Tensor<4> {
    let [batch, heads, seq, head_dim] = q.dims();
    let [_, kv_heads, keys, _] = k.dims();
    let group = heads / kv_heads;
    let dtype = q.dtype();
    let q = q.reshape([batch, kv_heads, group * seq, head_dim]);
    let mut scores = q.matmul(k.swap_dims(2, 3)).cast(DType::F32); // [batch, kv_heads, group * seq, keys]
    if let Some(mask) = mask {
        let hidden = mask
            .tensor()
            .unsqueeze_dim::<5>(2)
            .expand([batch, kv_heads, group, seq, keys])
            .reshape([batch, kv_heads, group * seq, keys]);
        // Finite: a row of left padding hides everything and must not become NaN.
        scores = scores.mask_fill(hidden, f32::MIN / 2.0);
    }
    let weights = activation::softmax(scores, 3).cast(dtype);
    weights.matmul(v).reshape([batch, heads, seq, head_dim])
}
