//! The operations that a device can have kernels for; each chooses its kernels here and nowhere
//! else.
//!
//! Every operation is one function, which runs the first kernels that take its tensors and otherwise the
//! stock operations in [`composed`]. There are kernels for f32 on the CPU in [`cpu`]. Kernels of a GPU
//! belong in `gpu/`: a variant of [`Kernels`], a test in [`kernels`] and an arm in the operations that
//! have one; no caller changes.

mod composed;
#[cfg(feature = "cpu")]
mod cpu;
mod paged;
#[cfg(all(test, feature = "cpu"))]
mod tests;

use burn::tensor::{DType, Tensor};

use kernels::adamw::AdamW;

use super::{Mask, TokenStats};
pub(crate) use paged::Lanes;

/// The implementation that an operation runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kernels {
    /// Stock operations of Burn, on any device.
    Composed,
    /// Fused operations on the CPU.
    #[cfg(feature = "cpu")]
    Cpu,
}

/// `kernels!(operation if condition)`: the kernels that `operation` runs, those of the CPU if the
/// condition holds for its tensors.
macro_rules! kernels {
    ($operation:ident if $cpu:expr) => {{
        #[cfg(feature = "cpu")]
        let kernels = if $cpu { Kernels::Cpu } else { Kernels::Composed };
        #[cfg(not(feature = "cpu"))]
        let kernels = Kernels::Composed;
        #[cfg(test)]
        let kernels = forced::instead_of(kernels, stringify!($operation));
        kernels
    }};
}

/// `softmax(q k^T) v` over the visible keys, the softmax in f32; `q` is scaled already.
///
/// # Shapes
/// `q` `[batch, heads, seq, head_dim]`, `k` and `v` `[batch, kv_heads, seq, head_dim]`, each of their
/// heads for `heads / kv_heads` query heads; returns the shape of `q`.
pub(crate) fn attention(q: Tensor<4>, k: Tensor<4>, v: Tensor<4>, mask: &Mask) -> Tensor<4> {
    match kernels!(attention if cpu::takes(&q)) {
        #[cfg(feature = "cpu")]
        Kernels::Cpu => cpu::attention(q, k, v, mask.spans.clone()),
        Kernels::Composed => composed::attention(q, k, v, mask),
    }
}

/// [`attention`] of the new tokens of several lanes over their keys and values in a paged cache, to which those of
/// the new tokens are written first; outside autodiff. A token sees its lane's tokens up to itself. The buffers
/// are written in place if they share their memory with no other tensor.
///
/// On the CPU a row's result does not depend on the other rows and lanes of the pass.
///
/// # Shapes
/// `q` `[1, heads, rows, head_dim]`, `k` `[1, kv_heads, rows, head_dim]`, `v` `[1, rows, kv_heads, head_dim]`; keys
/// in the cache `[blocks, kv_heads, head_dim, BLOCK]`, values `[blocks, kv_heads, BLOCK, head_dim]`. Returns
/// `[1, rows, heads * head_dim]` and the cache.
pub(crate) fn paged_attention(
    qkv: [Tensor<4>; 3],
    cache: [Tensor<4>; 2],
    lanes: &Lanes<'_>,
) -> (Tensor<3>, [Tensor<4>; 2]) {
    match kernels!(paged_attention if cpu::takes(&qkv[0]) && cpu::takes(&cache[0])) {
        #[cfg(feature = "cpu")]
        Kernels::Cpu => cpu::paged_attention(qkv, cache, lanes.lanes),
        Kernels::Composed => paged::attention(qkv, cache, lanes),
    }
}

/// `x weight^T`; a weight in another number format is converted to that of `x`.
///
/// # Shapes
/// `x` `[rows, in]`, `weight` `[out, in]`; returns `[rows, out]`.
pub(crate) fn linear(x: Tensor<2>, weight: Tensor<2>) -> Tensor<2> {
    match kernels!(linear if cpu::takes(&x) && cpu::takes_weight(&weight)) {
        #[cfg(feature = "cpu")]
        Kernels::Cpu => cpu::linear(x, weight),
        Kernels::Composed => composed::linear(x, weight),
    }
}

/// `lhs rhs` outside autodiff.
///
/// # Shapes
/// `[m, k]` and `[k, n]` to `[m, n]`.
pub(crate) fn matmul(lhs: Tensor<2>, rhs: Tensor<2>) -> Tensor<2> {
    match kernels!(matmul if cpu::takes(&lhs)) {
        #[cfg(feature = "cpu")]
        Kernels::Cpu => cpu::matmul(lhs, rhs),
        Kernels::Composed => composed::matmul(lhs, rhs),
    }
}

/// `sum + lhs rhs` outside autodiff.
///
/// # Shapes
/// `sum` `[m, n]`, `lhs` `[m, k]`, `rhs` `[k, n]`; returns `[m, n]`.
pub(crate) fn add_matmul(sum: Tensor<2>, lhs: Tensor<2>, rhs: Tensor<2>) -> Tensor<2> {
    match kernels!(add_matmul if cpu::takes(&sum)) {
        #[cfg(feature = "cpu")]
        Kernels::Cpu => cpu::add_matmul(sum, lhs, rhs),
        Kernels::Composed => composed::add_matmul(sum, lhs, rhs),
    }
}

