//! The first values of new rows of embedding and output layer.

use burn::tensor::FloatDType;
use nalgebra::{DMatrix, RowDVector};
use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;
use safetensors::Dtype;
use tensor_files::{StoredDtype, StoredTensor};

use super::plan::Plan;
use crate::error::{Error, Result};

/// Where new rows begin.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum RowInit {
    /// At the mean of the old rows that have names.
    #[default]
    Mean,
    /// Those of codes beside that mean, in the direction of their codebook vectors, so that near codes begin near; as
    /// far from it as the old rows are.
    Projected,
}

/// Directions of codes in the space of rows; their squared lengths are 1 on average.
pub(super) struct Offsets {
    /// `[codes, width]`.
    vectors: DMatrix<f64>,
    /// An orthonormal map, `[width, hidden]`.
    map: DMatrix<f64>,
}

impl Offsets {
    /// The vectors of `codebook`, `[codes, width]`, less their mean, mapped to `hidden` numbers by a random orthonormal
    /// map.
    ///
    /// # Errors
    /// [`Error::Invalid`] if the vectors are wider than `hidden`, or all are equal.
    pub(super) fn new(codebook: &StoredTensor, hidden: usize, seed: u64) -> Result<Self> {
        let &[codes, width] = codebook.shape.as_slice() else {
            return Err(Error::invalid(format!("the codebook has shape {:?}", codebook.shape)));
        };
        if width > hidden {
            let message = format!(
                "the codebook's vectors have {width} numbers; allowed: up to hidden_size, {hidden}"
            );
            return Err(Error::invalid(message));
        }
        let values: Vec<f64> = codebook.to_data(FloatDType::F64)?.iter::<f64>().collect();
        let mut vectors = DMatrix::from_row_slice(codes, width, &values);
        let mean = vectors.row_mean();
        vectors.row_iter_mut().for_each(|mut row| row -= &mean);
        let length = (vectors.norm_squared() / codes as f64).sqrt();
        if length == 0.0 || !length.is_finite() {
            return Err(Error::invalid("the codebook's vectors are all equal, or not finite"));
        }
        let mut rng = ChaCha8Rng::seed_from_u64(seed);
        let random = DMatrix::from_fn(hidden, width, |_, _| rng.random_range(-1.0..1.0));
        Ok(Self { vectors: vectors / length, map: random.qr().q().transpose() })
    }

    /// The direction of `code`, `[hidden]`.
    fn of(&self, code: usize) -> RowDVector<f64> {
        self.vectors.row(code) * &self.map
    }
}

/// `matrix`, whose rows are the old ones of `plan`, with the new ones. The old ones keep their bytes.
///
/// # Errors
/// [`Error::Invalid`] for another number of rows, or another number format than f32, bf16 and f16.
pub(super) fn extended(
    mut matrix: StoredTensor,
    plan: &Plan,
    offsets: Option<&Offsets>,
) -> Result<StoredTensor> {
    let (&[rows, width], Some(dtype)) = (matrix.shape.as_slice(), StoredDtype::of(matrix.dtype))
    else {
        let (shape, dtype) = (matrix.shape, matrix.dtype);
        return Err(Error::invalid(format!(
            "{dtype:?} {shape:?}; allowed: a matrix in F32, BF16 or F16"
        )));
    };
    if rows != plan.old_rows {
        let message = format!("{rows} rows; config.json says vocab_size {}", plan.old_rows);
        return Err(Error::invalid(message));
    }
    let (mean, deviation) = statistics(&matrix, plan, width)?;
    let count = plan.num_rows() - rows;
    let mut bytes = Vec::with_capacity(4 * count * width);
    for id in rows..plan.num_rows() {
        let code = id.checked_sub(plan.codes.start as usize);
        let direction = offsets.zip(code).map(|(offsets, code)| offsets.of(code));
        for (at, mean) in mean.iter().enumerate() {
            let offset = direction.as_ref().map_or(0.0, |direction| deviation * direction[at]);
            bytes.extend(((mean + offset) as f32).to_le_bytes());
        }
    }
    let new = StoredTensor { dtype: Dtype::F32, shape: vec![count, width], bytes };
    matrix.bytes.extend(new.convert(dtype)?.bytes);
    matrix.shape[0] = plan.num_rows();
    Ok(matrix)
}

/// The mean of the rows of `matrix` that have names, and the root mean square of their distances from it.
fn statistics(matrix: &StoredTensor, plan: &Plan, width: usize) -> Result<(Vec<f64>, f64)> {
    let values = matrix.to_data(FloatDType::F32)?;
    let values = values.as_slice::<f32>().map_err(|error| Error::invalid(format!("{error:?}")))?;
    let named = || values.chunks_exact(width).enumerate().filter(|(id, _)| plan.is_named(*id));
    let count = named().count().max(1) as f64;
    let mut mean = vec![0.0; width];
    for (_, row) in named() {
        mean.iter_mut().zip(row).for_each(|(sum, value)| *sum += f64::from(*value) / count);
    }
    let distance = |row: &[f32]| -> f64 {
        row.iter().zip(&mean).map(|(value, mean)| (f64::from(*value) - mean).powi(2)).sum()
    };
    let squares: f64 = named().map(|(_, row)| distance(row)).sum();
    Ok((mean, (squares / count).sqrt()))
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;

    #[test]
    fn projected_vectors_keep_their_angles_and_have_length_1_on_average() {
        let vectors: Vec<f32> = (0..6 * 3).map(|at| ((at * at) as f32).sin() + 0.5).collect();
        let bytes = vectors.iter().flat_map(|value| value.to_le_bytes()).collect();
        let codebook = StoredTensor { dtype: Dtype::F32, shape: vec![6, 3], bytes };
        let all = |hidden: usize, seed: u64| {
            let offsets = Offsets::new(&codebook, hidden, seed).unwrap();
            DMatrix::from_rows(&(0..6).map(|code| offsets.of(code)).collect::<Vec<_>>())
        };
        let offsets = all(8, 1);
        assert_eq!(offsets.shape(), (6, 8));
        assert!((offsets.norm_squared() / 6.0 - 1.0).abs() < 1e-12);
        assert!(offsets.row_mean().norm() < 1e-12);
        let distance = |one: usize, other: usize| {
            let squares =
                (0..3).map(|at| (vectors[3 * one + at] - vectors[3 * other + at]).powi(2));
            f64::from(squares.sum::<f32>().sqrt())
        };
        let ratio =
            |one, other| (offsets.row(one) - offsets.row(other)).norm() / distance(one, other);
        for (one, other) in [(0, 2), (1, 4), (3, 5)] {
            assert!((ratio(one, other) / ratio(0, 1) - 1.0).abs() < 1e-5);
        }
        assert!(offsets == all(8, 1) && offsets != all(8, 2));
        let error = Offsets::new(&codebook, 2, 1).err().unwrap().to_string();
        assert!(error.contains("3 numbers; allowed: up to hidden_size, 2"), "{error}");
    }
}
