//! `x W^T` where a general matrix product does too much: for a few rows, and for weights in bfloat16.
//!
//! A general product rearranges the weights first, which costs a decoding step more than the product
//! itself: here every weight is read once, in the order it lies in. Weights in bfloat16 are widened on
//! the way, a part at a time, so that they take half the memory and, where memory is the limit, half
//! the time; everything else stays f32.

use burn::tensor::bf16;
use rayon::prelude::*;

use super::math::{dot, sum_by};
use super::simd::{Into, Matrix, product, wide};

/// The most rows worked off without a general product.
pub(crate) const FEW: usize = 16;

/// Outputs of one task.
const OUTPUTS: usize = 64;

/// Products of numbers below which a second thread costs more than it brings.
const PARALLEL: usize = 1 << 18;

/// Values widened at one time before a general product: 2 MiB of f32.
const WIDENED: usize = 1 << 19;

/// `y[row][output] = dot(x[row], w[output])` for `x` `[rows, inputs]` and `w` `[outputs, inputs]`.
pub(crate) fn few_rows(x: &[f32], w: &[f32], inputs: usize) -> Vec<f32> {
    by_outputs(x, w, inputs, OUTPUTS, outputs_part)
}

/// As [`few_rows`], for any number of rows and weights in bfloat16.
pub(crate) fn widening(x: &[f32], w: &[bf16], inputs: usize) -> Vec<f32> {
    let w: &[u16] = bytemuck::cast_slice(w);
    let rows = x.len() / inputs;
    if rows <= FEW {
        return by_outputs(x, w, inputs, OUTPUTS, wide_outputs_part);
    }
    let outputs = (WIDENED / inputs).max(1);
    by_outputs(x, w, inputs, outputs, |x, w, inputs, y| {
        let mut wide = vec![0.0; w.len()];
        widen(w, &mut wide);
        let x = Matrix::rows(x, inputs).transposed();
        let sizes = [w.len() / inputs, rows, inputs];
        product(Into::Fresh, (y, rows), Matrix::rows(&wide, inputs), x, sizes);
    })
}

/// Shares the outputs out, `at_once` to a task, which gets `x`, its rows of `w`, `inputs` and its part
/// of the turned result `[outputs, rows]`.
fn by_outputs<W: Sync>(
    x: &[f32],
    w: &[W],
    inputs: usize,
    at_once: usize,
    part: impl Fn(&[f32], &[W], usize, &mut [f32]) + Sync,
) -> Vec<f32> {
    let (rows, outputs) = (x.len() / inputs, w.len() / inputs);
    let mut turned = vec![0.0; rows * outputs];
    if x.len() * outputs < PARALLEL {
        part(x, w, inputs, &mut turned);
    } else {
        let parts = turned.par_chunks_mut(at_once * rows).zip(w.par_chunks(at_once * inputs));
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

/// The f32 with these upper bits, which are a bfloat16's.
#[inline(always)]
fn wider(bits: u16) -> f32 {
    f32::from_bits(u32::from(bits) << 16)
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
    fn wide_outputs_part(x: &[f32], w: &[u16], inputs: usize, y: &mut [f32]) {
        let rows = x.len() / inputs;
        let mut wide = vec![0.0; if rows == 1 { 0 } else { inputs }];
        for (y, w) in y.chunks_exact_mut(rows).zip(w.chunks_exact(inputs)) {
            if let [y] = y {
                *y = sum_by(x, w, |x, w| x * wider(w));
                continue;
            }
            for (wide, w) in wide.iter_mut().zip(w) {
                *wide = wider(*w);
            }
            for (y, x) in y.iter_mut().zip(x.chunks_exact(inputs)) {
                *y = dot(x, &wide);
            }
        }
    }

    fn widen(from: &[u16], to: &mut [f32]) {
        for (to, from) in to.iter_mut().zip(from) {
            *to = wider(*from);
        }
    }
}
