//! `x W^T` for a few rows: every weight is read once, in the order it lies in.
//!
//! A general matrix product rearranges the weights first, which costs a decoding step more than the
//! product itself.

use rayon::prelude::*;

use super::math::dot;
use super::simd::wide;

/// The most rows worked off this way.
pub(crate) const FEW: usize = 16;

/// Outputs of one task.
const OUTPUTS: usize = 64;

/// Products of numbers below which a second thread costs more than it brings.
const PARALLEL: usize = 1 << 18;

/// `y[row][output] = dot(x[row], w[output])` for `x` `[rows, inputs]` and `w` `[outputs, inputs]`.
pub(crate) fn few_rows(x: &[f32], w: &[f32], inputs: usize) -> Vec<f32> {
    let (rows, outputs) = (x.len() / inputs, w.len() / inputs);
    let mut turned = vec![0.0; rows * outputs]; // [outputs, rows]
    if x.len() * outputs < PARALLEL {
        outputs_part(x, w, inputs, &mut turned);
    } else {
        let parts = turned.par_chunks_mut(OUTPUTS * rows).zip(w.par_chunks(OUTPUTS * inputs));
        parts.for_each(|(y, w)| outputs_part(x, w, inputs, y));
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
}
