//! Cross-entropy with z-loss and its gradient over rows of logits, in place.

use rayon::prelude::*;

use super::math::{exp_shifted, largest};
use super::simd::vectorized;

/// Rows per task.
const ROWS: usize = 16;

/// Replaces `logits` by the gradient of `sum_i weights[i] * nll_i + z / 2 * lse_i^2`; returns `nll` and
/// `lse` of every row.
///
/// # Shapes
/// `logits` `[rows, vocab]`, `targets` and `weights` `[rows]`.
///
/// # Panics
/// When a target lies outside the vocabulary.
pub(crate) fn backward(
    logits: &mut [f32],
    targets: &[i32],
    weights: &[f32],
    z: f32,
) -> Vec<(f32, f32)> {
    let vocab = logits.len() / targets.len().max(1);
    let mut losses = vec![(0.0, 0.0); targets.len()];
    let rows = logits.par_chunks_mut(ROWS * vocab).zip(targets.par_chunks(ROWS));
    let rows = rows.zip(weights.par_chunks(ROWS)).zip(losses.par_chunks_mut(ROWS));
    rows.for_each(|(((logits, targets), weights), losses)| {
        vectorized(
            #[inline(always)]
            || {
                backward_rows(logits, targets, weights, z, losses);
            },
        );
    });
    losses
}

#[inline(always)]
fn backward_rows(
    logits: &mut [f32],
    targets: &[i32],
    weights: &[f32],
    z: f32,
    losses: &mut [(f32, f32)],
) {
    let vocab = logits.len() / targets.len();
    let rows = logits.chunks_exact_mut(vocab).zip(targets).zip(weights).zip(losses);
    for (((row, target), weight), loss) in rows {
        let target = *target as usize;
        let (top, at_target) = (largest(row), row[target]);
        let sum = exp_shifted(row, top);
        let lse = top + sum.ln();
        let scale = (weight + z * lse) / sum;
        for x in row.iter_mut() {
            *x *= scale;
        }
        row[target] -= weight;
        *loss = (lse - at_target, lse);
    }
}
