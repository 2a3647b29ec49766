//! The discriminator's loss: hinge loss with LeCAM regularisation.
//!
//! Source: the hinge loss of taming-transformers' `VQLPIPSWithDiscriminator`; LeCAM: Tseng et al.,
//! "Regularizing Generative Adversarial Networks under Limited Data" (arXiv 2104.03310).

use burn::tensor::{Tensor, activation};
use serde::{Deserialize, Serialize};

use super::discriminator::Discriminator;

/// Decay of the moving averages.
const DECAY: f32 = 0.99;

/// Moving averages of the discriminator's logits; serialisable, for an exact resume.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Lecam {
    real: f32,
    fake: f32,
}

/// Images of one size and their reconstructions, for a step of the discriminator.
#[derive(Clone, Debug)]
pub struct AdversarialBatch {
    /// `[batch, 3, H, W]` in [-1, 1].
    pub pixels: Tensor<4>,
    /// Their reconstructions, of the same shape.
    pub reconstructions: Tensor<4>,
    /// Their share of the images of the whole batch, in (0, 1]; 1 where all have one size.
    pub share: f64,
}

/// The loss of the discriminator on one batch.
#[derive(Debug)]
pub struct DiscriminatorLoss {
    /// The loss to differentiate, `[1]`.
    pub total: Tensor<1>,
    /// Mean logit of images.
    pub real: f64,
    /// Mean logit of reconstructions.
    pub fake: f64,
}

impl Lecam {
    /// The hinge loss of `discriminator` on images and detached reconstructions, plus LeCAM's term times
    /// `weight`.
    ///
    /// With a positive `weight` the mean logits enter the moving averages, decayed by the share of `batch`:
    /// the groups of a batch together decay them as much as one whole batch.
    pub fn discriminator_loss(
        &mut self,
        discriminator: &Discriminator,
        batch: AdversarialBatch,
        weight: f64,
    ) -> DiscriminatorLoss {
        let AdversarialBatch { pixels, reconstructions, share } = batch;
        let real = discriminator.forward(pixels);
        let fake = discriminator.forward(reconstructions.detach());
        let hinge = |x: Tensor<4>| activation::relu(x + 1.0).mean();
        let mut total = (hinge(real.clone().neg()) + hinge(fake.clone())) * 0.5;
        let mean = |x: &Tensor<4>| x.clone().detach().mean().into_scalar::<f32>();
        let (mean_real, mean_fake) = (mean(&real), mean(&fake));
        if weight > 0.0 {
            let decay = DECAY.powf(share as f32);
            self.real = decay * self.real + (1.0 - decay) * mean_real;
            self.fake = decay * self.fake + (1.0 - decay) * mean_fake;
            let above = activation::relu(real - self.fake).square().mean();
            let below = activation::relu(fake.neg() + self.real).square().mean();
            total = total + (above + below) * weight;
        }
        DiscriminatorLoss { total, real: f64::from(mean_real), fake: f64::from(mean_fake) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::init;
    use crate::train::AdversarialConfig;
    use burn::tensor::{Device, Distribution};

    #[test]
    fn the_loss_is_the_hinge_over_patches_and_lecam_adds_to_it() {
        let device = Device::flex();
        let config = AdversarialConfig { weight: 1.0, ..AdversarialConfig::default() };
        config.validate().expect("the defaults are allowed");
        let discriminator = Discriminator::new(&config, &device);
        let image = || init::random([2, 3, 32, 32], Distribution::Default, &device);
        let (real, fake) = (image(), image());
        assert_eq!(discriminator.forward(real.clone()).dims(), [2, 1, 6, 6]);
        let values =
            |x: Tensor<4>| -> Vec<f32> { discriminator.forward(x).into_data().iter().collect() };
        let hinge = |x: Vec<f32>, sign: f32| {
            x.iter().map(|x| (1.0 + sign * x).max(0.0)).sum::<f32>() / x.len() as f32
        };
        let want = (hinge(values(real.clone()), -1.0) + hinge(values(fake.clone()), 1.0)) / 2.0;
        let batch =
            |share| AdversarialBatch { pixels: real.clone(), reconstructions: fake.clone(), share };
        let loss = Lecam::default().discriminator_loss(&discriminator, batch(1.0), 0.0);
        assert!((loss.total.into_scalar::<f32>() - want).abs() < 1e-5);
        // LeCAM: the averages move towards the logits, and its term is not negative.
        let mut lecam = Lecam::default();
        let with =
            lecam.discriminator_loss(&discriminator, batch(1.0), 0.5).total.into_scalar::<f32>();
        assert!(with >= want && lecam != Lecam::default());
        // The groups of a batch move the averages as far as the whole batch.
        let mut parts = Lecam::default();
        for share in [0.25, 0.75] {
            parts.discriminator_loss(&discriminator, batch(share), 0.5);
        }
        assert!((parts.real - lecam.real).abs() < 1e-6 && (parts.fake - lecam.fake).abs() < 1e-6);
    }
}
