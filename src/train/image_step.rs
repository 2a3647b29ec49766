//! Sums over the groups of images in one step of an image tokenizer's training.

use burn::tensor::{Gradients, Int, Tensor};
use vq_tokenizer::train::{AdversarialBatch, VqLoss};

use super::image_batches::Group;
use super::trained::NotFinite;
use crate::report::Metrics;

/// Weighted sums over the groups of a step. With the groups' shares of the step's images as weights,
/// loss, terms and gradients are means over images. Two terms belong to a group as a whole, so their
/// sum is not that of the batch: the entropy of all choices together, and the words' losses, which
/// are means over the words of a group.
#[derive(Default)]
pub(super) struct Gathered {
    total: f64,
    squared_error: f64,
    terms: Metrics,
    codes: Vec<Tensor<3, Int>>,
    latents: Vec<Tensor<4>>,
    /// The discriminator's batches with their weights.
    adversarial: Vec<(AdversarialBatch, f64)>,
}

impl Gathered {
    /// Adds the `loss` of `group` with `weight`. Returns its weighted gradients, or `None` if the
    /// total is not finite.
    pub(super) fn add(&mut self, group: Group, loss: VqLoss, weight: f64) -> Option<Gradients> {
        self.total += weight * f64::from(loss.total.clone().into_scalar::<f32>());
        self.squared_error += weight * f64::from(loss.squared_error.into_scalar::<f32>());
        for (name, value) in loss.terms {
            let value = weight * f64::from(value.into_scalar::<f32>());
            match self.terms.iter_mut().find(|(known, _)| *known == name) {
                Some((_, sum)) => *sum += value,
                None => self.terms.push((name.into(), value)),
            }
        }
        self.check().ok()?;
        let gradients = (loss.total * weight).backward();
        self.codes.push(loss.codes);
        self.latents.push(loss.latents);
        let Group { pixels, share, .. } = group;
        self.adversarial
            .push((AdversarialBatch { pixels, reconstructions: loss.output, share }, weight));
        Some(gradients)
    }

    /// Checks that the total loss is finite.
    ///
    /// # Errors
    /// [`NotFinite`] if it is not.
    pub(super) fn check(&self) -> Result<(), NotFinite> {
        if self.total.is_finite() {
            return Ok(());
        }
        Err(NotFinite { quantity: "loss", value: self.total })
    }

    /// Codes and latents of all groups: the codebook counts over the whole step.
    ///
    /// # Shapes
    /// `[1, 1, positions]` and `[1, embed, 1, positions]`.
    pub(super) fn positions(&self) -> (Tensor<3, Int>, Tensor<4>) {
        let codes = self.codes.iter().map(|codes| {
            let positions = codes.dims().iter().product();
            codes.clone().reshape([1, 1, positions])
        });
        let latents = self.latents.iter().map(|latents| {
            let [batch, embed, height, width] = latents.dims();
            latents.clone().swap_dims(0, 1).reshape([1, embed, 1, batch * height * width])
        });
        (Tensor::cat(codes.collect(), 2), Tensor::cat(latents.collect(), 3))
    }

    /// The loss and the PSNR of the reconstructions in dB.
    pub(super) fn loss_and_psnr(&self) -> [f64; 2] {
        // Pixels span [-1, 1]; against a peak of 1 the error is a quarter.
        [self.total, -10.0 * (self.squared_error / 4.0).log10()]
    }

    /// The terms of the loss, and the discriminator's batches: images and reconstructions, each
    /// group with its weight.
    pub(super) fn into_parts(self) -> (Metrics, Vec<(AdversarialBatch, f64)>) {
        (self.terms, self.adversarial)
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;
    use burn::module::{Module, ModuleVisitor, Param};
    use burn::optim::{GradientsAccumulator, GradientsParams};
    use burn::tensor::{Device, Distribution};
    use vq_tokenizer::train::{VqLossConfig, VqObjective};
    use vq_tokenizer::{VqConfig, VqModel, init};

    struct Values<'a>(&'a GradientsParams, Vec<Vec<f32>>);

