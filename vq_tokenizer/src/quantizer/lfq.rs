//! Lookup-free quantization: the sign of each channel is a bit of the code.
//!
//! Source: Yu et al., "Language Model Beats Diffusion: Tokenizer is Key to Visual Generation" (arXiv
//! 2310.05737, section 3.1). Its entropy loss is computed bit by bit, which needs no table of all codes: it
//! is exact for the entropy of a single latent and an upper bound for that of the batch (as in Zhao et al.,
//! arXiv 2406.07548).

use burn::module::Module;
use burn::tensor::{Int, Tensor, TensorData, activation};

use super::quantized::Quantized;

/// A quantizer with one bit per channel and no parameters.
#[derive(Module, Debug)]
pub struct Lfq {
    bits: usize,
}

impl Lfq {
    /// A quantizer of `bits` channels.
    pub(super) fn new(bits: usize) -> Self {
        Self { bits }
    }

    /// See [`super::Quantizer::codes`]; the first channel is the least significant bit, and 0 counts as
    /// negative.
    pub(super) fn codes(&self, latents: Tensor<4>) -> Tensor<3, Int> {
        let latents = latents.detach();
        let [batch, _, height, width] = latents.dims();
        let places: Vec<f32> = (0..self.bits).map(|bit| (1u32 << bit) as f32).collect();
        let places = TensorData::new(places, [1, self.bits, 1, 1]);
        let places = Tensor::from_data(places, &latents.device());
        let bits = latents.greater_elem(0.0).float();
        (bits * places).sum_dim(1).int().reshape([batch, height, width])
    }

    /// See [`super::Quantizer::lookup`]; each channel is -1 or 1.
    pub(super) fn lookup(&self, codes: Tensor<3, Int>) -> Tensor<4> {
        let [batch, height, width] = codes.dims();
        let mut rest = codes.reshape([batch, 1, height, width]);
        let mut channels = Vec::with_capacity(self.bits);
        for _ in 0..self.bits {
            channels.push(rest.clone().remainder_scalar(2).float() * 2.0 - 1.0);
            rest = rest / 2;
        }
        Tensor::cat(channels, 1)
    }

    /// See [`super::Quantizer::forward`].
    pub(super) fn forward(&self, latents: Tensor<4>) -> Quantized {
        let codes = self.codes(latents.clone());
        let offset = self.lookup(codes.clone()) - latents.clone();
        let commitment = offset.clone().square().mean();
        Quantized {
            entropy_loss: entropy(latents.clone()),
            latents: latents + offset.detach(),
            codes,
            codebook_loss: commitment.zeros_like(),
            commitment_loss: commitment,
        }
    }
}

/// The mean entropy of a latent's bits less the entropy of the mean bits, in nats per bit.
///
/// Low where each latent is certain and all together use both values of every bit. The log-odds of a bit
/// are the difference of its squared distances to -1 and 1.
fn entropy(latents: Tensor<4>) -> Tensor<1> {
    let log_odds = latents * 4.0;
    let mean_entropy = binary_entropy(log_odds.clone()).mean();
    let mean = activation::sigmoid(log_odds).mean_dim(0).mean_dim(2).mean_dim(3); // [1, bits, 1, 1]
    let mean = mean.clamp(1e-6, 1.0 - 1e-6);
    let rest = mean.clone().neg() + 1.0;
    let negative_entropy_of_mean = (mean.clone() * mean.log() + rest.clone() * rest.log()).mean();
    mean_entropy + negative_entropy_of_mean
}

/// The entropy of a bit of log-odds `x`: `softplus(x) - x sigmoid(x)`.
fn binary_entropy(x: Tensor<4>) -> Tensor<4> {
    // The entropy is even in x, and a negative x cannot overflow.
    let x = x.abs().neg();
    activation::softplus(x.clone(), 1.0) - x.clone() * activation::sigmoid(x)
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;
    use crate::init;
    use burn::tensor::{Device, Distribution};

    #[test]
    fn codes_of_looked_up_vectors_are_the_same() {
        let device = Device::flex();
        let lfq = Lfq::new(10);
        let codes = Tensor::<1, Int>::arange(0..1024, &device).reshape([1, 32, 32]);
        let vectors = lfq.lookup(codes.clone());
        lfq.codes(vectors * 0.3).into_data().assert_eq(&codes.into_data(), true);
    }

    #[test]
    fn entropy_is_lowest_for_certain_latents_that_use_both_signs() {
        let device = Device::flex();
        let value = |x: Tensor<4>| entropy(x).into_scalar::<f32>();
        let signs = init::random([4, 3, 8, 8], Distribution::Normal(0.0, 1.0), &device).sign();
        let balanced = value(signs.clone() * 2.0);
        assert!(balanced < -0.6 && balanced > -std::f32::consts::LN_2 - 1e-3, "{balanced}");
        assert!(value(signs.clone() * 0.01) > balanced + 0.5, "uncertain");
        assert!(value(signs.abs() * 2.0) > balanced + 0.5, "one sided");
        // Compared with the sum over both values.
        let x = Tensor::<4>::from_data(
            TensorData::new(vec![-3.0f32, 0.0, 0.7, 40.0], [1, 1, 1, 4]),
            &device,
        );
        let got: Vec<f32> = binary_entropy(x.clone()).into_data().iter::<f32>().collect();
        for (got, x) in got.into_iter().zip(x.into_data().iter::<f32>()) {
            let p = 1.0 / (1.0 + (-f64::from(x)).exp());
            let term = |p: f64| if p > 0.0 { -p * p.ln() } else { 0.0 };
            assert!((f64::from(got) - term(p) - term(1.0 - p)).abs() < 1e-6, "{x}");
        }
    }
}
