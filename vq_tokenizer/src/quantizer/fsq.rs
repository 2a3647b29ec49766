//! Finite scalar quantization: each channel is bounded and rounded to a few levels, and the code is the
//! number with the rounded channels as its digits. No codebook is learned, so none can collapse.
//!
//! Source: Mentzer et al., "Finite Scalar Quantization: VQ-VAE Made Simple" (arXiv 2309.15505, section
//! 3.1 and appendix A.1).

use burn::module::Module;
use burn::tensor::{Device, Int, Tensor, TensorData};

use super::quantized::Quantized;

/// Widens the range of the bounding function, so that the outermost levels are reached.
const SLACK: f32 = 1e-3;

/// A quantizer with `levels` levels in each channel and no parameters.
#[derive(Module, Debug)]
pub struct Fsq {
    #[module(skip)]
    levels: Vec<usize>,
}

impl Fsq {
    /// A quantizer of as many channels as `levels` has entries.
    pub(super) fn new(levels: &[usize]) -> Self {
        Self { levels: levels.to_vec() }
    }

    /// `value` of the number of levels of each channel, `[1, channels, 1, 1]`.
    fn per_channel(&self, value: impl Fn(usize) -> f32, device: &Device) -> Tensor<4> {
        let values: Vec<f32> = self.levels.iter().map(|levels| value(*levels)).collect();
        Tensor::from_data(TensorData::new(values, [1, self.levels.len(), 1, 1]), device)
    }

    /// Latents bounded to the range of the levels, where the integers are the levels.
    ///
    /// # Shapes
    /// - latents and result: `[batch, channels, h, w]`
    fn bounded(&self, latents: Tensor<4>) -> Tensor<4> {
        let device = latents.device();
        let half = |levels: usize| (levels - 1) as f32 * (1.0 + SLACK) / 2.0;
        let offset = |levels: usize| if levels.is_multiple_of(2) { 0.5 } else { 0.0 };
        let shift = self.per_channel(|l| (offset(l) / half(l)).atanh(), &device);
        let (half, offset) = (self.per_channel(half, &device), self.per_channel(offset, &device));
        (latents + shift).tanh() * half - offset
    }

    /// The level of each channel, counted from 0.
    ///
    /// # Shapes
    /// - latents and result: `[batch, channels, h, w]`
    fn digits(&self, latents: Tensor<4>) -> Tensor<4> {
        let middle = self.per_channel(|levels| (levels / 2) as f32, &latents.device());
        self.bounded(latents).round() + middle
    }

    /// See [`super::Quantizer::codes`]; the first channel is the least significant digit.
    pub(super) fn codes(&self, latents: Tensor<4>) -> Tensor<3, Int> {
        let digits = self.digits(latents.detach());
        let [batch, _, height, width] = digits.dims();
        let mut place = 1;
        let places: Vec<f32> = self
            .levels
            .iter()
            .map(|levels| {
                let this = place;
                place *= levels;
                this as f32
            })
            .collect();
        let shape = [1, self.levels.len(), 1, 1];
        let places = Tensor::from_data(TensorData::new(places, shape), &digits.device());
        // Exact: codes are at most 2^24.
        (digits * places).sum_dim(1).int().reshape([batch, height, width])
    }

    /// See [`super::Quantizer::lookup`]; each channel is in [-1, 1].
    pub(super) fn lookup(&self, codes: Tensor<3, Int>) -> Tensor<4> {
        let [batch, height, width] = codes.dims();
        let mut rest = codes.reshape([batch, 1, height, width]);
        let mut channels = Vec::with_capacity(self.levels.len());
        for &levels in &self.levels {
            let digit = rest.clone().remainder_scalar(levels as i32).float();
            let middle = (levels / 2) as f32;
            channels.push((digit - middle) / middle);
            rest = rest / levels as i32;
        }
        Tensor::cat(channels, 1)
    }

    /// See [`super::Quantizer::forward`]; the gradient passes the rounding unchanged.
    pub(super) fn forward(&self, latents: Tensor<4>) -> Quantized {
        let device = latents.device();
        let codes = self.codes(latents.clone());
        let bounded = self.bounded(latents);
        let rounding = (bounded.clone().round() - bounded.clone()).detach();
        let middle = self.per_channel(|levels| (levels / 2) as f32, &device);
        let zero = Tensor::zeros([1], &device);
        Quantized {
            latents: (bounded + rounding) / middle,
            codes,
            codebook_loss: zero.clone(),
            commitment_loss: zero.clone(),
            entropy_loss: zero,
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;
    use crate::init;
    use burn::tensor::Distribution;

    #[test]
    fn codes_of_looked_up_vectors_are_the_same() {
        let device = Device::flex();
        for levels in [vec![8, 5, 5, 5], vec![4, 3], vec![7], vec![8, 8, 8, 5, 5, 5]] {
            let fsq = Fsq::new(&levels);
            let count = levels.iter().product::<usize>().min(5000) as i64;
            let codes = Tensor::<1, Int>::arange(0..count, &device).reshape([1, 1, -1]);
            let vectors = fsq.lookup(codes.clone());
            // The inverse of the bounding gives a latent in the middle of each level.
            let half = |l: usize| (l - 1) as f32 * (1.0 + SLACK) / 2.0;
            let offset = |l: usize| if l.is_multiple_of(2) { 0.5 } else { 0.0 };
            let middle = fsq.per_channel(|l| (l / 2) as f32, &device);
            let offsets = fsq.per_channel(offset, &device);
            let level = (vectors * middle + offsets) / fsq.per_channel(half, &device);
            let shift = fsq.per_channel(|l| (offset(l) / half(l)).atanh(), &device);
            let latents = level.atanh() - shift;
            fsq.codes(latents).into_data().assert_eq(&codes.into_data(), true);
        }
    }

    #[test]
    fn latents_are_the_vectors_of_their_codes_and_every_code_is_reached() {
        let device = Device::flex();
        let fsq = Fsq::new(&[4, 3, 5]);
        let latents = init::random([1, 3, 80, 80], Distribution::Normal(0.0, 1.0), &device);
        let quantized = fsq.forward(latents);
        let vectors = fsq.lookup(quantized.codes.clone());
        quantized
            .latents
            .into_data()
            .assert_approx_eq(&vectors.into_data(), burn::tensor::Tolerance::<f32>::absolute(1e-6));
        let mut seen: Vec<i64> = quantized.codes.into_data().iter::<i64>().collect();
        seen.sort_unstable();
        seen.dedup();
        assert_eq!(seen, (0..60).collect::<Vec<_>>());
    }

    #[test]
    fn the_gradient_is_that_of_the_bounding_function() {
        let device = Device::flex().autodiff();
        let fsq = Fsq::new(&[5]);
        let latents = Tensor::<4>::full([1, 1, 1, 1], 0.3, &device).require_grad();
        let gradients = fsq.forward(latents.clone()).latents.sum().backward();
        let got = latents.grad(&gradients).unwrap().into_scalar::<f32>();
        let want = (1.0 - 0.3f32.tanh().powi(2)) * (2.0 * (1.0 + SLACK)) / 2.0;
        assert!((got - want).abs() < 1e-6, "{got} {want}");
    }
}
