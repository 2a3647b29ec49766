//! One transformer layer, in either norm order.

use burn::module::Module;
use burn::nn::{Dropout, DropoutConfig};
use burn::tensor::{Bool, Device, Tensor};

use super::ops::Lanes;
use super::paged_cache::LayerCache;
use super::{Linear, Mask, Mlp, ModelConfig, RmsNorm, Rope, Routing, SelfAttention};

/// The residual stream between two layers: the last branch is added together with the norm that follows.
#[derive(Debug)]
pub(crate) struct Stream {
    sum: Tensor<3>,
    branch: Option<Tensor<3>>,
}

impl From<Tensor<3>> for Stream {
    fn from(sum: Tensor<3>) -> Self {
        Self { sum, branch: None }
    }
}

impl Stream {
    /// The sum of both.
    fn added(self) -> Tensor<3> {
        match self.branch {
            Some(branch) => self.sum + branch,
            None => self.sum,
        }
    }

    /// The sum of both, and its `norm`.
    pub(super) fn normed(self, norm: &RmsNorm) -> [Tensor<3>; 2] {
        match self.branch {
            Some(branch) => norm.add(self.sum, branch),
            None => [self.sum.clone(), norm.forward(self.sum)],
        }
    }
}

/// What layers know of the tokens besides their states.
#[derive(Debug)]
pub(crate) struct Surroundings {
    pub(super) rope: Rope,
    pub(super) mask: Mask,
    /// The experts that are closed to each token, `[batch * seq, experts]`, if any are.
    pub(super) closed: Option<Tensor<2, Bool>>,
}

/// Attention and feed-forward with their residual connections.
///
/// Pre-norm (7B): `h = x + Attn(norm(x))`. Norm re-ordering (34B, `swin_norm`): `h = x + norm(Attn(x))`.
/// The feed-forward follows the same order; the tensor names are the same in both.
#[derive(Module, Debug)]
pub struct DecoderLayer {
    /// Self-attention.
    pub self_attn: SelfAttention,
    /// Feed-forward.
    pub mlp: Mlp,
    /// Norm of the attention branch.
    pub input_layernorm: RmsNorm,
    /// Norm of the feed-forward branch.
    pub post_attention_layernorm: RmsNorm,
    dropout: Dropout,
    pub(super) swin_norm: bool,
}

impl DecoderLayer {
    pub(crate) fn new(config: &ModelConfig, layer: usize, device: &Device) -> Self {
        let norm = || RmsNorm::new(config.hidden_size, config.rms_norm_eps, device);
        Self {
            self_attn: SelfAttention::new(config, device),
            mlp: Mlp::new(config, layer, device),
            input_layernorm: norm(),
            post_attention_layernorm: norm(),
            dropout: DropoutConfig::new(config.dropout).init(),
            swin_norm: config.swin_norm,
        }
    }

    /// The residual stream after this layer, and what its router did, if it has one.
    ///
    /// # Shapes
    /// `x` `[batch, seq, hidden]`; the stream is the same.
    pub(crate) fn forward(
        &self,
        x: Tensor<3>,
        Surroundings { rope, mask, closed }: &Surroundings,
    ) -> (Tensor<3>, Option<Routing>) {
        let attention = |y| self.self_attn.forward(y, rope, mask);
        let (x, routing) = self.with(x.into(), closed.as_ref(), attention);
        (x.added(), routing)
    }

    /// As [`Self::forward`] for new tokens of `lanes`; what later ones need of them is added to `cache`.
    ///
    /// # Shapes
    /// `[1, rows, hidden]`; `closed` `[rows, experts]`.
    pub(crate) fn paged(
        &self,
        x: Stream,
        (rope, closed): (&Rope, Option<&Tensor<2, Bool>>),
        lanes: &Lanes<'_>,
        cache: &mut LayerCache,
    ) -> Stream {
        self.with(x, closed, |y| self.self_attn.paged(y, rope, lanes, cache)).0
    }

    fn with(
        &self,
        x: Stream,
        closed: Option<&Tensor<2, Bool>>,
        attention: impl FnOnce(Tensor<3>) -> Tensor<3>,
    ) -> (Stream, Option<Routing>) {
        let [first, second] = [&self.input_layernorm, &self.post_attention_layernorm];
        let dropout = |y| self.dropout.forward(y);
        if self.swin_norm {
            let x = x.added();
            let h = x.clone() + dropout(first.forward(attention(x)));
            let (y, routing) = self.mlp.forward(h.clone(), closed);
            return (Stream { sum: h, branch: Some(dropout(second.forward(y))) }, routing);
        }
        let [x, normal] = x.normed(first);
        let [h, normal] = second.add(x, dropout(attention(normal)));
        let (y, routing) = self.mlp.forward(normal, closed);
        (Stream { sum: h, branch: Some(dropout(y)) }, routing)
    }

    /// Whether training drops entries of the branches, or of an adapter's inputs, at random.
    pub(super) fn has_dropout(&self) -> bool {
        self.dropout.prob > 0.0 || self.self_attn.has_dropout() || self.mlp.has_dropout()
    }

    /// The linear layers by name.
    pub(super) fn linears(&mut self) -> impl Iterator<Item = (String, &mut Linear)> {
        let attention = self.self_attn.linears().into_iter();
        let attention = attention.map(|(name, linear)| (format!("self_attn.{name}"), linear));
        let mlp = self.mlp.linears().into_iter();
        attention.chain(mlp.map(|(name, linear)| (format!("mlp.{name}"), linear)))
    }
}
