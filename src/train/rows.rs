//! Rows of matrices that are stored flat.

use burn::tensor::{Bool, Tensor, TensorData};

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
