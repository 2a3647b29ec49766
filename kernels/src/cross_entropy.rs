//! Cross-entropy with z-loss and its gradient over rows of logits, in place.

use rayon::prelude::*;

use super::math::{exp_shifted_moments, largest};
use super::simd::vectorized;
use super::token_stats::TokenStats;

/// Rows per task.
const ROWS: usize = 16;

/// Replaces `logits` by the gradient of `sum_i -weights[i] * log_prob_i + z / 2 * log_sum_exp_i^2`, for
/// weights of either sign; returns the statistics of every row.
///
/// # Shapes
/// `logits` `[rows, vocab]`, `targets` and `weights` `[rows]`.
///
/// # Panics
/// If a target lies outside the vocabulary.
pub fn backward(logits: &mut [f32], targets: &[i32], weights: &[f32], z: f32) -> Vec<TokenStats> {
    let vocab = logits.len() / targets.len().max(1);
    let mut stats = vec![TokenStats::default(); targets.len()];
    let rows = logits.par_chunks_mut(ROWS * vocab).zip(targets.par_chunks(ROWS));
    let rows = rows.zip(weights.par_chunks(ROWS)).zip(stats.par_chunks_mut(ROWS));
    rows.for_each(|(((logits, targets), weights), stats)| {
        vectorized(
            #[inline(always)]
            || {
                backward_rows(logits, targets, weights, z, stats);
            },
        );
    });
    stats
}

/// The statistics of every row of `logits`, which are overwritten.
///
/// # Shapes
/// `logits` `[rows, vocab]`, `targets` `[rows]`.
///
/// # Panics
/// If a target lies outside the vocabulary.
pub fn forward(logits: &mut [f32], targets: &[i32]) -> Vec<TokenStats> {
    let vocab = logits.len() / targets.len().max(1);
    let mut stats = vec![TokenStats::default(); targets.len()];
    let rows = logits.par_chunks_mut(ROWS * vocab).zip(targets.par_chunks(ROWS));
    rows.zip(stats.par_chunks_mut(ROWS)).for_each(|((logits, targets), stats)| {
        vectorized(
            #[inline(always)]
            || forward_rows(logits, targets, stats),
        );
    });
    stats
}

/// Replaces `row` by `exp(row - max)`; returns its sum and the statistics.
#[inline(always)]
fn softmax(row: &mut [f32], target: i32) -> (f32, TokenStats) {
    let (top, at_target) = (largest(row), row[target as usize]);
    let [sum, moment] = exp_shifted_moments(row, top);
    let log_sum = sum.ln();
    let log_sum_exp = top + log_sum;
    let stats = TokenStats {
        log_prob: at_target - log_sum_exp,
        log_sum_exp,
        entropy: log_sum - moment / sum,
        is_top: at_target >= top,
    };
    (sum, stats)
}

#[inline(always)]
fn backward_rows(
    logits: &mut [f32],
    targets: &[i32],
    weights: &[f32],
    z: f32,
    stats: &mut [TokenStats],
) {
    let vocab = logits.len() / targets.len();
    let rows = logits.chunks_exact_mut(vocab).zip(targets).zip(weights).zip(stats);
    for (((row, target), weight), stats) in rows {
        let (sum, found) = softmax(row, *target);
        let scale = (weight + z * found.log_sum_exp) / sum;
        for x in row.iter_mut() {
            *x *= scale;
        }
        row[*target as usize] -= weight;
        *stats = found;
    }
}

#[inline(always)]
fn forward_rows(logits: &mut [f32], targets: &[i32], stats: &mut [TokenStats]) {
    let vocab = logits.len() / targets.len();
    for ((row, target), stats) in logits.chunks_exact_mut(vocab).zip(targets).zip(stats) {
        *stats = softmax(row, *target).1;
    }
}
