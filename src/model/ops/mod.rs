//! The operations that a device can have kernels for; each chooses its kernels here and nowhere
//! else.
//!
//! Every operation is one function, which runs the first kernels that take its tensors and otherwise the
//! stock operations in `composed.rs`. There are kernels for f32 on the CPU in `cpu/` and for floats on GPUs in `gpu/`;
//! those of operations that can be differentiated are reached through `fused/`.

#[cfg(feature = "cpu")]
mod check;
mod choice;
mod chunks;
mod composed;
#[cfg(feature = "cpu")]
mod cpu;
#[cfg_attr(not(feature = "gpu"), allow(dead_code, reason = "kernels of a GPU read it"))]
mod draws;
#[cfg(any(feature = "cpu", feature = "gpu"))]
mod fused;
#[cfg(feature = "gpu")]
mod gpu;
mod muon;
mod norm_and_rope;
mod paged;
mod stats;
#[cfg(all(test, feature = "cpu"))]
mod tests;

use burn::tensor::{DType, Int, Tensor};

use kernels::adamw::AdamW;

use super::Mask;
#[cfg(feature = "cpu")]
pub use check::{Difference, differences};
pub(crate) use choice::Kernels;
#[cfg(test)]
pub(crate) use choice::forced;
pub use chunks::attention_chunk;
pub(crate) use draws::{Distribution, Draws, Place, fetch};
pub use draws::{Drawn, NoDraw};
pub(crate) use muon::Muon;
pub(crate) use norm_and_rope::{HeadNormOf, NormAndRope};
pub(crate) use paged::Lanes;
pub(crate) use stats::fetch_stats;

/// `kernels!(operation on a, b; weight)`: the kernels that `operation` runs, the first that take all the tensors.
macro_rules! kernels {
    ($operation:ident on $($tensor:expr),+ $(; $weight:expr)?) => {{
        let kernels = Kernels::Composed;
        #[cfg(feature = "gpu")]
        let takes = true $(&& gpu::takes($tensor))+ $(&& gpu::takes($weight))?;
        #[cfg(feature = "gpu")]
        let kernels = if takes { Kernels::Gpu } else { kernels };
        #[cfg(feature = "cpu")]
        let takes = true $(&& cpu::takes($tensor))+ $(&& cpu::takes_weight($weight))?;
        #[cfg(feature = "cpu")]
        let kernels = if takes { Kernels::Cpu } else { kernels };
        #[cfg(test)]
        let kernels = forced::instead_of(kernels, stringify!($operation));
        kernels
    }};
}

// Behind the macro, which they use.
mod experts;
mod latent;
pub(crate) use experts::{combine, dispatch, grouped_linear, swiglu_halves};
pub(crate) use latent::{head_linear, head_product, latent_attention};

/// `softmax(q k^T) v` over the visible keys, the softmax in f32; `q` is scaled already.
///
/// # Shapes
/// `q` `[batch, heads, seq, head_dim]`, `k` `[batch, kv_heads, seq, head_dim]`, `v` `[batch, kv_heads, seq, value_dim]`,
/// each of their heads for `heads / kv_heads` query heads, and `value_dim` at most `head_dim` on a GPU; returns
/// `[batch, heads, seq, value_dim]`.
pub(crate) fn attention(q: Tensor<4>, k: Tensor<4>, v: Tensor<4>, mask: &Mask) -> Tensor<4> {
    match kernels!(attention on &q) {
        #[cfg(feature = "cpu")]
        Kernels::Cpu => fused::attention(q, k, v, mask),
        #[cfg(feature = "gpu")]
        Kernels::Gpu => {
            latent::with_wide_values(q, k, v, |q, k, v| fused::attention(q, k, v, mask))
        }
        Kernels::Composed => composed::attention(q, k, v, mask),
    }
}

/// The heads of every token side by side.
///
/// # Shapes
/// `y` `[batch, heads, seq, head_dim]`; returns `[batch, seq, heads * head_dim]`.
pub(crate) fn merge_heads(y: Tensor<4>) -> Tensor<3> {
    match kernels!(merge_heads on &y) {
        Kernels::Composed => composed::merge_heads(y),
        #[cfg(any(feature = "cpu", feature = "gpu"))]
        _ => fused::merge_heads(y),
    }
}

