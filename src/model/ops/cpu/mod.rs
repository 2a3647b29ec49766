//! The kernels of the crate `kernels` as operations of Burn's CPU backend.

mod backend;
mod experts;
mod grouped;
mod heads;
mod tensors;

pub(super) use experts::{combine, dispatch, swiglu_halves};
pub(super) use heads::{head_linear, head_product};
pub(super) use tensors::{
    adamw, add_matmul, cross_entropy, latent_attention, matmul, paged_attention, takes,
    takes_weight, token_stats, widens,
};
