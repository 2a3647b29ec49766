//! The arithmetic of a transformer for f32 on the CPU: matrix products, attention, norms, cross-entropy
//! and AdamW, forward and backward, on plain slices.
//!
//! A crate of its own, because its inner loops must be compiled in one piece while the rest of the
//! workspace is compiled in many, for a short build. Which tensors these kernels take is decided in
//! `calumma`'s `model/ops`.
//!
//! With the feature `gpu` also what the kernels for GPUs of all crates share, `gpu`.
//!
//! Results do not depend on the number of threads: sums across tasks are taken in a fixed order.

pub mod adamw;
pub mod attention;
mod buffer;
pub mod cross_entropy;
mod dots;
pub mod experts;
#[cfg(feature = "gpu")]
pub mod gpu;
pub mod grouped;
mod lanes;
pub mod linear;
pub mod math;
pub mod matrix;
pub mod memory;
#[cfg(test)]
mod noise;
pub mod norm;
pub mod paged;
mod prefetch;
pub mod product;
pub mod rope;
mod simd;
pub mod spans;
pub mod swiglu;
#[cfg(target_arch = "x86_64")]
mod tile;
#[cfg(target_arch = "x86_64")]
mod tiled;
mod token_stats;

pub use spans::Spans;
pub use token_stats::TokenStats;
