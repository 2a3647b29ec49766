//! Muon for one matrix (arXiv 2502.16982): what an update is, and its body of stock Burn operations.

use burn::optim::{AdjustLrFn, MuonConfig, Optimizer as _, decay, momentum};
use burn::tensor::Tensor;

/// One update of one matrix. The sizes of updates are those of AdamW's, so that both share a learning rate.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Muon {
    /// Factor on the gradient, below 1 when it is clipped.
    pub gradient_scale: f64,
    /// Learning rate.
    pub lr: f64,
    /// Decoupled weight decay per unit of learning rate.
    pub decay: f64,
}

impl Muon {
    /// Momentum, of Nesterov's kind (section 2.1).
    pub(super) const MOMENTUM: f64 = 0.95;
}

/// See [`super::muon`].
pub(super) fn composed<const D: usize>(
    Muon { gradient_scale, lr, decay }: Muon,
    weight: Tensor<D>,
    momentum: Tensor<1>,
    gradient: Tensor<1>,
) -> (Tensor<D>, Tensor<1>) {
    let gradient = if gradient_scale == 1.0 { gradient } else { gradient * gradient_scale };
    let momentum = momentum * Muon::MOMENTUM + gradient.clone();
    let ahead = (momentum.clone() * Muon::MOMENTUM + gradient).reshape(weight.dims());
    // The momentum is the caller's; Burn does the rest.
    let none = momentum::MomentumConfig { momentum: 0.0, dampening: 0.0, nesterov: false };
    let muon = MuonConfig::new()
        .with_momentum(none)
        .with_weight_decay(Some(decay::WeightDecayConfig::new(decay as f32)))
        .with_adjust_lr_fn(AdjustLrFn::MatchRmsAdamW)
        .build();
    (muon.step(lr, weight, ahead, None).0, momentum)
}
