//! The operations on a chunk of logits, fused where the device has a kernel for them.

use burn::tensor::{IndexingUpdateOp, Int, Tensor, TensorData};

use crate::model::TokenStats;
#[cfg(feature = "cpu")]
use crate::model::ops;

/// The gradient of `sum_i weights[i] * -log_prob_i + z / 2 * log_sum_exp_i^2` with respect to `logits`, and
/// the statistics of every row; outside autodiff.
///
/// For row `i` with target `y`: `weights[i] * (p_j - [j = y]) + z * log_sum_exp_i * p_j`.
///
/// # Shapes
/// `logits` and the gradient `[len, vocab]`; `ids` and `weights` hold `len` values.
pub(super) fn cross_entropy(
    logits: Tensor<2>,
    ids: &[i32],
    weights: &[f32],
    z: f32,
) -> (Tensor<2>, Vec<TokenStats>) {
    #[cfg(feature = "cpu")]
    if ops::applies(&logits) {
        return ops::cross_entropy(logits, ids, weights, z);
    }
    cross_entropy_composed(logits, ids, weights, z)
}

/// The statistics of every row of `logits` `[len, vocab]`; outside autodiff.
pub(super) fn token_stats(logits: Tensor<2>, ids: &[i32]) -> Vec<TokenStats> {
    #[cfg(feature = "cpu")]
    if ops::applies(&logits) {
        return ops::token_stats(logits, ids);
    }
    token_stats_composed(logits, ids)
}

/// `lhs rhs` outside autodiff.
pub(super) fn matmul(lhs: Tensor<2>, rhs: Tensor<2>) -> Tensor<2> {
    #[cfg(feature = "cpu")]
    if ops::applies(&lhs) {
        return ops::matmul(lhs, rhs);
    }
    lhs.matmul(rhs)
}

/// `sum + lhs rhs` outside autodiff.
pub(super) fn add_matmul(sum: Tensor<2>, lhs: Tensor<2>, rhs: Tensor<2>) -> Tensor<2> {
    #[cfg(feature = "cpu")]
    if ops::applies(&sum) {
        return ops::add_matmul(sum, lhs, rhs);
    }
    sum + lhs.matmul(rhs)
}

pub(super) fn cross_entropy_composed(
    logits: Tensor<2>,
    ids: &[i32],
    weights: &[f32],
    z: f32,
) -> (Tensor<2>, Vec<TokenStats>) {
    let (device, len) = (logits.device(), ids.len());
    let Softmax { exp, sum, log_sum_exp, ids, stats } = Softmax::of(logits, ids);
    let weights = Tensor::<2>::from_data(TensorData::new(weights.to_vec(), [len, 1]), &device);
    let on_all = weights.clone() + log_sum_exp * z; // [len, 1]
    let gradient = exp * (on_all / sum); // [len, vocab]
    let gradient = gradient.scatter(1, ids, weights.neg(), IndexingUpdateOp::Add);
    (gradient, fetch(stats))
}

pub(super) fn token_stats_composed(logits: Tensor<2>, ids: &[i32]) -> Vec<TokenStats> {
    fetch(Softmax::of(logits, ids).stats)
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
    ids: Tensor<2, Int>,
    /// The fields of [`TokenStats`] in their order, `[len, 4]`.
    stats: Tensor<2>,
}

impl Softmax {
    fn of(logits: Tensor<2>, ids: &[i32]) -> Self {
        let ids = TensorData::new(ids.to_vec(), [ids.len(), 1]);
        let ids = Tensor::<2, Int>::from_data(ids, &logits.device());
        let at_target = logits.clone().gather(1, ids.clone()); // [len, 1]
        let top = logits.clone().max_dim(1); // [len, 1]
        let shifted = logits - top.clone(); // [len, vocab]
        let exp = shifted.clone().exp();
        let sum = exp.clone().sum_dim(1); // [len, 1]
        let log_sum = sum.clone().log();
        let log_sum_exp = top.clone() + log_sum.clone();
        let entropy = log_sum - (exp.clone() * shifted).sum_dim(1) / sum.clone();
        let log_prob = at_target.clone() - log_sum_exp.clone();
        let is_top = at_target.greater_equal(top).float();
        let stats = Tensor::cat(vec![log_prob, log_sum_exp.clone(), entropy, is_top], 1);
        Self { exp, sum, log_sum_exp, ids, stats }
    }
}

/// The rows of `stats` `[len, 4]` on the host.
fn fetch(stats: Tensor<2>) -> Vec<TokenStats> {
    let values: Vec<f32> = stats.into_data().iter().collect();
    let (rows, _) = values.as_chunks::<4>();
    let row = |&[log_prob, log_sum_exp, entropy, is_top]: &[f32; 4]| TokenStats {
        log_prob,
        log_sum_exp,
        entropy,
        is_top: is_top > 0.5,
    };
    rows.iter().map(row).collect()
}
