//! The kernels as fused operations of Burn's CPU backend, each with a hand-written gradient, and two
//! operations of training.

mod backend;
mod gradient;
mod tensors;

pub(super) use tensors::{
    adamw, add_matmul, attention, cross_entropy, head_norm_rope, linear, matmul, paged_attention,
    rms_norm, swiglu, takes, takes_weight, token_stats, widens,
};
