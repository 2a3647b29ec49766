//! One transformer layer, in either norm order.

use burn::module::Module;
use burn::nn::{Dropout, DropoutConfig};
use burn::tensor::{Device, Tensor};

use super::ops::Lanes;
use super::paged_cache::LayerCache;
use super::{Attention, FeedForward, Mask, ModelConfig, RmsNorm, Rope};

/// Attention and feed-forward with their residual connections.
///
/// Pre-norm (7B): `h = x + Attn(norm(x))`. Norm re-ordering (34B, `swin_norm`): `h = x + norm(Attn(x))`.
/// The feed-forward follows the same order; the tensor names are the same in both.
#[derive(Module, Debug)]
pub struct DecoderLayer {
    /// Self-attention.
    pub self_attn: Attention,
    /// Feed-forward.
    pub mlp: FeedForward,
    /// Norm of the attention branch.
    pub input_layernorm: RmsNorm,
    /// Norm of the feed-forward branch.
    pub post_attention_layernorm: RmsNorm,
    dropout: Dropout,
    swin_norm: bool,
}

impl DecoderLayer {
    pub(crate) fn new(config: &ModelConfig, device: &Device) -> Self {
        let norm = || RmsNorm::new(config.hidden_size, config.rms_norm_eps, device);
        Self {
            self_attn: Attention::new(config, device),
            mlp: FeedForward::new(config, device),
            input_layernorm: norm(),
            post_attention_layernorm: norm(),
            dropout: DropoutConfig::new(config.dropout).init(),
            swin_norm: config.swin_norm,
        }
    }

    /// The residual stream after this layer.
    ///
    /// # Shapes
    /// `x` `[batch, seq, hidden]`; returns the same.
    pub(crate) fn forward(&self, x: Tensor<3>, rope: &Rope, mask: &Mask) -> Tensor<3> {
        self.with(x, |y| self.self_attn.forward(y, rope, mask))
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
        self.with(x, |y| self.self_attn.paged(y, rope, lanes, cache))
    }

    fn with(&self, x: Tensor<3>, attention: impl FnOnce(Tensor<3>) -> Tensor<3>) -> Tensor<3> {
        let [first, second] = [&self.input_layernorm, &self.post_attention_layernorm];
        let dropout = |y| self.dropout.forward(y);
        if self.swin_norm {
            let h = x.clone() + dropout(first.forward(attention(x)));
            return h.clone() + dropout(second.forward(self.mlp.forward(h)));
        }
        let y = attention(first.forward(x.clone()));
        let [h, normal] = second.add(x, dropout(y));
        h + dropout(self.mlp.forward(normal))
    }

    /// Whether training drops entries of the branches at random.
    pub(super) fn has_dropout(&self) -> bool {
        self.dropout.prob > 0.0
    }
}
