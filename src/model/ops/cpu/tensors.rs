//! The kernels as functions on tensors, and which tensors they take.

use std::sync::Arc;

use burn::backend::{Dispatch, DispatchDevice};
use burn::tensor::{DType, Tensor, TensorData};

use super::backend::{FusedOps, ProductOps};
use kernels::adamw::AdamW;
use kernels::memory::unspecified;
use kernels::paged::{self, Lane};
use kernels::{Spans, TokenStats};

/// Whether the kernels take `x`: f32 on the CPU backend, with or without autodiff.
pub(crate) fn takes<const D: usize>(x: &Tensor<D>) -> bool {
    x.dtype() == DType::F32 && matches!(x.device().inner().as_dispatch(), DispatchDevice::Flex(_))
}

/// Whether [`linear`] takes `weight`: as [`takes`], and bfloat16 outside autodiff.
pub(crate) fn takes_weight(weight: &Tensor<2>) -> bool {
    takes(weight) || widens(weight)
}

/// Whether `x` is stored in bfloat16 and computed with in f32: on the CPU, which has no arithmetic for
/// bfloat16, outside autodiff.
pub(crate) fn widens<const D: usize>(x: &Tensor<D>) -> bool {
    x.dtype() == DType::BF16 && matches!(x.device().as_dispatch(), DispatchDevice::Flex(_))
}

/// Any layout whose last axis is contiguous is read in place.
pub(crate) fn attention(q: Tensor<4>, k: Tensor<4>, v: Tensor<4>, spans: Arc<Spans>) -> Tensor<4> {
    let [q, k, v] = [q, k, v].map(Tensor::into_dispatch);
    Tensor::from_dispatch(Dispatch::fused_attention(q, k, v, spans))
}

/// In place if the cache shares its memory with no other tensor.
pub(crate) fn paged_attention(
    [q, k, v]: [Tensor<4>; 3],
    cache: [Tensor<4>; 2],
    lanes: &[Lane<'_>],
) -> (Tensor<3>, [Tensor<4>; 2]) {
    let device = q.device();
    let [_, heads, len, head_dim] = q.dims();
    let kv_heads = k.dims()[1];
    let [mut q, mut k, mut v] = [q, k, v].map(Tensor::into_data);
    let [mut keys, mut values] = cache.map(Tensor::into_data);
    let [q, k, v] = [&mut q, &mut k, &mut v].map(|data| &*floats(data));
    let rows = paged::Rows { q, k, v, lanes, heads, kv_heads, head_dim };
    paged::write(&rows, floats(&mut keys), floats(&mut values));
    let mut y = unspecified(len * heads * head_dim);
    paged::forward(&rows, floats(&mut keys), floats(&mut values), &mut y);
    let y = TensorData::new(y, [1, len, heads * head_dim]);
    (Tensor::from_data(y, &device), [keys, values].map(|data| Tensor::from_data(data, &device)))
}

/// The weight's gradient has the layout of the weight.
pub(crate) fn linear(x: Tensor<2>, weight: Tensor<2>) -> Tensor<2> {
    Tensor::from_dispatch(Dispatch::fused_linear(x.into_dispatch(), weight.into_dispatch()))
}

pub(crate) fn matmul(lhs: Tensor<2>, rhs: Tensor<2>) -> Tensor<2> {
    Tensor::from_dispatch(Dispatch::product(lhs.into_dispatch(), rhs.into_dispatch()))
}

/// In place if `sum` shares its memory with no other tensor.
pub(crate) fn add_matmul(sum: Tensor<2>, lhs: Tensor<2>, rhs: Tensor<2>) -> Tensor<2> {
    let [sum, lhs, rhs] = [sum, lhs, rhs].map(Tensor::into_dispatch);
    Tensor::from_dispatch(Dispatch::add_product(sum, lhs, rhs))
}

pub(crate) fn rms_norm(x: Tensor<3>, weight: Tensor<1>, eps: f64) -> Tensor<3> {
    let (x, weight) = (x.into_dispatch(), widened(weight).into_dispatch());
    Tensor::from_dispatch(Dispatch::fused_rms_norm(x, weight, eps as f32))
}

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

pub(crate) fn swiglu(gate: Tensor<3>, up: Tensor<3>) -> Tensor<3> {
    Tensor::from_dispatch(Dispatch::fused_swiglu(gate.into_dispatch(), up.into_dispatch()))
}

/// In place if `logits` share their memory with no other tensor.
pub(crate) fn cross_entropy(
    logits: Tensor<2>,
    targets: &[i32],
    weights: &[f32],
    z: f32,
) -> (Tensor<2>, Vec<TokenStats>) {
    let device = logits.device();
    let mut logits = logits.into_data();
    let stats = kernels::cross_entropy::backward(floats(&mut logits), targets, weights, z);
    (Tensor::from_data(logits, &device), stats)
}

pub(crate) fn token_stats(logits: Tensor<2>, targets: &[i32]) -> Vec<TokenStats> {
    let mut logits = logits.into_data();
    kernels::cross_entropy::forward(floats(&mut logits), targets)
}

/// In place if weight and moments share their memory with no other tensor.
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
    kernels::adamw::update(update, floats(&mut weight), moments, floats(&mut gradient));
    let moments = [first, second].map(|moment| Tensor::from_data(moment, &device));
    (Tensor::from_data(weight, &device), moments)
}

/// `weight` in f32.
fn widened<const D: usize>(weight: Tensor<D>) -> Tensor<D> {
    if widens(&weight) { weight.cast(DType::F32) } else { weight }
}

fn floats(data: &mut TensorData) -> &mut [f32] {
    data.as_mut_slice().expect("the choice of kernels checks for f32")
}
