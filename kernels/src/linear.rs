//! `x W^T` where a general matrix product is too costly: for a few rows, and for weights in bfloat16.
//!
//! A general product packs the weights first, which costs a decoding step more than the product
//! itself: here every weight is read once, in memory order. Weights in bfloat16 are widened as they
//! are read, so they take half the memory and, where memory bandwidth is the limit, half the time;
//! everything else is f32.

use half::bf16;
use rayon::prelude::*;

use super::math::{dot, sum_by, sums_by};
use super::matrix::{Element, Matrix, Store};
use super::product::large;
use super::simd::vectorized;

/// Maximum number of rows computed without a general product.
pub const FEW: usize = 16;

/// Outputs summed at once.
const AT_ONCE: usize = 4;

/// Outputs per task.
const OUTPUTS: usize = 64;

/// Multiplications below which a second thread costs more than it saves.
const PARALLEL: usize = 1 << 18;

/// Weights per general product: where it cannot read bfloat16, 128 MiB are widened for it.
const WIDENED: usize = 1 << 25;

/// `x w^T` for a few rows.
///
/// # Shapes
/// `x` `[rows, inputs]`, `w` `[outputs, inputs]`; returns `[rows, outputs]`.
pub fn few_rows(x: &[f32], w: &[f32], inputs: usize) -> Vec<f32> {
    by_outputs(x, w, inputs, |x, w, y| {
        vectorized(
            #[inline(always)]
            || outputs_part(x, w, inputs, y),
        );
    })
}

/// As [`few_rows`], for any number of rows and weights in bfloat16.
pub fn widening(x: &[f32], w: &[bf16], inputs: usize) -> Vec<f32> {
    let (rows, outputs) = (x.len() / inputs, w.len() / inputs);
    if rows <= FEW {
        return by_outputs(x, w, inputs, |x, w, y| {
            vectorized(
                #[inline(always)]
                || widening_outputs_part(x, w, inputs, y),
            );
        });
    }
    let mut y = vec![0.0; rows * outputs];
    let at_once = (WIDENED / inputs).max(1);
    for (part, w) in w.chunks(at_once * inputs).enumerate() {
        let y = &mut y[part * at_once..];
        let sizes = [rows, w.len() / inputs, inputs];
        let (x, w) = (Matrix::rows(x, inputs), Matrix::rows(w, inputs).transposed());
        large(Store::Overwrite, (y, outputs), x, w, sizes);
    }
    y
}

/// Splits the outputs into tasks of [`OUTPUTS`]; `part` gets `x`, the task's rows of `w` and its part of
/// the transposed result, `[outputs, rows]`.
fn by_outputs<W: Sync>(
    x: &[f32],
    w: &[W],
    inputs: usize,
    part: impl Fn(&[f32], &[W], &mut [f32]) + Sync,
) -> Vec<f32> {
    let (rows, outputs) = (x.len() / inputs, w.len() / inputs);
    let mut transposed = vec![0.0; rows * outputs];
    if x.len() * outputs < PARALLEL {
        part(x, w, &mut transposed);
    } else {
        let parts = transposed.par_chunks_mut(OUTPUTS * rows).zip(w.par_chunks(OUTPUTS * inputs));
        parts.for_each(|(y, w)| part(x, w, y));
    }
    if rows == 1 {
        return transposed;
    }
    let mut y = vec![0.0; rows * outputs]; // [rows, outputs]
    for (output, column) in transposed.chunks_exact(rows).enumerate() {
        for (row, value) in column.iter().enumerate() {
            y[row * outputs + output] = *value;
        }
    }
    y
}

/// Writes the products of `x` with the rows of `w` to `y` `[outputs, rows]`.
#[inline(always)]
fn outputs_part<E: Element>(x: &[f32], w: &[E], inputs: usize, y: &mut [f32]) {
    let rows = x.len() / inputs;
    let (mut y, mut w) = (y.chunks_exact_mut(AT_ONCE * rows), w.chunks_exact(AT_ONCE * inputs));
    for (y, w) in y.by_ref().zip(w.by_ref()) {
        let w: [&[E]; AT_ONCE] = std::array::from_fn(|n| &w[n * inputs..][..inputs]);
        for (row, x) in x.chunks_exact(inputs).enumerate() {
            let sums = sums_by(x, w, |x, w| x * w.wide());
            for (n, sum) in sums.into_iter().enumerate() {
                y[n * rows + row] = sum;
            }
        }
    }
    let rest = y.into_remainder().chunks_exact_mut(rows);
    for (y, w) in rest.zip(w.remainder().chunks_exact(inputs)) {
        for (y, x) in y.iter_mut().zip(x.chunks_exact(inputs)) {
            *y = sum_by(x, w, |x, w| x * w.wide());
        }
    }
}

/// For one row the weights are widened as they are used, for several once for all rows.
#[inline(always)]
fn widening_outputs_part(x: &[f32], w: &[bf16], inputs: usize, y: &mut [f32]) {
    let rows = x.len() / inputs;
    if rows == 1 {
        return outputs_part(x, w, inputs, y);
    }
    let mut wide = vec![0.0; inputs];
    for (y, w) in y.chunks_exact_mut(rows).zip(w.chunks_exact(inputs)) {
        for (wide, w) in wide.iter_mut().zip(w) {
            *wide = w.wide();
        }
        for (y, x) in y.iter_mut().zip(x.chunks_exact(inputs)) {
            *y = dot(x, &wide);
        }
    }
}
