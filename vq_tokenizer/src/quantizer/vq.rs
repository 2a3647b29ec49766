//! VQ: the nearest vector of a codebook learned by gradients.
//!
//! Source: van den Oord et al., "Neural Discrete Representation Learning" (arXiv 1711.00937), in the
//! form of taming-transformers' `VectorQuantizer2`; Chameleon's quantizer.

use burn::module::Module;
use burn::tensor::{Device, Int, Tensor};

use super::estimator::Estimator;
use super::quantized::Quantized;
use super::table::{CodeTable, lookup, nearest};

/// A codebook with nearest-vector assignment.
#[derive(Module, Debug)]
pub struct VectorQuantizer {
    /// The codebook vectors.
    pub embedding: CodeTable,
    #[module(skip)]
    estimator: Estimator,
}

impl VectorQuantizer {
    /// A codebook of `[num_embeddings, embed_dim]` with entries uniform within `1 / num_embeddings`.
    pub(super) fn new(size: [usize; 2], estimator: Estimator, device: &Device) -> Self {
        Self { embedding: CodeTable::uniform(size, 1.0 / size[0] as f64, device), estimator }
    }

    /// The codebook, `[num_embeddings, embed_dim]`.
    pub(super) fn table(&self) -> Tensor<2> {
        self.embedding.weight.val()
    }

    /// See [`super::Quantizer::codes`].
    pub(super) fn codes(&self, latents: Tensor<4>) -> Tensor<3, Int> {
        nearest(latents, self.table())
    }

    /// See [`super::Quantizer::forward`].
    pub(super) fn forward(&self, latents: Tensor<4>) -> Quantized {
        let codes = self.codes(latents.clone());
        Quantized::of_table(latents, lookup(self.table(), codes.clone()), codes, self.estimator)
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;
    use crate::init;
    use burn::module::Param;
    use burn::tensor::{Distribution, TensorData};

    fn quantizer(codes: usize, embed: usize, device: &Device) -> VectorQuantizer {
        let weight = init::random([codes, embed], Distribution::Normal(0.0, 1.0), device);
        let weight = Param::from_tensor(weight);
        VectorQuantizer { embedding: CodeTable { weight }, estimator: Estimator::default() }
    }

    #[test]
    fn nearest_code_equals_brute_force_over_several_chunks() {
        let device = Device::flex();
        let quantizer = quantizer(17, 5, &device);
        // 2 * 48 * 48 positions exceed one chunk.
        let latents = init::random([2, 5, 48, 48], Distribution::Normal(0.0, 1.0), &device);
        let codes = quantizer.codes(latents.clone()).into_data().iter::<i64>().collect::<Vec<_>>();
        let table = quantizer.embedding.weight.val().into_data().try_to_vec::<f32>().unwrap();
        let rows = latents.permute([0, 2, 3, 1]).into_data().try_to_vec::<f32>().unwrap();
        for (row, code) in rows.chunks(5).zip(codes) {
            let distance = |e: &[f32]| -> f64 {
                row.iter().zip(e).map(|(z, e)| (f64::from(*z) - f64::from(*e)).powi(2)).sum()
            };
            let best = table.chunks(5).map(distance).fold(f64::INFINITY, f64::min);
            let found = distance(&table[code as usize * 5..][..5]);
            assert!(found - best < 1e-5, "code {code} at distance {found}, nearest at {best}");
        }
    }

    #[test]
    fn first_code_wins_a_tie() {
        let device = Device::flex();
        let data = TensorData::from([[5.0f32, 5.0], [1.0, 0.0], [1.0, 0.0], [0.0, 9.0]]);
        let weight = Param::from_tensor(Tensor::from_data(data, &device));
        let quantizer =
            VectorQuantizer { embedding: CodeTable { weight }, estimator: Estimator::default() };
        let latents = Tensor::<1>::from_floats([1.0, 0.0], &device).reshape([1, 2, 1, 1]);
        assert_eq!(quantizer.codes(latents).into_scalar::<i64>(), 1);
    }

    #[test]
    fn straight_through_gradient_is_that_of_the_output() {
        let device = Device::flex().autodiff();
        let quantizer = quantizer(8, 4, &device);
        let latents = init::random([1, 4, 2, 3], Distribution::Default, &device).require_grad();
        let weights = init::random([1, 4, 2, 3], Distribution::Default, &device);
        let output = quantizer.forward(latents.clone()).latents;
        let gradients = (output * weights.clone()).sum().backward();
        let gradient = latents.grad(&gradients).unwrap();
        gradient.into_data().assert_eq(&weights.inner().into_data(), true);
    }

    #[test]
    fn codes_of_looked_up_vectors_are_the_same() {
        let device = Device::flex();
        let quantizer = quantizer(12, 6, &device);
        let codes = Tensor::<1, Int>::arange(0..12, &device).reshape([2, 2, 3]);
        let vectors = lookup(quantizer.table(), codes.clone());
        quantizer.codes(vectors).into_data().assert_eq(&codes.into_data(), true);
    }
}
