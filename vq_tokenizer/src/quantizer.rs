//! Latents to codes and back: the nearest vector of a learned codebook.
//!
//! Source: van den Oord et al., "Neural Discrete Representation Learning" (arXiv 1711.00937), in the
//! form of taming-transformers' `VectorQuantizer2`.

use burn::module::{Initializer, Module, Param};
use burn::tensor::module::embedding;
use burn::tensor::{Device, Int, Tensor};

/// Rows compared with the codebook at once; bounds the distance table to 4096 x codebook floats.
const ROWS_AT_ONCE: usize = 4096;

/// The table of a codebook; a module of its own because the published name is `embedding.weight`.
#[derive(Module, Debug)]
pub struct CodeTable {
    /// `[num_embeddings, embed_dim]`.
    pub weight: Param<Tensor<2>>,
}

/// A codebook with nearest-vector assignment.
#[derive(Module, Debug)]
pub struct VectorQuantizer {
    /// The codebook vectors.
    pub embedding: CodeTable,
}

/// What a quantizer gives in training.
#[derive(Debug)]
pub struct Quantized {
    /// `[batch, embed, h, w]`: the codebook vectors' values, with the latents' gradient.
    pub latents: Tensor<4>,
    /// `[batch, h, w]`: the codes.
    pub codes: Tensor<3, Int>,
    /// Mean of `(sg(z) - e)^2`: moves the codebook towards the latents.
    pub codebook_loss: Tensor<1>,
    /// Mean of `(z - sg(e))^2`: keeps the latents near the codebook.
    pub commitment_loss: Tensor<1>,
}

impl VectorQuantizer {
    /// A codebook of `num_embeddings` vectors, uniform within `1 / num_embeddings`.
    pub fn new(num_embeddings: usize, embed_dim: usize, device: &Device) -> Self {
        let bound = 1.0 / num_embeddings as f64;
        let uniform = Initializer::Uniform { min: -bound, max: bound };
        Self { embedding: CodeTable { weight: uniform.init([num_embeddings, embed_dim], device) } }
    }

    /// The code of the nearest vector (Euclidean; the first one on ties) for every position.
    ///
    /// `[batch, embed, h, w]` to `[batch, h, w]`. Computed as `|z|^2 + |e|^2 - 2 z e` in f32, the
    /// order of the reference, so that near ties fall the same way. No gradient.
    pub fn codes(&self, latents: Tensor<4>) -> Tensor<3, Int> {
        let [batch, embed, height, width] = latents.dims();
        let rows = batch * height * width;
        let latents = latents.detach().permute([0, 2, 3, 1]).reshape([rows, embed]);
        let table = self.embedding.weight.val().detach();
        let table_norms = table.clone().square().sum_dim(1).swap_dims(0, 1); // [1, codes]
        let table = table.swap_dims(0, 1); // [embed, codes]
        let nearest = |z: Tensor<2>| {
            let norms = z.clone().square().sum_dim(1); // [rows, 1]
            let distances = norms + table_norms.clone() - z.matmul(table.clone()) * 2.0;
            distances.argmin(1) // [rows, 1]
        };
        let codes = if rows <= ROWS_AT_ONCE {
            nearest(latents)
        } else {
            Tensor::cat(latents.split(ROWS_AT_ONCE, 0).into_iter().map(nearest).collect(), 0)
        };
        codes.reshape([batch, height, width])
    }

    /// The vectors of `codes`: `[batch, h, w]` to `[batch, embed, h, w]`.
    pub fn lookup(&self, codes: Tensor<3, Int>) -> Tensor<4> {
        let [batch, height, width] = codes.dims();
        let table = self.embedding.weight.val();
        let [_, embed] = table.dims();
        let vectors = embedding(table, codes.reshape([batch, height * width])); // [batch, positions, embed]
        vectors.swap_dims(1, 2).reshape([batch, embed, height, width])
    }

    /// Quantizes for training: values of the codebook, gradient straight through to the latents.
    pub fn forward(&self, latents: Tensor<4>) -> Quantized {
        let codes = self.codes(latents.clone());
        let vectors = self.lookup(codes.clone());
        let codebook_loss = (vectors.clone() - latents.clone().detach()).square().mean();
        let offset = vectors.detach() - latents.clone();
        let commitment_loss = offset.clone().square().mean();
        let latents = latents + offset.detach();
        Quantized { latents, codes, codebook_loss, commitment_loss }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;
    use burn::tensor::{Distribution, TensorData};

    fn quantizer(codes: usize, embed: usize, device: &Device) -> VectorQuantizer {
        let weight = Tensor::random([codes, embed], Distribution::Normal(0.0, 1.0), device);
        let weight = Param::from_tensor(weight);
        VectorQuantizer { embedding: CodeTable { weight } }
    }

    #[test]
    fn nearest_code_equals_brute_force_even_in_several_parts() {
        let device = Device::flex();
        device.seed(3);
        let quantizer = quantizer(17, 5, &device);
        // 2 * 48 * 48 positions do not fit one part.
        let latents = Tensor::<4>::random([2, 5, 48, 48], Distribution::Normal(0.0, 1.0), &device);
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
        let quantizer = VectorQuantizer { embedding: CodeTable { weight } };
        let latents = Tensor::<1>::from_floats([1.0, 0.0], &device).reshape([1, 2, 1, 1]);
        assert_eq!(quantizer.codes(latents).into_scalar::<i64>(), 1);
    }

    #[test]
    fn gradient_passes_straight_through() {
        let device = Device::flex().autodiff();
        let quantizer = quantizer(8, 4, &device);
        let latents =
            Tensor::<4>::random([1, 4, 2, 3], Distribution::Default, &device).require_grad();
        let weights = Tensor::<4>::random([1, 4, 2, 3], Distribution::Default, &device);
        let output = quantizer.forward(latents.clone()).latents;
        let gradients = (output * weights.clone()).sum().backward();
        let gradient = latents.grad(&gradients).unwrap();
        gradient.into_data().assert_eq(&weights.inner().into_data(), true);
    }

    #[test]
    fn lookup_inverts_codes_of_codebook_vectors() {
        let device = Device::flex();
        let quantizer = quantizer(12, 6, &device);
        let codes = Tensor::<1, Int>::arange(0..12, &device).reshape([2, 2, 3]);
        let vectors = quantizer.lookup(codes.clone());
        quantizer.codes(vectors).into_data().assert_eq(&codes.into_data(), true);
    }
}
