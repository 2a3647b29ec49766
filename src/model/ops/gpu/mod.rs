//! Kernels for every GPU that Burn runs on, in f32, bfloat16 and f16 with sums in f32.

mod attention;
mod attention_backward;
mod attention_products;
mod attention_scores;
mod backend;
mod cross_entropy;
mod head_norm;
mod linear;
mod muon;
mod noise;
mod optimizer;
mod paged;
mod paged_heads;
mod products;
mod rms_norm;
mod rows;
mod sampling;
mod swiglu;
mod tensors;
#[cfg(test)]
mod tests;
mod tile;

#[cfg(test)]
pub(super) use attention_products::in_chunks;
pub(super) use kernels::gpu::takes;
pub(super) use tensors::{
    adamw, add_matmul, add_rms_norm, cross_entropy, draw, matmul, muon, paged_attention,
    sum_of_squares, takes_norm, token_stats,
};
