//! Every operation from stock operations of Burn: what all devices without kernels run, in any number
//! format, and the reference for the kernels.

use burn::tensor::{DType, IndexingUpdateOp, Int, Tensor, TensorData, activation};

use super::adamw::AdamW;
use crate::model::Mask;

/// The queries of a group follow each other along the sequence, so keys and values are not repeated.
pub(crate) fn attention(
    q: Tensor<4>,
    k: Tensor<4>,
    v: Tensor<4>,
    mask: Option<&Mask>,
) -> Tensor<4> {
    let [batch, heads, seq, head_dim] = q.dims();
    let [_, kv_heads, keys, _] = k.dims();
    let group = heads / kv_heads;
    let dtype = q.dtype();
    let q = q.reshape([batch, kv_heads, group * seq, head_dim]);
    let mut scores = q.matmul(k.swap_dims(2, 3)).cast(DType::F32); // [batch, kv_heads, group * seq, keys]
    if let Some(mask) = mask {
        let hidden = mask
            .tensor()
            .unsqueeze_dim::<5>(2)
            .expand([batch, kv_heads, group, seq, keys])
            .reshape([batch, kv_heads, group * seq, keys]);
        // Finite: a row of left padding hides everything and must not become NaN.
        scores = scores.mask_fill(hidden, f32::MIN / 2.0);
    }
    let weights = activation::softmax(scores, 3).cast(dtype);
    weights.matmul(v).reshape([batch, heads, seq, head_dim])
}

pub(crate) fn linear(x: Tensor<2>, weight: Tensor<2>) -> Tensor<2> {
    let weight = if weight.dtype() == x.dtype() { weight } else { weight.cast(x.dtype()) };
    x.matmul(weight.transpose())
}

pub(crate) fn matmul(lhs: Tensor<2>, rhs: Tensor<2>) -> Tensor<2> {
    lhs.matmul(rhs)
}

pub(crate) fn add_matmul(sum: Tensor<2>, lhs: Tensor<2>, rhs: Tensor<2>) -> Tensor<2> {
    sum + lhs.matmul(rhs)
}

/// The statistic in f32.
pub(crate) fn rms_norm(x: Tensor<3>, weight: Tensor<1>, eps: f64) -> Tensor<3> {
    let dtype = x.dtype();
    let x = x.cast(DType::F32);
    let mean_square = (x.clone() * x.clone()).mean_dim(2); // [batch, seq, 1]
    let scale = (mean_square + eps).sqrt().recip();
    (x * scale).cast(dtype) * weight.cast(dtype).unsqueeze()
}

pub(crate) fn head_norm_rope(
    x: Tensor<4>,
    weights: [Tensor<2>; 2],
    tables: [Tensor<4>; 2],
    scale: f64,
    eps: f64,
) -> Tensor<4> {
    (rotate(head_norm(x, weights, eps), tables) * scale).swap_dims(1, 2)
}

/// LayerNorm per head, the statistics in f32.
fn head_norm(x: Tensor<4>, [weight, bias]: [Tensor<2>; 2], eps: f64) -> Tensor<4> {
    let dtype = x.dtype();
    let x = x.cast(DType::F32);
    let centred = x.clone() - x.mean_dim(3);
    let variance = (centred.clone() * centred.clone()).mean_dim(3); // [batch, seq, heads, 1]
    let normal = (centred * (variance + eps).sqrt().recip()).cast(dtype);
    normal * weight.cast(dtype).unsqueeze() + bias.cast(dtype).unsqueeze()
}

/// Rotates the pair `(x[i], x[i + head_dim / 2])` by angle `i`.
fn rotate(x: Tensor<4>, [cos, sin]: [Tensor<4>; 2]) -> Tensor<4> {
    let half = x.dims()[3] / 2;
    let first = x.clone().narrow(3, 0, half);
    let second = x.narrow(3, half, half);
    let rotated_first = first.clone() * cos.clone() - second.clone() * sin.clone();
    Tensor::cat(vec![rotated_first, second * cos + first * sin], 3) // [batch, seq, heads, head_dim]
}

pub(crate) fn swiglu(gate: Tensor<3>, up: Tensor<3>) -> Tensor<3> {
    activation::silu(gate) * up
}

pub(crate) fn cross_entropy(
    logits: Tensor<2>,
    targets: &[i32],
    weights: &[f32],
    z: f32,
) -> (Tensor<2>, Vec<(f32, f32)>) {
    let (device, len) = (logits.device(), targets.len());
    let targets = Tensor::<2, Int>::from_data(TensorData::new(targets.to_vec(), [len, 1]), &device);
    let largest = logits.clone().max_dim(1); // [len, 1]
    let exp = (logits.clone() - largest.clone()).exp();
    let sum = exp.clone().sum_dim(1); // [len, 1]
    let lse = largest + sum.clone().log(); // [len, 1]
    let nll = (lse.clone() - logits.gather(1, targets.clone())).into_data();
    let losses: Vec<(f32, f32)> = nll.iter().zip(lse.into_data().iter()).collect();
    let on_all = weights.iter().zip(&losses).map(|(w, (_, lse))| w + z * lse).collect();
    let on_target = weights.iter().map(|w| -w).collect();
    let column = |values: Vec<f32>| Tensor::from_data(TensorData::new(values, [len, 1]), &device);
    let all = exp * (column(on_all) / sum);
    (all.scatter(1, targets, column(on_target), IndexingUpdateOp::Add), losses)
}

pub(crate) fn adamw<const D: usize>(
    AdamW { betas: [beta1, beta2], eps, gradient_scale, corrections, lr, decay }: AdamW,
    weight: Tensor<D>,
    [first, second]: [Tensor<1>; 2],
    gradient: Tensor<1>,
) -> (Tensor<D>, [Tensor<1>; 2]) {
    let shape = weight.dims();
    let gradient = if gradient_scale == 1.0 { gradient } else { gradient * gradient_scale };
    let first = first * beta1 + gradient.clone() * (1.0 - beta1);
    let second = second * beta2 + gradient.clone() * gradient * (1.0 - beta2);
    let root = (second.clone() / corrections[1]).sqrt() + eps;
    let update = first.clone() / root * (lr / corrections[0]);
    let weight = if decay > 0.0 { weight * (1.0 - lr * decay) } else { weight };
    (weight - update.reshape(shape), [first, second])
}