/// Normalises new queries and keys and lets them attend to their lanes' keys and values in a paged cache, to which
/// those of the new tokens are written first; outside autodiff. A token sees its lane's tokens up to itself. The buffers
/// are written in place if they share their memory with no other tensor.
///
/// On the CPU a row's result does not depend on the other rows and lanes of the pass.
///
/// # Shapes
/// `qkv` `[1, rows, heads of it, head_dim]`; keys in the cache `[blocks, kv_heads, head_dim, BLOCK]`, values
/// `[blocks, kv_heads, BLOCK, head_dim]`. Returns `[1, rows, heads * head_dim]` and the cache.
pub(crate) fn paged_attention(
    [q, k, v]: [Tensor<4>; 3],
    norms: [NormAndRope; 2],
    cache: [Tensor<4>; 2],
    lanes: &Lanes<'_>,
) -> (Tensor<3>, [Tensor<4>; 2]) {
    let kernels = kernels!(paged_attention on &q, &cache[0]);
    #[cfg(feature = "gpu")]
    if kernels == Kernels::Gpu && norms.iter().all(gpu::takes_norm) {
        return gpu::paged_attention([q, k, v], norms, cache, lanes);
    }
    let [of_q, of_k] = norms;
    let qkv = [head_norm_rope(q, of_q), head_norm_rope(k, of_k), v];
    match kernels {
        #[cfg(feature = "cpu")]
        Kernels::Cpu => cpu::paged_attention(qkv, cache, lanes.lanes),
        _ => paged::attention(qkv, cache, lanes),
    }
}

/// `x weight^T`; a weight in another number format is converted to that of `x`.
///
/// # Shapes
/// `x` `[rows, in]`, `weight` `[out, in]`; returns `[rows, out]`.
pub(crate) fn linear(x: Tensor<2>, weight: Tensor<2>) -> Tensor<2> {
    match kernels!(linear on &x; &weight) {
        Kernels::Composed => composed::linear(x, weight),
        #[cfg(any(feature = "cpu", feature = "gpu"))]
        _ => fused::linear(x, weight),
    }
}

/// `x weight^T + scale (x a^T) b^T`; the weight has no gradient, and the product of the factors is never formed.
///
/// # Shapes
/// `x` `[batch, seq, in]`, `weight` `[out, in]`, `a` `[rank, in]`, `b` `[out, rank]`; returns `[batch, seq, out]`.
pub(crate) fn low_rank_linear(
    x: Tensor<3>,
    weight: Tensor<2>,
    factors: [Tensor<2>; 2],
    scale: f64,
) -> Tensor<3> {
    let weight = weight.detach();
    match kernels!(low_rank_linear on &x, &factors[0], &factors[1]; &weight) {
        Kernels::Composed => composed::low_rank(x, weight, factors, scale),
        #[cfg(any(feature = "cpu", feature = "gpu"))]
        _ => fused::low_rank(x, weight, factors, scale),
    }
}

/// The rows of `matrix` that `numbers` name, in `dtype`; their gradients add up in the order of the numbers.
///
/// # Shapes
/// `matrix` `[rows, width]`, `numbers` `[len]`; returns `[len, width]`.
pub(crate) fn rows(matrix: Tensor<2>, numbers: Tensor<1, Int>, dtype: DType) -> Tensor<2> {
    match kernels!(rows on &matrix) {
        Kernels::Composed => composed::rows(matrix, numbers, dtype),
        #[cfg(any(feature = "cpu", feature = "gpu"))]
        _ => fused::rows(matrix, numbers, dtype),
    }
}

/// `lhs rhs` outside autodiff.
///
/// # Shapes
/// `[m, k]` and `[k, n]` to `[m, n]`.
pub(crate) fn matmul(lhs: Tensor<2>, rhs: Tensor<2>) -> Tensor<2> {
    match kernels!(matmul on &lhs) {
        #[cfg(feature = "cpu")]
        Kernels::Cpu => cpu::matmul(lhs, rhs),
        #[cfg(feature = "gpu")]
        Kernels::Gpu => gpu::matmul(lhs, rhs),
        Kernels::Composed => composed::matmul(lhs, rhs),
    }
}

