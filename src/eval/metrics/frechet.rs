//! The Fréchet distance of two sets of feature vectors, each modelled as a normal distribution.
//!
//! Source: Heusel et al., "GANs Trained by a Two Time-Scale Update Rule" (arXiv 1706.08500),
//! equation 6; means and covariances (divided by N - 1) as in `pytorch-fid` 0.3.
//!
//! The trace of the square root of the covariances' product is the sum of the singular values of `A
//! B^T`, where `A^T A` and `B^T B` are the covariances. So no matrix root is needed, and sets with
//! fewer vectors than features, whose covariances are singular, need no correction.

use nalgebra::DMatrix;

use crate::error::{Error, Result};

/// Feature vectors of equal length.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Features {
    /// Numbers per vector.
    width: usize,
    values: Vec<f32>,
}

impl Features {
    /// An empty set of vectors of `width` numbers.
    pub fn new(width: usize) -> Self {
        Self { width, values: Vec::new() }
    }

    /// Adds the vectors concatenated in `values`.
    ///
    /// # Shapes
    /// `values` is `[vectors * width]`.
    ///
    /// # Errors
    /// [`Error::Invalid`] if the length is no multiple of the width, or a number is not finite.
    pub fn extend(&mut self, values: &[f32]) -> Result<()> {
        let (width, len) = (self.width, values.len());
        if width == 0 || !len.is_multiple_of(width) {
            return Err(Error::invalid(format!("{len} numbers are no vectors of {width}")));
        }
        if let Some(value) = values.iter().find(|value| !value.is_finite()) {
            return Err(Error::invalid(format!("a feature is {value}; allowed: finite numbers")));
        }
        self.values.extend_from_slice(values);
        Ok(())
    }

    /// Adds the vectors of `other`.
    ///
    /// # Errors
    /// As [`extend`](Self::extend).
    pub fn append(&mut self, other: Self) -> Result<()> {
        self.extend(&other.values)
    }

    /// The vectors, in order.
    pub fn rows(&self) -> impl Iterator<Item = &[f32]> {
        self.values.chunks_exact(self.width.max(1))
    }

    /// The number of vectors.
    pub fn len(&self) -> usize {
        self.values.len() / self.width.max(1)
    }

    /// Whether there are no vectors.
    pub fn is_empty(&self) -> bool {
        self.values.is_empty()
    }

    /// The mean, and a matrix `A` with `width` columns for which `A^T A` is the covariance.
    fn moments(&self) -> (Vec<f64>, DMatrix<f64>) {
        let (rows, width) = (self.len(), self.width);
        let mut mean = vec![0.0; width];
        for row in self.values.chunks_exact(width) {
            mean.iter_mut().zip(row).for_each(|(sum, value)| *sum += f64::from(*value));
        }
        mean.iter_mut().for_each(|sum| *sum /= rows as f64);
        let scale = 1.0 / (rows as f64 - 1.0).sqrt();
        let centred = DMatrix::from_fn(rows, width, |row, column| {
            (f64::from(self.values[row * width + column]) - mean[column]) * scale
        });
        if rows <= width {
            return (mean, centred);
        }
        // A square matrix with the same product.
        let covariance = (centred.transpose() * &centred).symmetric_eigen();
        let mut root = covariance.eigenvectors.transpose();
        for (mut row, value) in root.row_iter_mut().zip(covariance.eigenvalues.iter()) {
            row *= value.max(0.0).sqrt();
        }
        (mean, root)
    }
}

