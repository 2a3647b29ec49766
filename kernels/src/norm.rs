//! RMSNorm over rows, in one pass forward and one backward.

use rayon::prelude::*;

use super::math::{dot, sum_by};
use super::simd::vectorized;

/// Rows per task, which fixes the order in which the weight's gradient is summed.
const ROWS: usize = 64;

/// Writes `x / sqrt(mean(x^2) + eps) * w` to `y`.
///
/// # Shapes
/// `x` and `y` `[rows, hidden]`, `w` `[hidden]`.
pub fn forward(x: &[f32], w: &[f32], eps: f32, y: &mut [f32]) {
    let block = ROWS * w.len();
    if x.len() <= block {
        return vectorized(
            #[inline(always)]
            || forward_rows(x, w, eps, y),
        );
    }
    y.par_chunks_mut(block).zip(x.par_chunks(block)).for_each(|(y, x)| {
        vectorized(
            #[inline(always)]
            || forward_rows(x, w, eps, y),
        );
    });
}

/// Writes the gradient of `x` to `dx` and returns that of `w`; shapes as in [`forward`].
pub fn backward(x: &[f32], w: &[f32], dy: &[f32], eps: f32, dx: &mut [f32]) -> Vec<f32> {
    let block = ROWS * w.len();
    let blocks = dx.par_chunks_mut(block).zip(x.par_chunks(block)).zip(dy.par_chunks(block));
    let parts: Vec<Vec<f32>> = blocks
        .map(|((dx, x), dy)| {
            let mut dw = vec![0.0; w.len()];
            vectorized(
                #[inline(always)]
                || backward_rows(x, w, dy, eps, dx, &mut dw),
            );
            dw
        })
        .collect();
    sum_parts(&parts, w.len())
}

/// The sum of `parts`, each of `len` numbers, in their order.
pub fn sum_parts(parts: &[Vec<f32>], len: usize) -> Vec<f32> {
    let mut sum = vec![0.0; len];
    for part in parts {
        for (sum, value) in sum.iter_mut().zip(part) {
            *sum += value;
        }
    }
    sum
}

#[inline(always)]
fn forward_rows(x: &[f32], w: &[f32], eps: f32, y: &mut [f32]) {
    for (x, y) in x.chunks_exact(w.len()).zip(y.chunks_exact_mut(w.len())) {
        let scale = inverse_root(x, eps);
        for ((y, x), w) in y.iter_mut().zip(x).zip(w) {
            *y = x * scale * w;
        }
    }
}

#[inline(always)]
fn backward_rows(x: &[f32], w: &[f32], dy: &[f32], eps: f32, dx: &mut [f32], dw: &mut [f32]) {
    let rows = x.chunks_exact(w.len()).zip(dy.chunks_exact(w.len()));
    for ((x, dy), dx) in rows.zip(dx.chunks_exact_mut(w.len())) {
        let scale = inverse_root(x, eps);
        for ((dx, dy), w) in dx.iter_mut().zip(dy).zip(w) {
            *dx = dy * w;
        }
        let slope = dot(dx, x) * scale * scale / w.len() as f32;
        for (((dx, x), dy), dw) in dx.iter_mut().zip(x).zip(dy).zip(dw.iter_mut()) {
            *dw += dy * x * scale;
            *dx = scale * (*dx - x * slope);
        }
    }
}

/// `1 / sqrt(mean(x^2) + eps)`.
#[inline(always)]
pub(crate) fn inverse_root(x: &[f32], eps: f32) -> f32 {
    let squares = sum_by(x, x, |a, b| a * b);
    1.0 / (squares / x.len() as f32 + eps).sqrt()
}
