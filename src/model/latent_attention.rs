//! Multi-head latent attention (DeepSeek-V2, arXiv 2405.04434 section 2.1; deepseek-ai/DeepSeek-V3 `inference/model.py`).
//!
//! Keys and values of all heads are products of one short vector for each token, the latent, beside a rotated key that
//! the heads share. Training expands the latents of a row. Generation keeps latents and rotated keys only, and folds
//! the expansion into queries and results: `q . (W c) = (W^T q) . c`.
//!
//! The numbers to rotate lie in the order of the published files, the members of a pair side by side, in weights as in
//! biases and adapters; they are brought into the order of the rotation as they are rotated.
//!
//! Shapes: `batch` rows, `seq` tokens, `heads`; `nope` and `rope` numbers of a query without and with position, `rank`
//! of a latent, `value` of a value.

#[cfg(test)]
mod tests;

use burn::module::Module;
use burn::tensor::{Device, Tensor};

use super::ops::Lanes;
use super::paged_cache::LayerCache;
use super::{HeadNorm, LatentConfig, Linear, Mask, ModelConfig, RmsNorm, Rope, ops};

/// Epsilon of the norms within the layer; the reference fixes it, `rms_norm_eps` does not apply.
const LATENT_NORM_EPS: f64 = 1e-6;

/// Self-attention of one layer; the fields are named as in checkpoints.
#[derive(Module, Debug)]
pub struct LatentAttention {
    /// `[heads * (nope + rope), hidden]`, if queries are products of the input.
    pub q_proj: Option<Linear>,
    /// `[q_lora_rank, hidden]`, if they are products of a short vector.
    pub q_a_proj: Option<Linear>,
    /// The norm of that vector.
    pub q_a_layernorm: Option<RmsNorm>,
    /// `[heads * (nope + rope), q_lora_rank]`.
    pub q_b_proj: Option<Linear>,
    /// The latent and the shared key, `[rank + rope, hidden]`.
    pub kv_a_proj_with_mqa: Linear,
    /// The norm of the latent.
    pub kv_a_layernorm: RmsNorm,
    /// For each head its keys without position, then its values: `[heads * (nope + value), rank]`.
    pub kv_b_proj: Linear,
    /// `[hidden, heads * value]`.
    pub o_proj: Linear,
    heads: usize,
    scale: f64,
    #[module(skip)]
    sizes: LatentConfig,
}

impl LatentAttention {
    /// Of a model of the sizes `config`, whose latent attention has the sizes `sizes`.
    pub(crate) fn new(config: &ModelConfig, sizes: &LatentConfig, device: &Device) -> Self {
        let (hidden, heads) = (config.hidden_size, config.num_attention_heads);
        let (std, rank) = (config.initializer_range, sizes.kv_lora_rank);
        let q_width = heads * sizes.qk_head_dim();
        let norm = |width| RmsNorm::new(width, LATENT_NORM_EPS, device);
        let linear = |inputs, outputs| Linear::new(inputs, outputs, std, device);
        let from_hidden = |outputs| Linear::biased([hidden, outputs], config.qkv_bias, std, device);
        let expanded = heads * (sizes.qk_nope_head_dim + sizes.v_head_dim);
        let values = heads * sizes.v_head_dim;
        Self {
            q_proj: sizes.q_lora_rank.is_none().then(|| linear(hidden, q_width)),
            q_a_proj: sizes.q_lora_rank.map(from_hidden),
            q_a_layernorm: sizes.q_lora_rank.map(norm),
            q_b_proj: sizes.q_lora_rank.map(|rank| linear(rank, q_width)),
            kv_a_proj_with_mqa: from_hidden(sizes.cached()),
            kv_a_layernorm: norm(rank),
            kv_b_proj: linear(rank, expanded),
            o_proj: Linear::biased([values, hidden], config.o_bias, std, device),
            heads,
            scale: (sizes.qk_head_dim() as f64).powf(-0.5) * config.rope_scaling.score_factor(),
            sizes: sizes.clone(),
        }
    }

    /// The attention's output, before the residual sum.
    ///
    /// # Shapes
    /// `x` `[batch, seq, hidden]`; returns the same.
    pub(crate) fn forward(&self, x: Tensor<3>, rope: &Rope, mask: &Mask) -> Tensor<3> {
        let [batch, seq, _] = x.dims();
        let LatentConfig { qk_nope_head_dim: nope, qk_rope_head_dim, v_head_dim, .. } = self.sizes;
        let [q, q_rope] = self.queries(x.clone(), rope);
        let q = Tensor::cat(vec![q.swap_dims(1, 2), q_rope], 3); // [batch, heads, seq, nope + rope]
        let (latent, key) = self.latent(x, rope);
        let expanded = self.kv_b_proj.forward(latent);
        let expanded = expanded.reshape([batch, seq, self.heads, nope + v_head_dim]);
        let expanded = expanded.swap_dims(1, 2); // [batch, heads, seq, nope + value]
        let key = key.expand([batch, self.heads, seq, qk_rope_head_dim]);
        let k = Tensor::cat(vec![expanded.clone().narrow(3, 0, nope), key], 3);
        let v = expanded.narrow(3, nope, v_head_dim);
        let y = ops::attention(q, k, v, mask); // [batch, heads, seq, value]
        self.o_proj.forward(ops::merge_heads(y))
    }

