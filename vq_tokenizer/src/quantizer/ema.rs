//! VQ whose codebook follows moving averages of the latents instead of gradients.
//!
//! Source: van den Oord et al., "Neural Discrete Representation Learning" (arXiv 1711.00937, appendix
//! A.1). Not for normalised latents: their averages shrink, and the codebook with them.

use burn::module::Module;
use burn::tensor::{Device, Int, Tensor};
use serde::{Deserialize, Serialize};

use super::estimator::Estimator;
use super::quantized::Quantized;
use super::table::{CodeTable, lookup, nearest};

/// Added to every count, so that no sum is divided by zero (Laplace smoothing).
const SMOOTHING: f32 = 1e-5;

/// A codebook that follows moving averages of its latents.
#[derive(Module, Debug)]
pub struct EmaQuantizer {
    /// The codebook vectors.
    pub embedding: CodeTable,
    #[module(skip)]
    estimator: Estimator,
}

impl EmaQuantizer {
    /// A codebook of `[num_embeddings, embed_dim]` with entries uniform within `1 / num_embeddings`.
    pub(super) fn new(size: [usize; 2], estimator: Estimator, device: &Device) -> Self {
        let embedding = CodeTable::uniform(size, 1.0 / size[0] as f64, device);
        Self { embedding, estimator }
    }

    /// The codebook, `[num_embeddings, embed_dim]`, detached: no gradient moves it.
    pub(super) fn table(&self) -> Tensor<2> {
        self.embedding.weight.val().detach()
    }

    /// See [`super::Quantizer::codes`].
    pub(super) fn codes(&self, latents: Tensor<4>) -> Tensor<3, Int> {
        nearest(latents, self.table())
    }

    /// See [`super::Quantizer::forward`].
    pub(super) fn forward(&self, latents: Tensor<4>) -> Quantized {
        let codes = self.codes(latents.clone());
        let vectors = lookup(self.table(), codes.clone());
        let commitment = (vectors.clone() - latents.clone()).square().mean();
        Quantized {
            latents: self.estimator.pass(latents, vectors),
            codes,
            codebook_loss: commitment.zeros_like(),
            commitment_loss: commitment.clone(),
            entropy_loss: commitment.zeros_like(),
        }
    }
}

/// The moving averages behind the codebook of an [`EmaQuantizer`].
///
/// Serialisable, so that a resumed training continues exactly.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct EmaState {
    decay: f32,
    counts: Vec<f32>,
    sums: Vec<f32>,
}

impl EmaState {
    /// Averages that give the codebook `table`, of `num_embeddings` rows, with a count of 1 for each code.
    pub fn new(decay: f64, table: &[f32], num_embeddings: usize) -> Self {
        Self { decay: decay as f32, counts: vec![1.0; num_embeddings], sums: table.to_vec() }
    }

    /// Adds a step's latents, `vectors` with their `codes`, to the averages and moves `table`.
    pub(crate) fn update(&mut self, table: &mut [f32], vectors: &[Vec<f32>], codes: &[usize]) {
        let (decay, embed) = (self.decay, table.len() / self.counts.len());
        let fresh = 1.0 - decay;
        self.counts.iter_mut().chain(&mut self.sums).for_each(|value| *value *= decay);
        for (vector, code) in vectors.iter().zip(codes) {
            self.counts[*code] += fresh;
            let sums = &mut self.sums[code * embed..][..embed];
            sums.iter_mut().zip(vector).for_each(|(sum, value)| *sum += fresh * value);
        }
        let total: f32 = self.counts.iter().sum();
        let scale = total / (total + SMOOTHING * self.counts.len() as f32);
        let rows = table.chunks_exact_mut(embed).zip(self.sums.chunks_exact(embed));
        for ((row, sums), count) in rows.zip(&self.counts) {
            let count = (count + SMOOTHING) * scale;
            row.iter_mut().zip(sums).for_each(|(value, sum)| *value = sum / count);
        }
    }

    /// Resets the averages of `row` to `vector`.
    pub(crate) fn restart(&mut self, row: usize, vector: &[f32]) {
        self.counts[row] = 1.0;
        self.sums[row * vector.len()..][..vector.len()].copy_from_slice(vector);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_codebook_converges_to_the_means_of_its_latents() {
        let mut table = vec![0.0, 0.0, 4.0, 4.0];
        let mut state = EmaState::new(0.9, &table, 2);
        let vectors = [vec![1.0, 2.0], vec![3.0, 2.0], vec![-6.0, 8.0]];
        for _ in 0..200 {
            state.update(&mut table, &vectors, &[0, 0, 1]);
        }
        for (got, want) in table.iter().zip([2.0, 2.0, -6.0, 8.0]) {
            assert!((got - want).abs() < 1e-3, "{got} {want}");
        }
        state.restart(1, &[5.0, 5.0]);
        state.update(&mut table, &[], &[]);
        assert!((table[2] - 5.0).abs() < 1e-3);
    }
}