    impl ModuleVisitor for Values<'_> {
        fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
            let gradient = self.0.get::<D>(param.id).unwrap();
            self.1.push(gradient.into_data().iter::<f32>().collect());
        }
    }

    fn model(device: &Device) -> VqModel {
        let config = VqConfig {
            base_channels: 8,
            norm_groups: 4,
            channel_multiplier: vec![1, 2],
            num_res_blocks: 1,
            resolution: 16,
            latent_channels: 4,
            embed_dim: 3,
            num_embeddings: 8,
            ..VqConfig::default()
        };
        config.init(device)
    }

    fn group(pixels: Tensor<4>, share: f64) -> Group {
        let words = Tensor::zeros([pixels.dims()[0], 1], &pixels.device());
        Group { pixels, words, share }
    }

    #[test]
    fn groups_add_up_to_their_batch() {
        let device = Device::flex().autodiff();
        let model = model(&device);
        let config = VqLossConfig { ms_ssim: 0.3, ..VqLossConfig::default() };
        let objective = VqObjective { config };
        let pixels = init::random([4, 3, 16, 16], Distribution::Uniform(-1.0, 1.0), &device);
        let gathered = |parts: &[usize]| {
            let (mut sum, mut first) = (Gathered::default(), 0);
            let mut accumulator = GradientsAccumulator::new();
            for len in parts {
                let (part, share) = (pixels.clone().narrow(0, first, *len), *len as f64 / 4.0);
                let loss = objective.loss(&model, part.clone());
                let gradients = sum.add(group(part, share), loss, share).unwrap();
                accumulator.accumulate(&model, GradientsParams::from_grads(gradients, &model));
                first += len;
            }
            let gradients = accumulator.grads();
            let mut values = Values(&gradients, Vec::new());
            model.visit(&mut values);
            (sum.total, sum.squared_error, sum.positions(), values.1)
        };
        let (whole, parts) = (gathered(&[4]), gathered(&[1, 3]));
        assert!((whole.0 - parts.0).abs() < 1e-5, "{} {}", whole.0, parts.0);
        assert!((whole.1 - parts.1).abs() < 1e-5, "{} {}", whole.1, parts.1);
        assert_eq!(whole.3.len(), parts.3.len());
        for (whole, parts) in whole.3.iter().zip(&parts.3) {
            let largest = whole.iter().fold(1e-3_f32, |most, value| most.max(value.abs()));
            let off = whole.iter().zip(parts).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
            assert!(off < 1e-4 * largest, "{off} of {largest}");
        }
        // The codebook sees the same positions in the same order.
        whole.2.0.into_data().assert_eq(&parts.2.0.into_data(), true);
        let values = |x: Tensor<4>| x.into_data().iter::<f32>().collect::<Vec<_>>();
        let pairs = values(whole.2.1).into_iter().zip(values(parts.2.1));
        assert!(pairs.map(|(a, b)| (a - b).abs()).fold(0.0, f32::max) < 1e-5);
    }

    #[test]
    fn positions_of_several_sizes_are_concatenated() {
        let device = Device::flex().autodiff();
        let model = model(&device);
        let objective = VqObjective::default();
        let mut sum = Gathered::default();
        let mut want = Vec::new();
        for (images, height, width) in [(2, 8, 24), (1, 24, 8)] {
            let size = [images, 3, height, width];
            let pixels = init::random(size, Distribution::Uniform(-1.0, 1.0), &device);
            let loss = objective.loss(&model, pixels.clone());
            // Position by position, as the codebook reads them.
            want.extend(loss.latents.clone().permute([0, 2, 3, 1]).into_data().iter::<f32>());
            let share = images as f64 / 3.0;
            assert!(sum.add(group(pixels, share), loss, share).is_some());
        }
        let (codes, latents) = sum.positions();
        assert_eq!((codes.dims(), latents.dims()), ([1, 1, 144], [1, 3, 1, 144]));
        let got: Vec<f32> = latents.permute([0, 2, 3, 1]).into_data().iter::<f32>().collect();
        assert_eq!(got, want);
    }
}
