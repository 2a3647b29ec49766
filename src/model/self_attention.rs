//! Self-attention of a layer, of either kind.

use burn::module::Module;
use burn::tensor::{Device, Tensor};

use super::ops::Lanes;
use super::paged_cache::LayerCache;
use super::{Attention, LatentAttention, Linear, Mask, ModelConfig, Rope};

/// Self-attention of one layer; names of parameters do not say its kind.
#[derive(Module, Debug)]
#[allow(clippy::large_enum_variant, reason = "there is one for each layer, beside its weights")]
pub enum SelfAttention {
    /// Grouped-query attention.
    Grouped(Attention),
    /// Multi-head latent attention.
    Latent(LatentAttention),
}

impl SelfAttention {
    pub(crate) fn new(config: &ModelConfig, device: &Device) -> Self {
        match &config.latent {
            Some(sizes) => Self::Latent(LatentAttention::new(config, sizes, device)),
            None => Self::Grouped(Attention::new(config, device)),
        }
    }

    /// The attention's output, before the residual sum.
    ///
    /// # Shapes
    /// `x` `[batch, seq, hidden]`; returns the same.
    pub(crate) fn forward(&self, x: Tensor<3>, rope: &Rope, mask: &Mask) -> Tensor<3> {
        match self {
            Self::Grouped(attention) => attention.forward(x, rope, mask),
            Self::Latent(attention) => attention.forward(x, rope, mask),
        }
    }

    /// As [`Self::forward`] for new tokens of `lanes`; what later ones need of them is added to `cache`.
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
        match self {
            Self::Grouped(attention) => attention.paged(x, rope, lanes, cache),
            Self::Latent(attention) => attention.paged(x, rope, lanes, cache),
        }
    }

    /// Whether training drops entries of the input of an adapter's factors.
    pub(super) fn has_dropout(&self) -> bool {
        match self {
            Self::Grouped(attention) => attention.has_dropout(),
            Self::Latent(attention) => attention.has_dropout(),
        }
    }

    /// The linear layers by name.
    pub(super) fn linears(&mut self) -> Vec<(&'static str, &mut Linear)> {
        match self {
            Self::Grouped(attention) => attention.linears(),
            Self::Latent(attention) => attention.linears(),
        }
    }
}
