//! Gradient estimators: quantization itself has no useful gradient.

use burn::tensor::Tensor;
use serde::{Deserialize, Serialize};

/// How the gradient of a code becomes that of its latent.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Estimator {
    /// The latent gets the gradient of the code (Bengio et al., arXiv 1308.3432).
    #[default]
    StraightThrough,
    /// The gradient is rotated and scaled by the map that takes the latent to its code (Fifty et al.,
    /// "Restructuring Vector Quantization with the Rotation Trick", arXiv 2410.06424, equation 4).
    Rotation,
}

impl Estimator {
    /// The values of `codes` with a gradient for `latents`.
    ///
    /// # Shapes
    /// - latents, codes and result: `[batch, embed, h, w]`
    pub(super) fn pass(self, latents: Tensor<4>, codes: Tensor<4>) -> Tensor<4> {
        let codes = codes.detach();
        match self {
            Self::StraightThrough => {
                let offset = (codes - latents.clone()).detach();
                latents + offset
            }
            Self::Rotation => rotated(latents, codes),
        }
    }
}

/// `lambda (z - 2 r (r z) + 2 q (e z))`, a linear map of the latent `z` whose value is the code.
///
/// `e` and `q` are the directions of latent and code, `r` is that of their sum, and `lambda` the ratio of
/// the code's length to the latent's.
fn rotated(latents: Tensor<4>, codes: Tensor<4>) -> Tensor<4> {
    const MIN_LENGTH: f32 = 1e-6;
    let fixed = latents.clone().detach();
    let length = |x: &Tensor<4>| x.clone().square().sum_dim(1).sqrt().clamp_min(MIN_LENGTH);
    let (latent_length, code_length) = (length(&fixed), length(&codes)); // [batch, 1, h, w]
    let e = fixed / latent_length.clone();
    let q = codes / code_length.clone();
    let sum = e.clone() + q.clone();
    let r = sum.clone() / length(&sum);
    let dot = |direction: &Tensor<4>| (direction.clone() * latents.clone()).sum_dim(1);
    let (by_r, by_e) = (dot(&r), dot(&e));
    (latents - r * by_r * 2.0 + q * by_e * 2.0) * (code_length / latent_length)
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;
    use crate::init;
    use burn::tensor::{Device, Distribution};

    fn random(device: &Device) -> Tensor<4> {
        init::random([2, 5, 2, 3], Distribution::Normal(0.0, 1.0), device)
    }

    #[test]
    fn values_are_those_of_the_codes() {
        let device = Device::flex();
        let (latents, codes) = (random(&device), random(&device));
        for estimator in [Estimator::StraightThrough, Estimator::Rotation] {
            let passed = estimator.pass(latents.clone(), codes.clone()).into_data();
            for (got, want) in passed.iter::<f32>().zip(codes.clone().into_data().iter::<f32>()) {
                assert!((got - want).abs() < 1e-5, "{estimator:?}: {got} {want}");
            }
        }
    }

    /// With the map held fixed, the output is a linear function of the latents.
    #[test]
    fn gradients_equal_finite_differences_of_their_formulas() {
        let device = Device::flex().autodiff();
        let latents = random(&device).require_grad();
        let (codes, weights) = (random(&device), random(&device));
        let plain = latents.clone().inner();
        for estimator in [Estimator::StraightThrough, Estimator::Rotation] {
            let loss = (estimator.pass(latents.clone(), codes.clone()) * weights.clone()).sum();
            let found = latents.grad(&loss.backward()).unwrap();
            // The first position of the first image.
            let vector = |x: &Tensor<4>| -> Vec<f64> {
                let x = x.clone().narrow(0, 0, 1).narrow(2, 0, 1).narrow(3, 0, 1);
                x.into_data().iter::<f32>().map(f64::from).collect()
            };
            let (z, q) = (vector(&plain), vector(&codes.clone().inner()));
            let g = vector(&weights.clone().inner());
            let map = |x: &[f64]| -> Vec<f64> {
                let length = |v: &[f64]| v.iter().map(|v| v * v).sum::<f64>().sqrt();
                let (e, q_hat): (Vec<f64>, Vec<f64>) = (
                    z.iter().map(|v| v / length(&z)).collect(),
                    q.iter().map(|v| v / length(&q)).collect(),
                );
                let sum: Vec<f64> = e.iter().zip(&q_hat).map(|(a, b)| a + b).collect();
                let r: Vec<f64> = sum.iter().map(|v| v / length(&sum)).collect();
                let dot = |a: &[f64], b: &[f64]| a.iter().zip(b).map(|(a, b)| a * b).sum::<f64>();
                let (by_r, by_e) = (dot(&r, x), dot(&e, x));
                (0..x.len())
                    .map(|i| {
                        (x[i] - 2.0 * r[i] * by_r + 2.0 * q_hat[i] * by_e) * length(&q) / length(&z)
                    })
                    .collect()
            };
            let value = |x: &[f64]| -> f64 {
                let y = match estimator {
                    Estimator::StraightThrough => x.to_vec(),
                    Estimator::Rotation => map(x),
                };
                y.iter().zip(&g).map(|(y, g)| y * g).sum()
            };
            for (i, got) in vector(&found).into_iter().enumerate() {
                let moved = |by: f64| {
                    let mut x = z.clone();
                    x[i] += by;
                    value(&x)
                };
                let slope = (moved(1e-3) - moved(-1e-3)) / 2e-3;
                assert!((got - slope).abs() < 1e-4, "{estimator:?} entry {i}: {got} {slope}");
            }
        }
    }
}