/// `sum + lhs rhs` outside autodiff.
///
/// # Shapes
/// `sum` `[m, n]`, `lhs` `[m, k]`, `rhs` `[k, n]`; returns `[m, n]`.
pub(crate) fn add_matmul(sum: Tensor<2>, lhs: Tensor<2>, rhs: Tensor<2>) -> Tensor<2> {
    match kernels!(add_matmul on &sum) {
        #[cfg(feature = "cpu")]
        Kernels::Cpu => cpu::add_matmul(sum, lhs, rhs),
        #[cfg(feature = "gpu")]
        Kernels::Gpu => gpu::add_matmul(sum, lhs, rhs),
        Kernels::Composed => composed::add_matmul(sum, lhs, rhs),
    }
}

/// `x / sqrt(mean(x^2) + eps) * weight` over the last axis, the mean in f32.
///
/// # Shapes
/// `x` `[batch, seq, hidden]`, `weight` `[hidden]`; returns the shape of `x`.
pub(crate) fn rms_norm(x: Tensor<3>, weight: Tensor<1>, eps: f64) -> Tensor<3> {
    match kernels!(rms_norm on &x) {
        Kernels::Composed => composed::rms_norm(x, weight, eps),
        #[cfg(any(feature = "cpu", feature = "gpu"))]
        _ => fused::rms_norm(x, weight, eps),
    }
}

/// `x + y` and its [`rms_norm`].
///
/// # Shapes
/// `x` and `y` `[batch, seq, hidden]`, as both results; `weight` `[hidden]`.
pub(crate) fn add_rms_norm(
    x: Tensor<3>,
    y: Tensor<3>,
    weight: Tensor<1>,
    eps: f64,
) -> [Tensor<3>; 2] {
    #[cfg(feature = "gpu")]
    if !x.device().is_autodiff() && kernels!(add_rms_norm on &x) == Kernels::Gpu {
        return gpu::add_rms_norm(x, y, weight, eps);
    }
    let sum = x + y;
    [sum.clone(), rms_norm(sum, weight, eps)]
}

/// [`NormAndRope`] of `x`, and transposition. The kernels of a GPU have no other norm than LayerNorm.
///
/// # Shapes
/// `x` `[batch, seq, heads, head_dim]`; returns `[batch, heads, seq, head_dim]`.
pub(crate) fn head_norm_rope(x: Tensor<4>, with: NormAndRope) -> Tensor<4> {
    match kernels!(head_norm_rope on &x) {
        #[cfg(feature = "cpu")]
        Kernels::Cpu => fused::head_norm_rope(x, with),
        #[cfg(feature = "gpu")]
        Kernels::Gpu if gpu::takes_norm(&with) => fused::head_norm_rope(x, with),
        _ => composed::head_norm_rope(x, with),
    }
}

/// `silu(gate) * up`.
///
/// # Shapes
/// Both `[batch, seq, intermediate]`, as the result.
pub(crate) fn swiglu(gate: Tensor<3>, up: Tensor<3>) -> Tensor<3> {
    match kernels!(swiglu on &gate) {
        Kernels::Composed => composed::swiglu(gate, up),
        #[cfg(any(feature = "cpu", feature = "gpu"))]
        _ => fused::swiglu(gate, up),
    }
}

/// The gradient of `sum_i -weights[i] * log_prob_i + z / 2 * log_sum_exp_i^2` with respect to the logits, and
/// the statistics of every row; outside autodiff. The weights may have either sign.
///
/// For row `i` with target `y`: `weights[i] * (p_j - [j = y]) + z * log_sum_exp_i * p_j`.
///
/// # Shapes
/// `logits` `[len, vocab]`, `targets`, in i32, and `weights` `[len]`; the gradient is `[len, vocab]`, the statistics
/// are those of [`token_stats`].
pub(crate) fn cross_entropy(
    logits: Tensor<2>,
    targets: Tensor<1, Int>,
    weights: Tensor<1>,
    z: f32,
) -> (Tensor<2>, Tensor<2>) {
    match kernels!(cross_entropy on &logits) {
        #[cfg(feature = "cpu")]
        Kernels::Cpu => cpu::cross_entropy(logits, targets, weights, z),
        #[cfg(feature = "gpu")]
        Kernels::Gpu => gpu::cross_entropy(logits, targets, weights, z),
        Kernels::Composed => composed::cross_entropy(logits, targets, weights, z),
    }
}

