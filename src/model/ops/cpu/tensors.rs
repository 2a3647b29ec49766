//! The kernels as functions on tensors, and which tensors they take.

use burn::backend::{Dispatch, DispatchDevice};
use burn::tensor::{DType, Device, Int, Tensor, TensorData};

use super::backend::ProductOps;
use kernels::TokenStats;
use kernels::adamw::AdamW;
use kernels::memory::unspecified;
use kernels::paged::{self, Lane, latent};

/// Whether the kernels take `x`: f32 on the CPU backend, with or without autodiff.
pub(crate) fn takes<const D: usize>(x: &Tensor<D>) -> bool {
    x.dtype() == DType::F32 && matches!(x.device().inner().as_dispatch(), DispatchDevice::Flex(_))
}

/// Whether the linear operations take `weight`: as [`takes`], and bfloat16 outside autodiff.
pub(crate) fn takes_weight<const D: usize>(weight: &Tensor<D>) -> bool {
    takes(weight) || widens(weight)
}

/// Whether `x` is stored in bfloat16 and computed with in f32: on the CPU, which has no arithmetic for
/// bfloat16, outside autodiff.
pub(crate) fn widens<const D: usize>(x: &Tensor<D>) -> bool {
    x.dtype() == DType::BF16 && matches!(x.device().as_dispatch(), DispatchDevice::Flex(_))
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

/// In place if the cache shares its memory with no other tensor.
pub(crate) fn latent_attention(
    q: [Tensor<3>; 2],
    new: [Tensor<2>; 2],
    cache: [Tensor<4>; 2],
    lanes: &[Lane<'_>],
) -> (Tensor<3>, [Tensor<4>; 2]) {
    let device = q[0].device();
    let [len, heads, _] = q[0].dims();
    let widths = new.each_ref().map(|new| new.dims()[1]);
    let (mut q, mut new) = (q.map(Tensor::into_data), new.map(Tensor::into_data));
    let mut cache = cache.map(Tensor::into_data);
    let [q, new] = [&mut q, &mut new].map(|pair| pair.each_mut().map(|data| &*floats(data)));
    let rows = latent::Rows { q, new, lanes, heads, widths };
    latent::write(&rows, cache.each_mut().map(floats));
    let mut y = unspecified(len * heads * widths[0]);
    latent::forward(&rows, cache.each_mut().map(|data| &*floats(data)), &mut y);
    let y = TensorData::new(y, [1, len, heads * widths[0]]);
    (Tensor::from_data(y, &device), cache.map(|data| Tensor::from_data(data, &device)))
}

pub(crate) fn matmul(lhs: Tensor<2>, rhs: Tensor<2>) -> Tensor<2> {
    Tensor::from_dispatch(Dispatch::product(lhs.into_dispatch(), rhs.into_dispatch()))
}

/// In place if `sum` shares its memory with no other tensor.
pub(crate) fn add_matmul(sum: Tensor<2>, lhs: Tensor<2>, rhs: Tensor<2>) -> Tensor<2> {
    let [sum, lhs, rhs] = [sum, lhs, rhs].map(Tensor::into_dispatch);
    Tensor::from_dispatch(Dispatch::add_product(sum, lhs, rhs))
}

/// In place if `logits` share their memory with no other tensor.
pub(crate) fn cross_entropy(
    logits: Tensor<2>,
    targets: Tensor<1, Int>,
    weights: Tensor<1>,
    z: f32,
) -> (Tensor<2>, Tensor<2>) {
    let device = logits.device();
    let (mut logits, mut weights) = (logits.into_data(), weights.into_data());
    let (targets, weights) = (integers(targets), floats(&mut weights));
    let stats = kernels::cross_entropy::backward(floats(&mut logits), &targets, weights, z);
    (Tensor::from_data(logits, &device), rows(stats, &device))
}

pub(crate) fn token_stats(logits: Tensor<2>, targets: Tensor<1, Int>) -> Tensor<2> {
    let device = logits.device();
    let mut logits = logits.into_data();
    rows(kernels::cross_entropy::forward(floats(&mut logits), &integers(targets)), &device)
}

/// `[len, 4]`.
fn rows(stats: Vec<TokenStats>, device: &Device) -> Tensor<2> {
    let len = stats.len();
    let row = |TokenStats { log_prob, log_sum_exp, entropy, is_top }| {
        [log_prob, log_sum_exp, entropy, f32::from(is_top)]
    };
    let values: Vec<f32> = stats.into_iter().flat_map(row).collect();
    Tensor::from_data(TensorData::new(values, [len, 4]), device)
}

fn integers(tensor: Tensor<1, Int>) -> Vec<i32> {
    tensor.into_data().iter().collect()
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

fn floats(data: &mut TensorData) -> &mut [f32] {
    data.as_mut_slice().expect("the choice of kernels checks for f32")
}
