//! Every operation composed of stock Burn operations, in any number format: for devices without
//! kernels, and as the reference for the kernels.

use std::ops::Range;

use burn::tensor::{DType, IndexingUpdateOp, Int, Tensor, activation};

use kernels::adamw::AdamW;
use kernels::grouped::filled;

use super::{HeadNormOf, NormAndRope};
use crate::model::Mask;

/// The queries of a group follow each other along the sequence, so keys and values are not repeated.
pub(crate) fn attention(q: Tensor<4>, k: Tensor<4>, v: Tensor<4>, mask: &Mask) -> Tensor<4> {
    let ([batch, heads, seq, head_dim], [_, kv_heads, _, value_dim]) = (q.dims(), v.dims());
    let group = heads / kv_heads;
    let dtype = q.dtype();
    let q = q.reshape([batch, kv_heads, group * seq, head_dim]);
    let scores = q.matmul(k.swap_dims(2, 3)).cast(DType::F32); // [batch, kv_heads, group * seq, seq]
    let hidden = mask
        .tensor()
        .unsqueeze_dim::<5>(2)
        .expand([batch, kv_heads, group, seq, seq])
        .reshape([batch, kv_heads, group * seq, seq]);
    let scores = scores.mask_fill(hidden, f32::NEG_INFINITY);
    let weights = activation::softmax(scores, 3).cast(dtype);
    weights.matmul(v).reshape([batch, heads, seq, value_dim])
}

pub(crate) fn merge_heads(y: Tensor<4>) -> Tensor<3> {
    let [batch, heads, seq, width] = y.dims();
    y.swap_dims(1, 2).reshape([batch, seq, heads * width])
}

pub(crate) fn linear(x: Tensor<2>, weight: Tensor<2>) -> Tensor<2> {
    let weight = if weight.dtype() == x.dtype() { weight } else { weight.cast(x.dtype()) };
    x.matmul(weight.transpose())
}

pub(crate) fn grouped_linear(x: Tensor<2>, weights: Tensor<3>, counts: &[usize]) -> Tensor<2> {
    let products = filled(counts).map(|(group, rows)| {
        let weight = weights.clone().narrow(0, group, 1).squeeze_dim(0); // [out, in]
        linear(x.clone().narrow(0, rows.start, rows.len()), weight)
    });
    Tensor::cat(products.collect(), 0) // [rows, out]
}

pub(crate) fn low_rank(
    x: Tensor<3>,
    weight: Tensor<2>,
    [a, b]: [Tensor<2>; 2],
    scale: f64,
) -> Tensor<3> {
    let ([batch, seq, inputs], [outputs, _]) = (x.dims(), weight.dims());
    let x = x.reshape([batch * seq, inputs]);
    let low = linear(x.clone(), a) * scale;
    (linear(x, weight) + linear(low, b)).reshape([batch, seq, outputs])
}

pub(crate) fn rows(matrix: Tensor<2>, numbers: Tensor<1, Int>, dtype: DType) -> Tensor<2> {
    let rows = matrix.select(0, numbers);
    if rows.dtype() == dtype { rows } else { rows.cast(dtype) }
}

pub(crate) fn matmul(lhs: Tensor<2>, rhs: Tensor<2>) -> Tensor<2> {
    lhs.matmul(rhs)
}

pub(crate) fn add_matmul(sum: Tensor<2>, lhs: Tensor<2>, rhs: Tensor<2>) -> Tensor<2> {
    sum + lhs.matmul(rhs)
}

/// The statistic in f32.
pub(crate) fn rms_norm<const D: usize>(x: Tensor<D>, weight: Tensor<1>, eps: f64) -> Tensor<D> {
    let dtype = x.dtype();
    let x = x.cast(DType::F32);
    let mean_square = (x.clone() * x.clone()).mean_dim(D - 1); // [.., 1]
    let scale = (mean_square + eps).sqrt().recip();
    (x * scale).cast(dtype) * weight.cast(dtype).unsqueeze()
}

pub(crate) fn head_norm_rope(x: Tensor<4>, with: NormAndRope) -> Tensor<4> {
    let normal = match with.norm {
        HeadNormOf::LayerNorm { weight, bias } => head_norm(x, [weight, bias], with.eps),
        HeadNormOf::Rms { weight } => rms_norm(x, weight, with.eps),
        HeadNormOf::None => x,
    };
    (rotate(normal, with.cos_and_sin) * with.scale).swap_dims(1, 2)
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
    targets: Tensor<1, Int>,
    weights: Tensor<1>,
    z: f32,
) -> (Tensor<2>, Tensor<2>) {
    let Softmax { exp, sum, log_sum_exp, targets, stats } = Softmax::of(logits, targets);
    let weights = weights.unsqueeze_dim::<2>(1); // [len, 1]
    let on_all = weights.clone() + log_sum_exp * z; // [len, 1]
    let gradient = exp * (on_all / sum); // [len, vocab]
    let gradient = gradient.scatter(1, targets, weights.neg(), IndexingUpdateOp::Add);
    (gradient, stats)
}

pub(crate) fn token_stats(logits: Tensor<2>, targets: Tensor<1, Int>) -> Tensor<2> {
    Softmax::of(logits, targets).stats
}

pub(crate) fn sum_of_squares(tensors: Vec<Tensor<1>>) -> Tensor<1> {
    let squares = tensors.into_iter().map(|x| (x.clone() * x).sum());
    squares.reduce(|sum, more| sum + more).expect("at least one tensor")
}

/// The parts of a softmax over rows of logits.
struct Softmax {
    /// `exp(logits - max)`, `[len, vocab]`.
    exp: Tensor<2>,
    /// Its sums, `[len, 1]`.
    sum: Tensor<2>,
    /// `[len, 1]`.
    log_sum_exp: Tensor<2>,
    /// Targets, `[len, 1]`.
    targets: Tensor<2, Int>,
    /// See [`token_stats`](super::token_stats), `[len, 4]`.
    stats: Tensor<2>,
}

impl Softmax {
    fn of(logits: Tensor<2>, targets: Tensor<1, Int>) -> Self {
        let targets = targets.unsqueeze_dim::<2>(1); // [len, 1]
        let at_target = logits.clone().gather(1, targets.clone()); // [len, 1]
        let top = logits.clone().max_dim(1); // [len, 1]
        let shifted = logits - top.clone(); // [len, vocab]
        let exp = shifted.clone().exp();
        let sum = exp.clone().sum_dim(1); // [len, 1]
        let log_sum = sum.clone().log();
        let log_sum_exp = top.clone() + log_sum.clone();
        let entropy = log_sum - (exp.clone() * shifted).sum_dim(1) / sum.clone();
        let log_prob = at_target.clone() - log_sum_exp.clone();
        let is_top = at_target.greater_equal(top).float().cast(DType::F32);
        let stats = Tensor::cat(vec![log_prob, log_sum_exp.clone(), entropy, is_top], 1);
        Self { exp, sum, log_sum_exp, targets, stats }
    }
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

pub(super) fn head_product(x: Tensor<3>, weight: Tensor<3>, part: Range<usize>) -> Tensor<3> {
    let weight = weight.slice_dim(1, part).cast(x.dtype());
    x.swap_dims(0, 1).matmul(weight).swap_dims(0, 1)
}

pub(super) fn head_linear(x: Tensor<3>, weight: Tensor<3>, part: Range<usize>) -> Tensor<3> {
    let weight = weight.slice_dim(1, part).cast(x.dtype());
    x.swap_dims(0, 1).matmul(weight.swap_dims(1, 2)).swap_dims(0, 1)
}
