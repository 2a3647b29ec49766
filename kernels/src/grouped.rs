//! Products of groups of rows with a matrix for each group, `x_g w_g^T`: the layers of experts, each with the tokens
//! that were sent to it.
//!
//! The rows of a group follow those of the group before, and a group may have none.

#[cfg(test)]
mod tests;

use std::ops::Range;

use super::linear::{self, FEW, Weight};
use super::matrix::{Matrix, Store};
use super::memory::unspecified;
use super::product;

/// The sizes of groups and of their matrices, which are `[outputs, inputs]`.
#[derive(Clone, Copy, Debug)]
pub struct Groups<'a> {
    /// Rows of each group.
    pub counts: &'a [usize],
    /// Columns of a matrix.
    pub inputs: usize,
    /// Rows of a matrix.
    pub outputs: usize,
}

/// Number and rows of each group that has some, of groups of `counts` rows that follow each other.
pub fn filled(counts: &[usize]) -> impl Iterator<Item = (usize, Range<usize>)> {
    let mut end = 0;
    let rows = counts.iter().map(move |count| {
        end += count;
        end - count..end
    });
    rows.enumerate().filter(|(_, rows)| !rows.is_empty())
}

impl Groups<'_> {
    fn rows(&self) -> usize {
        self.counts.iter().sum()
    }

    fn matrix<'m, E>(&self, all: &'m [E], group: usize) -> &'m [E] {
        let len = self.inputs * self.outputs;
        &all[group * len..][..len]
    }
}

/// The elements of `rows` rows of `width` elements.
fn of_rows<'a>(all: &'a [f32], rows: &Range<usize>, width: usize) -> &'a [f32] {
    &all[rows.start * width..rows.end * width]
}

/// `x_g w_g^T`; a row's result does not depend on the other rows.
///
/// # Shapes
/// `x` `[rows, inputs]`, `w` `[groups, outputs, inputs]`; returns `[rows, outputs]`.
pub fn forward<E: Weight>(groups: Groups<'_>, x: &[f32], w: &[E]) -> Vec<f32> {
    let mut y = Vec::with_capacity(groups.rows() * groups.outputs);
    for (group, rows) in filled(groups.counts) {
        let x = of_rows(x, &rows, groups.inputs);
        y.extend_from_slice(&linear::forward(x, groups.matrix(w, group), groups.inputs));
    }
    y
}

/// As [`forward`] for many rows: groups of some size are multiplied in tiles, in another order of arithmetic.
pub fn in_tiles(groups: Groups<'_>, x: &[f32], w: &[f32]) -> Vec<f32> {
    let Groups { inputs, outputs, .. } = groups;
    let mut y = unspecified(groups.rows() * outputs);
    for (group, rows) in filled(groups.counts) {
        let (x, w) = (of_rows(x, &rows, inputs), groups.matrix(w, group));
        let y = &mut y[rows.start * outputs..rows.end * outputs];
        if rows.len() <= FEW {
            y.copy_from_slice(&linear::forward(x, w, inputs));
            continue;
        }
        let (x, w) = (Matrix::rows(x, inputs), Matrix::rows(w, inputs).transposed());
        product::large(Store::Overwrite, (y, outputs), x, w, [rows.len(), outputs, inputs]);
    }
    y
}

/// The gradient of `x`, `dy_g w_g`.
///
/// # Shapes
/// `dy` `[rows, outputs]`; the others as of [`forward`].
pub fn backward_x(groups: Groups<'_>, dy: &[f32], w: &[f32]) -> Vec<f32> {
    let Groups { inputs, outputs, .. } = groups;
    let mut dx = unspecified(groups.rows() * inputs);
    for (group, rows) in filled(groups.counts) {
        let dy = Matrix::rows(of_rows(dy, &rows, outputs), outputs);
        let w = Matrix::rows(groups.matrix(w, group), inputs);
        let dx = &mut dx[rows.start * inputs..rows.end * inputs];
        product::large(Store::Overwrite, (dx, inputs), dy, w, [rows.len(), inputs, outputs]);
    }
    dx
}

/// The gradient of the matrices, `dy_g^T x_g`; 0 for groups without rows.
///
/// # Shapes
/// As of [`backward_x`].
pub fn backward_w(groups: Groups<'_>, dy: &[f32], x: &[f32]) -> Vec<f32> {
    let Groups { counts, inputs, outputs } = groups;
    let len = inputs * outputs;
    let mut dw = unspecified(counts.len() * len);
    for (_, dw) in counts.iter().zip(dw.chunks_exact_mut(len)).filter(|(count, _)| **count == 0) {
        dw.fill(0.0);
    }
    for (group, rows) in filled(groups.counts) {
        let dy = Matrix::rows(of_rows(dy, &rows, outputs), outputs).transposed();
        let x = Matrix::rows(of_rows(x, &rows, inputs), inputs);
        let dw = &mut dw[group * len..][..len];
        product::large(Store::Overwrite, (dw, inputs), dy, x, [outputs, inputs, rows.len()]);
    }
    dw
}