/// The statistics of every row of logits, outside autodiff: the fields of `kernels::TokenStats` in their order, which
/// [`fetch_stats`] reads.
///
/// # Shapes
/// `logits` `[len, vocab]`, `targets`, in i32, `[len]`; returns `[len, 4]`.
pub(crate) fn token_stats(logits: Tensor<2>, targets: Tensor<1, Int>) -> Tensor<2> {
    match kernels!(token_stats on &logits) {
        #[cfg(feature = "cpu")]
        Kernels::Cpu => cpu::token_stats(logits, targets),
        #[cfg(feature = "gpu")]
        Kernels::Gpu => gpu::token_stats(logits, targets),
        Kernels::Composed => composed::token_stats(logits, targets),
    }
}

/// Whether [`draw`] takes logits of `x`'s format on its device.
pub(crate) fn can_draw(x: &Tensor<2>) -> bool {
    match kernels!(draw on x) {
        #[cfg(feature = "gpu")]
        Kernels::Gpu => true,
        _ => false,
    }
}

/// Ids drawn from rows of logits on a GPU, outside autodiff; [`fetch`] reads them.
///
/// # Shapes
/// `logits` `[rows, columns]`; returns `[places]`.
///
/// # Panics
/// If [`can_draw`] is false.
pub(crate) fn draw(logits: Tensor<2>, draws: &Draws) -> Tensor<1, Int> {
    match kernels!(draw on &logits) {
        #[cfg(feature = "gpu")]
        Kernels::Gpu => gpu::draw(logits, draws),
        _ => panic!("{} draws without kernels for them", draws.places.len()),
    }
}

/// The sum of the squares of all elements of `tensors`, outside autodiff.
///
/// # Shapes
/// Any number of flat tensors; returns `[1]`, or `None` without a tensor.
pub(crate) fn sum_of_squares(tensors: Vec<Tensor<1>>) -> Option<Tensor<1>> {
    let first = tensors.first()?;
    #[cfg(feature = "gpu")]
    if kernels!(sum_of_squares on first) == Kernels::Gpu
        && tensors.iter().all(|x| gpu::takes(x) && x.dtype() == first.dtype())
    {
        return Some(gpu::sum_of_squares(tensors));
    }
    #[cfg(not(feature = "gpu"))]
    let _ = kernels!(sum_of_squares on first);
    Some(composed::sum_of_squares(tensors))
}

/// `weight` and its two moments after one update, outside autodiff.
///
/// # Shapes
/// Moments and gradient are flat, in the order of the weight's elements.
pub(crate) fn adamw<const D: usize>(
    update: AdamW,
    weight: Tensor<D>,
    moments: [Tensor<1>; 2],
    gradient: Tensor<1>,
) -> (Tensor<D>, [Tensor<1>; 2]) {
    match kernels!(adamw on &weight, &gradient, &moments[0]) {
        #[cfg(feature = "cpu")]
        Kernels::Cpu => cpu::adamw(update, weight, moments, gradient),
        #[cfg(feature = "gpu")]
        Kernels::Gpu => gpu::adamw(update, weight, moments, gradient),
        Kernels::Composed => composed::adamw(update, weight, moments, gradient),
    }
}

/// `weight` and its momentum after one update, outside autodiff.
///
/// # Shapes
/// `weight` `[rows, columns]`; momentum and gradient are flat, in the order of its elements.
pub(crate) fn muon<const D: usize>(
    update: Muon,
    weight: Tensor<D>,
    momentum: Tensor<1>,
    gradient: Tensor<1>,
) -> (Tensor<D>, Tensor<1>) {
    match kernels!(muon on &weight, &gradient, &momentum) {
        #[cfg(feature = "gpu")]
        Kernels::Gpu => gpu::muon(update, weight, momentum, gradient),
        _ => muon::composed(update, weight, momentum, gradient),
    }
}

/// The number format to compute in with weights stored as `weight`: its own, but f32 on the CPU for
/// bfloat16, which is widened as it is read.
pub(crate) fn compute_dtype(weight: &Tensor<2>) -> DType {
    #[cfg(feature = "cpu")]
    if cpu::widens(weight) {
        return DType::F32;
    }
    weight.dtype()
}

#[cfg(all(test, feature = "gpu"))]
use gpu::in_chunks;

/// Runs `work`; there are no products to force without a GPU.
#[cfg(all(test, not(feature = "gpu")))]
fn in_chunks(_chunk: usize, work: impl FnOnce()) -> usize {
    work();
    0
}