/// `x / sqrt(mean(x^2) + eps) * weight` over the last axis, the mean in f32.
///
/// # Shapes
/// `x` `[batch, seq, hidden]`, `weight` `[hidden]`; returns the shape of `x`.
pub(crate) fn rms_norm(x: Tensor<3>, weight: Tensor<1>, eps: f64) -> Tensor<3> {
    match kernels!(rms_norm if cpu::takes(&x)) {
        #[cfg(feature = "cpu")]
        Kernels::Cpu => cpu::rms_norm(x, weight, eps),
        Kernels::Composed => composed::rms_norm(x, weight, eps),
    }
}

/// LayerNorm per head with the statistics in f32, rotary embedding, multiplication by `scale`, and
/// transposition.
///
/// # Shapes
/// `x` `[batch, seq, heads, head_dim]`, weight and bias `[heads, head_dim]`, cosines and sines
/// `[batch, seq, 1, head_dim / 2]`; returns `[batch, heads, seq, head_dim]`.
pub(crate) fn head_norm_rope(
    x: Tensor<4>,
    weight_and_bias: [Tensor<2>; 2],
    cos_and_sin: [Tensor<4>; 2],
    scale: f64,
    eps: f64,
) -> Tensor<4> {
    match kernels!(head_norm_rope if cpu::takes(&x)) {
        #[cfg(feature = "cpu")]
        Kernels::Cpu => cpu::head_norm_rope(x, weight_and_bias, cos_and_sin, scale, eps),
        Kernels::Composed => composed::head_norm_rope(x, weight_and_bias, cos_and_sin, scale, eps),
    }
}

/// `silu(gate) * up`.
///
/// # Shapes
/// Both `[batch, seq, intermediate]`, as the result.
pub(crate) fn swiglu(gate: Tensor<3>, up: Tensor<3>) -> Tensor<3> {
    match kernels!(swiglu if cpu::takes(&gate)) {
        #[cfg(feature = "cpu")]
        Kernels::Cpu => cpu::swiglu(gate, up),
        Kernels::Composed => composed::swiglu(gate, up),
    }
}

/// The gradient of `sum_i -weights[i] * log_prob_i + z / 2 * log_sum_exp_i^2` with respect to the logits, and
/// the statistics of every row; outside autodiff. The weights may have either sign.
///
/// For row `i` with target `y`: `weights[i] * (p_j - [j = y]) + z * log_sum_exp_i * p_j`.
///
/// # Shapes
/// `logits` `[len, vocab]`, `targets` and `weights` `[len]`; the gradient is `[len, vocab]`.
pub(crate) fn cross_entropy(
    logits: Tensor<2>,
    targets: &[i32],
    weights: &[f32],
    z: f32,
) -> (Tensor<2>, Vec<TokenStats>) {
    match kernels!(cross_entropy if cpu::takes(&logits)) {
        #[cfg(feature = "cpu")]
        Kernels::Cpu => cpu::cross_entropy(logits, targets, weights, z),
        Kernels::Composed => composed::cross_entropy(logits, targets, weights, z),
    }
}

/// The statistics of every row of logits, outside autodiff.
///
/// # Shapes
/// `logits` `[len, vocab]`, `targets` `[len]`.
pub(crate) fn token_stats(logits: Tensor<2>, targets: &[i32]) -> Vec<TokenStats> {
    match kernels!(token_stats if cpu::takes(&logits)) {
        #[cfg(feature = "cpu")]
        Kernels::Cpu => cpu::token_stats(logits, targets),
        Kernels::Composed => composed::token_stats(logits, targets),
    }
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
    let kernels = kernels!(adamw if cpu::takes(&weight)
        && cpu::takes(&gradient)
        && cpu::takes(&moments[0]));
    match kernels {
        #[cfg(feature = "cpu")]
        Kernels::Cpu => cpu::adamw(update, weight, moments, gradient),
        Kernels::Composed => composed::adamw(update, weight, moments, gradient),
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

/// Forces the choice of kernels, for tests that compare both sides.
#[cfg(test)]
pub(crate) mod forced {
    use std::cell::{Cell, RefCell};
    use std::collections::BTreeMap;

    use super::Kernels;

    thread_local! {
        static FORCED: Cell<Option<Kernels>> = const { Cell::new(None) };
        static RUNS: RefCell<BTreeMap<&'static str, usize>> = const { RefCell::new(BTreeMap::new()) };
    }

    /// Runs `work` with all its operations, as far as they are called on this thread, on `kernels`;
    /// returns its result and how often each operation ran.
    ///
    /// # Panics
    /// If an operation is called on tensors that `kernels` do not take.
    pub(crate) fn on<T>(
        kernels: Kernels,
        work: impl FnOnce() -> T,
    ) -> (T, BTreeMap<&'static str, usize>) {
        struct Reset;
        impl Drop for Reset {
            fn drop(&mut self) {
                FORCED.set(None);
            }
        }
        let _reset = Reset;
        FORCED.set(Some(kernels));
        RUNS.take();
        let result = work();
        (result, RUNS.take())
    }

    /// The forced kernels if there are any, otherwise `chosen`.
    pub(super) fn instead_of(chosen: Kernels, operation: &'static str) -> Kernels {
        let Some(forced) = FORCED.get() else { return chosen };
        let possible = forced == Kernels::Composed || forced == chosen;
        assert!(possible, "{operation} is forced on {forced:?} but its tensors take {chosen:?}");
        RUNS.with_borrow_mut(|runs| *runs.entry(operation).or_default() += 1);
        forced
    }
}
