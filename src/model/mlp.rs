//! The feed-forward part of a layer, of either kind.

use burn::module::Module;
use burn::tensor::{Bool, Device, Tensor};

use super::router::{Router, Routing};
use super::{FeedForward, Linear, ModelConfig, SparseFeedForward};

/// A feed-forward layer. Names of parameters do not tell the kind.
#[derive(Module, Debug)]
#[allow(clippy::large_enum_variant, reason = "modules cannot be boxed, and a layer has one")]
pub enum Mlp {
    /// One for all tokens.
    Dense(FeedForward),
    /// A mixture of experts.
    Sparse(SparseFeedForward),
}

impl Mlp {
    /// That of layer number `layer`.
    pub(crate) fn new(config: &ModelConfig, layer: usize, device: &Device) -> Self {
        match &config.experts {
            Some(experts) if experts.is_sparse(layer) => {
                Self::Sparse(SparseFeedForward::new(config, experts, device))
            }
            _ => Self::Dense(FeedForward::new(config, device)),
        }
    }

    /// The layer's output, before the residual sum, and what its router did, if it has one. It chooses none of the
    /// experts that are `closed` to a token.
    ///
    /// # Shapes
    /// `x` `[batch, seq, hidden]`, `closed` `[batch * seq, experts]`; the output is as `x`.
    pub(super) fn forward(
        &self,
        x: Tensor<3>,
        closed: Option<&Tensor<2, Bool>>,
    ) -> (Tensor<3>, Option<Routing>) {
        match self {
            Self::Dense(dense) => (dense.forward(x), None),
            Self::Sparse(sparse) => {
                let (y, routing) = sparse.routed(x, closed);
                (y, Some(routing))
            }
        }
    }

    /// Its router.
    pub(super) fn router(&self) -> Option<&Router> {
        match self {
            Self::Dense(_) => None,
            Self::Sparse(sparse) => Some(&sparse.gate),
        }
    }

    /// Its router.
    pub(super) fn router_mut(&mut self) -> Option<&mut Router> {
        match self {
            Self::Dense(_) => None,
            Self::Sparse(sparse) => Some(&mut sparse.gate),
        }
    }

    /// Whether training drops entries of the input of an adapter's factors.
    pub(super) fn has_dropout(&self) -> bool {
        match self {
            Self::Dense(dense) => dense.has_dropout(),
            Self::Sparse(sparse) => {
                sparse.shared_experts.as_ref().is_some_and(FeedForward::has_dropout)
            }
        }
    }

    /// The linear layers by name; the experts' matrices are none.
    pub(super) fn linears(&mut self) -> Vec<(String, &mut Linear)> {
        let (prefix, linears) = match self {
            Self::Dense(dense) => ("", dense.linears()),
            Self::Sparse(SparseFeedForward { shared_experts: Some(shared), .. }) => {
                ("shared_experts.", shared.linears())
            }
            Self::Sparse(_) => ("", Vec::new()),
        };
        linears.into_iter().map(|(name, linear)| (format!("{prefix}{name}"), linear)).collect()
    }
}