/// The Fréchet distance `|m_a - m_b|^2 + Tr(C_a + C_b - 2 (C_a C_b)^(1/2))` in f64; 0 for equal sets.
///
/// It falls with the number of vectors: compare only distances of sets of equal size. Takes 8 bytes
/// of memory for each number of both sets.
///
/// ```
/// use calumma::eval::metrics::{Features, frechet_distance};
/// let mut a = Features::new(1);
/// a.extend(&[1.0, 2.0, 3.0])?; // mean 2, standard deviation 1
/// let mut b = Features::new(1);
/// b.extend(&[2.0, 5.0, 8.0])?; // mean 5, standard deviation 3
/// assert!((frechet_distance(&a, &b)? - (9.0 + 4.0)).abs() < 1e-12);
/// # Ok::<(), calumma::Error>(())
/// ```
///
/// # Errors
/// [`Error::Invalid`] if a set has fewer than two vectors, or the sets' vectors differ in length.
pub fn frechet_distance(a: &Features, b: &Features) -> Result<f64> {
    if a.len() < 2 || b.len() < 2 {
        let (a, b) = (a.len(), b.len());
        return Err(Error::invalid(format!(
            "sets of {a} and {b} feature vectors; each needs at least 2"
        )));
    }
    if a.width != b.width {
        let (a, b) = (a.width, b.width);
        return Err(Error::invalid(format!("feature vectors of {a} and of {b} numbers")));
    }
    let ((mean_a, root_a), (mean_b, root_b)) = (a.moments(), b.moments());
    let apart: f64 = mean_a.iter().zip(&mean_b).map(|(a, b)| (a - b).powi(2)).sum();
    let shared: f64 = (&root_a * root_b.transpose()).singular_values().sum();
    Ok((apart + root_a.norm_squared() + root_b.norm_squared() - 2.0 * shared).max(0.0))
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;
    use rand::{RngExt, SeedableRng};
    use rand_chacha::ChaCha8Rng;

    /// `rows` random vectors of `width`, wider from column to column, plus `shift`.
    fn features(rows: usize, width: usize, seed: u64, shift: f32) -> Features {
        let mut rng = ChaCha8Rng::seed_from_u64(seed);
        let mut features = Features::new(width);
        let value = |at: usize| (rng.random::<f32>() - 0.5) * (1.0 + (at % width) as f32) + shift;
        features.extend(&(0..rows * width).map(value).collect::<Vec<_>>()).unwrap();
        features
    }

    #[test]
    fn equal_sets_have_distance_zero_and_the_distance_is_symmetric() {
        for rows in [3, 8, 40] {
            let (a, b) = (features(rows, 8, 1, 0.0), features(rows + 1, 8, 2, 0.3));
            let [ab, ba] = [(&a, &b), (&b, &a)].map(|(a, b)| frechet_distance(a, b).unwrap());
            assert!(frechet_distance(&a, &a).unwrap() < 1e-9, "{rows}");
            assert!(ab > 0.1 && (ab - ba).abs() < 1e-9, "{ab} {ba}");
        }
    }

    #[test]
    fn a_shift_of_all_vectors_adds_its_square() {
        let (a, b) = (features(50, 4, 3, 0.0), features(50, 4, 3, 0.5));
        assert!((frechet_distance(&a, &b).unwrap() - 4.0 * 0.25).abs() < 1e-6);
    }

    #[test]
    fn both_forms_of_the_covariance_agree() {
        // A set repeated twice has the same mean; its covariance differs by a known factor.
        let (few, other) = (features(8, 8, 5, 0.0), features(30, 8, 6, 0.1));
        let mut twice = few.clone();
        twice.extend(&few.values).unwrap();
        let (_, root) = few.moments();
        let (_, of_twice) = twice.moments();
        let factor = (2.0 * 7.0) / 15.0;
        let difference = root.tr_mul(&root) * factor - of_twice.tr_mul(&of_twice);
        assert!(difference.amax() < 1e-12);
        assert!(frechet_distance(&twice, &other).unwrap() > 0.0);
    }

    #[test]
    fn sets_without_a_distance_are_refused() {
        let (one, two) = (features(1, 4, 1, 0.0), features(2, 4, 1, 0.0));
        assert!(frechet_distance(&one, &two).unwrap_err().to_string().contains("1 and 2"));
        let wide = features(2, 5, 1, 0.0);
        assert!(frechet_distance(&wide, &two).unwrap_err().to_string().contains("5 and of 4"));
        assert!(Features::new(3).extend(&[1.0; 4]).is_err());
        assert!(Features::new(1).extend(&[f32::NAN]).is_err());
    }
}
