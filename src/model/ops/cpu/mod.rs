//! Fused operations for f32 on the CPU, each with a hand-written gradient, and two operations of
//! training.
//!
//! Results do not depend on the number of threads: sums across tasks are taken in a fixed order.

mod adamw;
mod attention;
mod backend;
mod cross_entropy;
mod gradient;
mod linear;
pub(super) mod math;
mod matrix;
mod norm;
mod product;
mod rope;
mod simd;
mod swiglu;
mod tensors;
#[cfg(target_arch = "x86_64")]
mod tile;
#[cfg(target_arch = "x86_64")]
mod tiled;

pub(super) use tensors::{
    adamw, add_matmul, attention, cross_entropy, head_norm_rope, linear, matmul, rms_norm, swiglu,
    takes, takes_weight, token_stats, widens,
};
