//! Fused operations of the transformer for f32 on the CPU, each with a hand-written gradient, and two
//! of its training.
//!
//! The stock composition in the modules next door stays the reference and serves every other
//! backend and number format; [`applies`] tells which of the two a tensor takes. The results do not
//! depend on the number of threads: sums across tasks are taken in a fixed order.

mod adamw;
mod attention;
mod backend;
mod cross_entropy;
mod gradient;
mod linear;
mod math;
mod norm;
mod product;
mod rope;
mod simd;
mod swiglu;
#[cfg(test)]
mod tests;
#[cfg(target_arch = "x86_64")]
mod tile;

use std::sync::Arc;

use burn::backend::{Dispatch, DispatchDevice};
use burn::tensor::{DType, Tensor, TensorData};

pub(crate) use self::adamw::AdamW;
use self::backend::{FusedOps, ProductOps};
use super::TokenStats;
use super::spans::Spans;

/// Whether the fused operations take `x`: f32 on the CPU backend, on or off the tape.
pub(crate) fn applies<const D: usize>(x: &Tensor<D>) -> bool {
    x.dtype() == DType::F32 && matches!(x.device().inner().as_dispatch(), DispatchDevice::Flex(_))
}

/// Whether [`linear`] takes `weight`: as [`applies`], and in bfloat16 off the tape.
pub(crate) fn applies_to_weight(weight: &Tensor<2>) -> bool {
    applies(weight) || widens(weight)
}

/// Whether `x` is computed with in f32 although it is stored in bfloat16: on the CPU, which has no
/// arithmetic for less, off the tape.
pub(crate) fn widens<const D: usize>(x: &Tensor<D>) -> bool {
    x.dtype() == DType::BF16 && matches!(x.device().as_dispatch(), DispatchDevice::Flex(_))
}

/// `softmax(q k^T) v` over the keys that `spans` shows; `None` shows all.
///
/// `q` `[batch, heads, seq, head_dim]` carries the scale; `k` and `v` are
/// `[batch, kv_heads, keys, head_dim]`, each head for `heads / kv_heads` query heads. Any layout whose
/// last axis is contiguous is read where it lies. A query that sees nothing gives zeros.
pub(crate) fn attention(
    q: Tensor<4>,
    k: Tensor<4>,
    v: Tensor<4>,
    spans: Option<Arc<Spans>>,
) -> Tensor<4> {
    let [q, k, v] = [q, k, v].map(Tensor::into_dispatch);
    Tensor::from_dispatch(Dispatch::fused_attention(q, k, v, spans))
}

/// `x weight^T` for `x` `[rows, in]` and `weight` `[out, in]`, which may be in bfloat16; the weight's
/// gradient comes out in the layout of the weight.
pub(crate) fn linear(x: Tensor<2>, weight: Tensor<2>) -> Tensor<2> {
    Tensor::from_dispatch(Dispatch::fused_linear(x.into_dispatch(), weight.into_dispatch()))
}

/// `lhs rhs` outside autodiff.
pub(crate) fn matmul(lhs: Tensor<2>, rhs: Tensor<2>) -> Tensor<2> {
    Tensor::from_dispatch(Dispatch::product(lhs.into_dispatch(), rhs.into_dispatch()))
}

/// `sum + lhs rhs` outside autodiff, in place when `sum` shares its memory with no other tensor.
pub(crate) fn add_matmul(sum: Tensor<2>, lhs: Tensor<2>, rhs: Tensor<2>) -> Tensor<2> {
    let [sum, lhs, rhs] = [sum, lhs, rhs].map(Tensor::into_dispatch);
    Tensor::from_dispatch(Dispatch::add_product(sum, lhs, rhs))
}

/// `x / sqrt(mean(x^2) + eps) * weight` over the last axis.
pub(crate) fn rms_norm(x: Tensor<3>, weight: Tensor<1>, eps: f64) -> Tensor<3> {
    let (x, weight) = (x.into_dispatch(), widened(weight).into_dispatch());
    Tensor::from_dispatch(Dispatch::fused_rms_norm(x, weight, eps as f32))
}

/// LayerNorm of every head of `x` `[batch, seq, heads, head_dim]` with `weight` and `bias`
/// `[heads, head_dim]`, rotation by the angles in `cos` and `sin` `[batch, seq, 1, head_dim / 2]`, and
/// multiplication by `scale`; `[batch, heads, seq, head_dim]`.
pub(crate) fn head_norm_rope(
    x: Tensor<4>,
    [weight, bias]: [Tensor<2>; 2],
    [cos, sin]: [Tensor<4>; 2],
    scale: f64,
    eps: f64,
) -> Tensor<4> {
    let [weight, bias] = [weight, bias].map(|rows| widened(rows).into_dispatch());
    let [cos, sin] = [cos, sin].map(Tensor::into_dispatch);
    let factors = [scale as f32, eps as f32];
    let x = x.into_dispatch();
    Tensor::from_dispatch(Dispatch::fused_head_norm_rope(x, weight, bias, cos, sin, factors))
}

/// `silu(gate) * up`.
pub(crate) fn swiglu(gate: Tensor<3>, up: Tensor<3>) -> Tensor<3> {
    Tensor::from_dispatch(Dispatch::fused_swiglu(gate.into_dispatch(), up.into_dispatch()))
}

/// Gradient and statistics of `logits` `[len, vocab]` outside autodiff: see [`cross_entropy::backward`].
pub(crate) fn cross_entropy(
    logits: Tensor<2>,
    targets: &[i32],
    weights: &[f32],
    z: f32,
) -> (Tensor<2>, Vec<TokenStats>) {
    let device = logits.device();
    let mut logits = logits.into_data();
    let stats = cross_entropy::backward(floats(&mut logits), targets, weights, z);
    (Tensor::from_data(logits, &device), stats)
}

/// Statistics of `logits` `[len, vocab]` outside autodiff.
pub(crate) fn token_stats(logits: Tensor<2>, targets: &[i32]) -> Vec<TokenStats> {
    let mut logits = logits.into_data();
    cross_entropy::forward(floats(&mut logits), targets)
}

/// One update of `weight` outside autodiff and of its two moments, in place when they share their
/// memory with no other tensor.
pub(crate) fn adamw<const D: usize>(
    update: AdamW,
    weight: Tensor<D>,
    moments: [Tensor<1>; 2],
    gradient: Tensor<1>,
) -> (Tensor<D>, [Tensor<1>; 2]) {
    let device = weight.device();
    let (mut weight, mut gradient) = (weight.into_data(), gradient.into_data());
    let [mut first, mut second] = moments.map(Tensor::into_data);
    let moments = [floats(&mut first), floats(&mut second)];
    update.update(floats(&mut weight), moments, floats(&mut gradient));
    let moments = [first, second].map(|moment| Tensor::from_data(moment, &device));
    (Tensor::from_data(weight, &device), moments)
}

/// `weight` in f32.
fn widened<const D: usize>(weight: Tensor<D>) -> Tensor<D> {
    if widens(&weight) { weight.cast(DType::F32) } else { weight }
}

fn floats(data: &mut TensorData) -> &mut [f32] {
    data.as_mut_slice().expect("`applies` has seen to f32")
}
