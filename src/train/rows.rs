//! Rows of matrices.

use std::ops::Range;

use burn::tensor::{Bool, Tensor, TensorData};

/// Rows of a matrix, as ranges in ascending order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Rows(Vec<Range<usize>>);

impl Rows {
    /// The rows with the numbers `ascending`.
    pub(super) fn new(ascending: impl IntoIterator<Item = usize>) -> Self {
        let mut ranges = Vec::<Range<usize>>::new();
        for row in ascending {
            match ranges.last_mut() {
                Some(last) if last.end == row => last.end += 1,
                _ => ranges.push(row..row + 1),
            }
        }
        Self(ranges)
    }

    /// Their number.
    pub(super) fn len(&self) -> usize {
        self.0.iter().map(ExactSizeIterator::len).sum()
    }

    /// These rows of `matrix`.
    pub(super) fn of<const D: usize>(&self, matrix: &Tensor<D>) -> Tensor<D> {
        let part = |range: &Range<usize>| matrix.clone().slice_dim(0, range.clone());
        Tensor::cat(self.0.iter().map(part).collect(), 0)
    }

    /// `matrix` with `values` in place of these rows.
    pub(super) fn put<const D: usize>(&self, matrix: Tensor<D>, values: &Tensor<D>) -> Tensor<D> {
        let mut from = 0;
        self.0.iter().fold(matrix, |matrix, range| {
            let part = values.clone().narrow(0, from, range.len());
            from += range.len();
            matrix.slice_assign([range.clone()], part)
        })
    }
}

/// A mask of the shape and on the device of `flat`, a matrix of `count` rows: true in `rows`.
///
/// # Shapes
/// `flat` and the mask are `[count * width]`.
pub(super) fn mask(rows: &[usize], count: usize, flat: &Tensor<1>) -> Tensor<1, Bool> {
    let [len] = flat.dims();
    let mut chosen = vec![false; count];
    rows.iter().for_each(|row| chosen[*row] = true);
    let chosen = Tensor::<2, Bool>::from_data(TensorData::new(chosen, [count, 1]), &flat.device());
    chosen.expand([count, len / count]).reshape([len])
}
