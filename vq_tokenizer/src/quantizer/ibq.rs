//! Index backpropagation quantization: the choice is relaxed, so that every code gets a gradient and not
//! only the chosen one.
//!
//! Source: Shi et al., "Taming Scalable Visual Tokenizer for Autoregressive Image Generation" (arXiv
//! 2412.02692, section 3.2) and SEED-Voken's `IndexPropagationQuantize`. The code is that of the largest
//! inner product.

use burn::module::Module;
use burn::tensor::{Device, Int, Tensor, activation};

use super::quantized::Quantized;
use super::table::{CodeTable, by_rows, from_rows, lookup, rows_of};
use crate::ops;

/// A codebook whose codes are chosen by inner product.
#[derive(Module, Debug)]
pub struct Ibq {
    /// The codebook vectors.
    pub embedding: CodeTable,
}

impl Ibq {
    /// A codebook of `[num_embeddings, embed_dim]` with entries uniform in [-1, 1].
    pub(super) fn new(size: [usize; 2], device: &Device) -> Self {
        // Long enough that inner products distinguish codes from the first step on.
        Self { embedding: CodeTable::uniform(size, 1.0, device) }
    }

    /// The codebook, `[num_embeddings, embed_dim]`.
    pub(super) fn table(&self) -> Tensor<2> {
        self.embedding.weight.val()
    }

    /// See [`super::Quantizer::codes`].
    pub(super) fn codes(&self, latents: Tensor<4>) -> Tensor<3, Int> {
        let table = self.table().detach().transpose(); // [embed, codes]
        by_rows(latents, |z| ops::exact_product(z, table.clone()).argmax(1))
    }

    /// See [`super::Quantizer::forward`].
    ///
    /// `codebook_loss` and `commitment_loss` are those of the hard choice; the latter adds the distance to
    /// the relaxed choice, whose gradient reaches both latents and codebook.
    pub(super) fn forward(&self, latents: Tensor<4>) -> Quantized {
        let (shape, table) = (latents.dims(), self.table());
        let z = rows_of(latents.clone()); // [rows, embed]
        let scores = z.matmul(table.clone().transpose()); // [rows, codes]
        let probabilities = activation::softmax(scores.clone(), 1);
        let [batch, _, height, width] = shape;
        let codes: Tensor<3, Int> =
            scores.clone().detach().argmax(1).reshape([batch, height, width]);
        let hard = lookup(table.clone(), codes.clone());
        // (one-hot + probabilities - detached probabilities) times the table: the value of the hard choice,
        // whose gradient reaches the chosen row through the one-hot and every row through the probabilities.
        let soft = from_rows(probabilities.clone().matmul(table.clone()), shape);
        let detached = from_rows(probabilities.clone().detach().matmul(table), shape);
        let relaxed = hard.clone() - detached + soft;
        let relaxed_distance = (relaxed.clone() - latents.clone()).square().mean();
        let hard_distance = (hard.clone().detach() - latents.clone()).square().mean();
        let log_probabilities = activation::log_softmax(scores, 1);
        let mean_entropy = (probabilities.clone() * log_probabilities).sum_dim(1).mean().neg();
        let mean = probabilities.mean_dim(0); // [1, codes]
        let entropy_of_mean = (mean.clone() * mean.clamp_min(1e-9).log()).sum().neg();
        Quantized {
            latents: relaxed,
            codes,
            codebook_loss: (hard - latents.detach()).square().mean(),
            commitment_loss: relaxed_distance + hard_distance,
            entropy_loss: mean_entropy - entropy_of_mean,
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;
    use crate::init;
    use burn::module::Param;
    use burn::tensor::Distribution;

    fn ibq(device: &Device) -> Ibq {
        let weight = init::random([7, 4], Distribution::Normal(0.0, 1.0), device);
        Ibq { embedding: CodeTable { weight: Param::from_tensor(weight) } }
    }

    #[test]
    fn latents_become_the_vector_of_the_largest_inner_product() {
        let device = Device::flex();
        let ibq = ibq(&device);
        let latents = init::random([2, 4, 3, 3], Distribution::Normal(0.0, 1.0), &device);
        let quantized = ibq.forward(latents.clone());
        let table: Vec<f32> = ibq.table().into_data().iter().collect();
        let rows: Vec<f32> = rows_of(latents).into_data().iter().collect();
        let values: Vec<f32> = rows_of(quantized.latents).into_data().iter().collect();
        for (row, value) in rows.chunks(4).zip(values.chunks(4)) {
            let score = |e: &&[f32]| -> f32 { row.iter().zip(*e).map(|(z, e)| z * e).sum() };
            let best = table.chunks(4).max_by(|a, b| score(a).total_cmp(&score(b))).unwrap();
            assert!(value.iter().zip(best).all(|(a, b)| (a - b).abs() < 1e-5));
        }
    }

    #[test]
    fn every_code_gets_a_gradient() {
        let device = Device::flex().autodiff();
        let ibq = ibq(&device);
        let latents = init::random([1, 4, 1, 1], Distribution::Normal(0.0, 1.0), &device);
        let weights = init::random([1, 4, 1, 1], Distribution::Normal(0.0, 1.0), &device);
        let gradients = (ibq.forward(latents).latents * weights).sum().backward();
        let gradient = ibq.table().grad(&gradients).unwrap();
        let rows: Vec<f32> = gradient.square().sum_dim(1).into_data().iter().collect();
        assert!(rows.iter().all(|row| *row > 0.0), "{rows:?}");
    }
}