    /// As [`Self::forward`] for new tokens of `lanes`, whose latents and rotated keys are added to `cache`.
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
        let LatentConfig { qk_nope_head_dim: nope, v_head_dim, kv_lora_rank: rank, .. } =
            self.sizes;
        let rows = x.dims()[1];
        let [q, q_rope] = self.queries(x.clone(), rope);
        let (latent, key) = self.latent(x, rope);
        let weight = self.kv_b_proj.merged().reshape([self.heads, nope + v_head_dim, rank]);
        let q = ops::head_product(q.squeeze_dim(0), weight.clone(), 0..nope); // [rows, heads, rank]
        let q = [q, q_rope.squeeze_dim(0)];
        let new = [latent.squeeze_dim(0), key.reshape([rows, self.sizes.qk_rope_head_dim])];
        let y = cache.with(|buffers| ops::latent_attention(q, new, buffers, lanes));
        let y = y.reshape([rows, self.heads, rank]);
        let y = ops::head_linear(y, weight, nope..nope + v_head_dim); // [rows, heads, value]
        self.o_proj.forward(y.reshape([1, rows, self.heads * v_head_dim]))
    }

    /// Scaled queries without and with position, the latter rotated.
    ///
    /// # Shapes
    /// Returns `[batch, seq, heads, nope]` and `[batch, heads, seq, rope]`.
    fn queries(&self, x: Tensor<3>, rope: &Rope) -> [Tensor<4>; 2] {
        let [batch, seq, _] = x.dims();
        let nope = self.sizes.qk_nope_head_dim;
        let parts = (&self.q_a_proj, &self.q_a_layernorm, &self.q_b_proj);
        let q = match (parts, &self.q_proj) {
            ((Some(to_low), Some(norm), Some(from_low)), _) => {
                from_low.forward(norm.forward(to_low.forward(x)))
            }
            (_, Some(direct)) => direct.forward(x),
            _ => unreachable!("one of both ways to queries is there"),
        };
        let q = q.reshape([batch, seq, self.heads, self.sizes.qk_head_dim()]);
        let plain = q.clone().narrow(3, 0, nope) * self.scale;
        let with_position = q.narrow(3, nope, self.sizes.qk_rope_head_dim);
        [plain, rotated(with_position, rope, self.scale)]
    }

    /// What the cache holds: latents after their norm, and rotated keys.
    ///
    /// # Shapes
    /// Returns `[batch, seq, rank]` and `[batch, 1, seq, rope]`.
    fn latent(&self, x: Tensor<3>, rope: &Rope) -> (Tensor<3>, Tensor<4>) {
        let [batch, seq, _] = x.dims();
        let LatentConfig { kv_lora_rank: rank, qk_rope_head_dim, .. } = self.sizes;
        let both = self.kv_a_proj_with_mqa.forward(x); // [batch, seq, rank + rope]
        let latent = self.kv_a_layernorm.forward(both.clone().narrow(2, 0, rank));
        let key = both.narrow(2, rank, qk_rope_head_dim);
        (latent, rotated(key.reshape([batch, seq, 1, qk_rope_head_dim]), rope, 1.0))
    }

    /// Whether training drops entries of the input of an adapter's factors.
    pub(super) fn has_dropout(&self) -> bool {
        let always = [&self.kv_a_proj_with_mqa, &self.kv_b_proj, &self.o_proj];
        let of_queries = [&self.q_proj, &self.q_a_proj, &self.q_b_proj].into_iter().flatten();
        of_queries.chain(always).any(Linear::has_dropout)
    }

    /// The linear layers by name.
    pub(super) fn linears(&mut self) -> Vec<(&'static str, &mut Linear)> {
        let of_queries = [
            ("q_proj", &mut self.q_proj),
            ("q_a_proj", &mut self.q_a_proj),
            ("q_b_proj", &mut self.q_b_proj),
        ];
        let of_queries = of_queries
            .into_iter()
            .filter_map(|(name, linear)| linear.as_mut().map(|linear| (name, linear)));
        let always = [
            ("kv_a_proj_with_mqa", &mut self.kv_a_proj_with_mqa),
            ("kv_b_proj", &mut self.kv_b_proj),
            ("o_proj", &mut self.o_proj),
        ];
        of_queries.chain(always).collect()
    }
}

/// `x` rotated and scaled, its pairs side by side before and half a head apart after.
///
/// # Shapes
/// `x` `[batch, seq, heads, rope]`; returns `[batch, heads, seq, rope]`.
fn rotated(x: Tensor<4>, rope: &Rope, scale: f64) -> Tensor<4> {
    let [batch, seq, heads, width] = x.dims();
    let pairs = x.reshape([batch, seq, heads, width / 2, 2]).swap_dims(3, 4);
    let x = pairs.reshape([batch, seq, heads, width]);
    ops::head_norm_rope(x, HeadNorm::after_split(None, rope, scale))
}
