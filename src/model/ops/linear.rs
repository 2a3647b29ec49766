//! `x W^T` where a general matrix product does too much: for a few rows, and for weights in bfloat16.
//!
//! A general product rearranges the weights first, which costs a decoding step more than the product
//! itself: here every weight is read once, in the order it lies in. Weights in bfloat16 are widened on
//! the way, so that they take half the memory and, where memory is the limit, half the time;
//! everything else stays f32.

use burn::tensor::bf16;
use rayon::prelude::*;

use super::math::{dot, sum_by};
use super::product::{Element, Into, Matrix, large};
use super::simd::wide;

/// The most rows worked off without a general product.
pub(crate) const FEW: usize = 16;

/// Outputs of one task.
const OUTPUTS: usize = 64;

/// Products of numbers below which a second thread costs more than it brings.
const PARALLEL: usize = 1 << 18;

/// Weights of one general product: where it cannot read bfloat16, 128 MiB are widened for it.
const WIDENED: usize = 1 << 25;

/// `y[row][output] = dot(x[row], w[output])` for `x` `[rows, inputs]` and `w` `[outputs, inputs]`.
pub(crate) fn few_rows(x: &[f32], w: &[f32], inputs: usize) -> Vec<f32> {
    by_outputs(x, w, inputs, outputs_part)
}

/// As [`few_rows`], for any number of rows and weights in bfloat16.
pub(crate) fn widening(x: &[f32], w: &[bf16], inputs: usize) -> Vec<f32> {
    let (rows, outputs) = (x.len() / inputs, w.len() / inputs);
    if rows <= FEW {
        return by_outputs(x, w, inputs, wide_outputs_part);
    }
    let mut y = vec![0.0; rows * outputs];
    let at_once = (WIDENED / inputs).max(1);
    for (part, w) in w.chunks(at_once * inputs).enumerate() {
        let y = &mut y[part * at_once..];
        let sizes = [rows, w.len() / inputs, inputs];
        let (x, w) = (Matrix::rows(x, inputs), Matrix::rows(w, inputs).transposed());
        large(Into::Fresh, (y, outputs), x, w, sizes);
    }
    y
}

/// Shares the outputs out, [`OUTPUTS`] to a task, which gets `x`, its rows of `w`, `inputs` and its part
/// of the turned result `[outputs, rows]`.
fn by_outputs<W: Sync>(
    x: &[f32],
    w: &[W],
    inputs: usize,
    part: impl Fn(&[f32], &[W], usize, &mut [f32]) + Sync,
) -> Vec<f32> {
    let (rows, outputs) = (x.len() / inputs, w.len() / inputs);
    let mut turned = vec![0.0; rows * outputs];
    if x.len() * outputs < PARALLEL {
        part(x, w, inputs, &mut turned);
    } else {
        let parts = turned.par_chunks_mut(OUTPUTS * rows).zip(w.par_chunks(OUTPUTS * inputs));
        parts.for_each(|(y, w)| part(x, w, inputs, y));
    }
    if rows == 1 {
        return turned;
    }
    let mut y = vec![0.0; rows * outputs]; // [rows, outputs]
    for (output, column) in turned.chunks_exact(rows).enumerate() {
        for (row, value) in column.iter().enumerate() {
            y[row * outputs + output] = *value;
        }
    }
    y
}

wide! {
    fn outputs_part(x: &[f32], w: &[f32], inputs: usize, y: &mut [f32]) {
        let rows = x.len() / inputs;
        for (y, w) in y.chunks_exact_mut(rows).zip(w.chunks_exact(inputs)) {
            for (y, x) in y.iter_mut().zip(x.chunks_exact(inputs)) {
                *y = dot(x, w);
            }
        }
    }

    /// Of one row the weights are widened in passing, of several once for all.
    fn wide_outputs_part(x: &[f32], w: &[bf16], inputs: usize, y: &mut [f32]) {
        let rows = x.len() / inputs;
        let mut wide = vec![0.0; if rows == 1 { 0 } else { inputs }];
        for (y, w) in y.chunks_exact_mut(rows).zip(w.chunks_exact(inputs)) {
            if let [y] = y {
                *y = sum_by(x, w, |x, w| x * w.wide());
                continue;
            }
            for (wide, w) in wide.iter_mut().zip(w) {
                *wide = w.wide();
            }
            for (y, x) in y.iter_mut().zip(x.chunks_exact(inputs)) {
                *y = dot(x, &wide);
            }
        }
    }
}
