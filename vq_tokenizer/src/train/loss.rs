//! The weights of the loss and its pixel terms.

use burn::tensor::Tensor;
use serde::{Deserialize, Serialize};

use super::ms_ssim::ms_ssim;
use crate::error::{Error, Result};

/// The weight of each term of the loss; a term of weight 0 is not computed.
///
/// The defaults of `codebook` and `commitment` are the reference's "legacy" form, where beta = 0.25 scales
/// the codebook term (taming-transformers `VectorQuantizer2`, used by Chameleon).
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct VqLossConfig {
    /// Mean absolute error of the pixels.
    pub l1: f64,
    /// Mean squared error of the pixels.
    pub l2: f64,
    /// Mean absolute error of the differences between neighbouring pixels, which keeps edges sharp.
    pub gradient: f64,
    /// One minus the multi-scale structural similarity; sides are at least 11 pixels.
    pub ms_ssim: f64,
    /// Mean squared distance that moves the codebook towards the latents.
    pub codebook: f64,
    /// Mean squared distance that moves the latents towards the codebook.
    pub commitment: f64,
    /// Mean entropy of the single choices less the entropy of their mean, for lfq and ibq: makes each choice
    /// certain and uses all codes.
    pub entropy: f64,
}

impl Default for VqLossConfig {
    fn default() -> Self {
        Self {
            l1: 1.0,
            l2: 1.0,
            gradient: 1.0,
            ms_ssim: 0.0,
            codebook: 0.25,
            commitment: 1.0,
            entropy: 0.0,
        }
    }
}

impl VqLossConfig {
    /// Checks that all weights are finite and not negative, and that `l1` or `l2` is positive.
    ///
    /// # Errors
    /// [`Error::Invalid`] naming the weight and its value.
    pub fn validate(&self) -> Result<()> {
        for (key, weight) in [
            ("l1", self.l1),
            ("l2", self.l2),
            ("gradient", self.gradient),
            ("ms_ssim", self.ms_ssim),
            ("codebook", self.codebook),
            ("commitment", self.commitment),
            ("entropy", self.entropy),
        ] {
            if !weight.is_finite() || weight < 0.0 {
                let message = format!("loss weight {key} is {weight}; allowed: 0 or more");
                return Err(Error::invalid(message));
            }
        }
        if self.l1 + self.l2 == 0.0 {
            return Err(Error::invalid("loss weights l1 and l2 are both 0; one must be positive"));
        }
        Ok(())
    }

    /// The weighted sum of the pixel terms.
    ///
    /// # Shapes
    /// - output, pixels: `[batch, 3, H, W]` in [-1, 1]
    /// - result: `[1]`
    pub(super) fn reconstruction(&self, output: Tensor<4>, pixels: Tensor<4>) -> Tensor<1> {
        let error = output.clone() - pixels.clone();
        let mut sum = error.clone().square().mean() * self.l2;
        if self.l1 > 0.0 {
            sum = sum + error.clone().abs().mean() * self.l1;
        }
        if self.gradient > 0.0 {
            sum = sum + edge_error(error) * self.gradient;
        }
        if self.ms_ssim > 0.0 {
            sum = sum + (ms_ssim(output, pixels).neg() + 1.0) * self.ms_ssim;
        }
        sum
    }
}

/// The mean squared error of the pixels, detached.
pub(super) fn squared_error(output: &Tensor<4>, pixels: &Tensor<4>) -> Tensor<1> {
    (output.clone() - pixels.clone()).detach().square().mean()
}

/// The mean absolute difference between neighbouring pixels, horizontal plus vertical.
fn edge_error(error: Tensor<4>) -> Tensor<1> {
    let [_, _, height, width] = error.dims();
    let difference = |dim: usize, len: usize| {
        let next = error.clone().narrow(dim, 1, len - 1);
        (next - error.clone().narrow(dim, 0, len - 1)).abs().mean()
    };
    difference(3, width) + difference(2, height)
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;
    use burn::tensor::{Device, Int};

    #[test]
    fn edge_error_of_a_ramp_is_its_slopes() {
        let device = Device::flex();
        let column = Tensor::<1, Int>::arange(0..5, &device).float().reshape([1, 1, 1, 5]) * 0.5;
        let row = Tensor::<1, Int>::arange(0..4, &device).float().reshape([1, 1, 4, 1]) * 0.25;
        let value = edge_error(column + row).into_scalar::<f32>();
        assert!((value - 0.75).abs() < 1e-6, "{value}");
    }

    #[test]
    fn unknown_keys_and_bad_weights_are_refused() {
        assert!(serde_json::from_str::<VqLossConfig>(r#"{"l3": 1}"#).is_err());
        let bad = VqLossConfig { gradient: -1.0, ..VqLossConfig::default() };
        assert!(bad.validate().unwrap_err().to_string().contains("gradient is -1"));
        assert!(VqLossConfig::default().validate().is_ok());
    }
}
