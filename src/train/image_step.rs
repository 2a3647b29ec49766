//! What one step of an image tokenizer's training gathers from its groups of images.

use burn::optim::{GradientsAccumulator, GradientsParams};
use burn::tensor::{Int, Tensor};
use vq_tokenizer::VqModel;
use vq_tokenizer::train::{AdversarialBatch, SemanticHead, VqLoss};

use super::image_batches::Group;
use crate::report::Metrics;

/// Weighted sums over the groups of a step. With weights that are the groups' shares of the step's images,
/// loss, terms and gradients are means over images. Two terms are of a group as a whole, and their sum is
/// not that of the batch: the entropy of all choices together, and the words' losses, whose means are over
/// the words of a group.
pub(super) struct Gathered {
    pub(super) of_model: GradientsAccumulator<VqModel>,
    pub(super) of_head: GradientsAccumulator<SemanticHead>,
    pub(super) total: f64,
    pub(super) squared_error: f64,
    pub(super) terms: Metrics,
    codes: Vec<Tensor<3, Int>>,
    latents: Vec<Tensor<4>>,
    /// What the critic is to learn from, with its weight.
    pub(super) seen: Vec<(AdversarialBatch, f64)>,
}

impl Gathered {
    pub(super) fn new() -> Self {
        Self {
            of_model: GradientsAccumulator::new(),
            of_head: GradientsAccumulator::new(),
            total: 0.0,
            squared_error: 0.0,
            terms: Metrics::new(),
            codes: Vec::new(),
            latents: Vec::new(),
            seen: Vec::new(),
        }
    }

    /// Takes in the `loss` of `group` with `weight`, and its gradients for model and head. False when the
    /// sum is no number: the step must not be made then.
    pub(super) fn add(
        &mut self,
        (model, head): (&VqModel, Option<&SemanticHead>),
        group: Group,
        loss: VqLoss,
        weight: f64,
    ) -> bool {
        self.total += weight * f64::from(loss.total.clone().into_scalar::<f32>());
        self.squared_error += weight * f64::from(loss.squared_error.into_scalar::<f32>());
        for (name, value) in loss.terms {
            let value = weight * f64::from(value.into_scalar::<f32>());
            match self.terms.iter_mut().find(|(known, _)| *known == name) {
                Some((_, sum)) => *sum += value,
                None => self.terms.push((name.into(), value)),
            }
        }
        if !self.total.is_finite() {
            return false;
        }
        let mut gradients = (loss.total * weight).backward();
        self.of_model.accumulate(model, GradientsParams::from_module(&mut gradients, model));
        if let Some(head) = head {
            self.of_head.accumulate(head, GradientsParams::from_module(&mut gradients, head));
        }
        self.codes.push(loss.codes);
        self.latents.push(loss.latents);
        let Group { pixels, share, .. } = group;
        let reconstructions = loss.output;
        self.seen.push((AdversarialBatch { pixels, reconstructions, share }, weight));
        true
    }

    /// The codes of all groups, `[1, 1, positions]`, and their latents, `[1, embed, 1, positions]`: what moves
    /// the codebook is counted over the whole step.
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
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;
    use burn::module::{Module, ModuleVisitor, Param};
    use burn::tensor::{Device, Distribution};
    use vq_tokenizer::VqConfig;
    use vq_tokenizer::train::{VqLossConfig, VqObjective};

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
    fn groups_add_up_to_the_batch_they_are_parts_of() {
        let device = Device::flex().autodiff();
        device.seed(6);
        let model = model(&device);
        let config = VqLossConfig { ms_ssim: 0.3, ..VqLossConfig::default() };
        let objective = VqObjective { config };
        let pixels = Tensor::<4>::random([4, 3, 16, 16], Distribution::Uniform(-1.0, 1.0), &device);
        let gathered = |parts: &[usize]| {
            let (mut sum, mut first) = (Gathered::new(), 0);
            for len in parts {
                let (part, share) = (pixels.clone().narrow(0, first, *len), *len as f64 / 4.0);
                let loss = objective.loss(&model, part.clone());
                assert!(sum.add((&model, None), group(part, share), loss, share));
                first += len;
            }
            let gradients = sum.of_model.grads();
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
    fn positions_of_several_sizes_go_in_a_row() {
        let device = Device::flex().autodiff();
        device.seed(7);
        let model = model(&device);
        let objective = VqObjective::default();
        let mut sum = Gathered::new();
        let mut want = Vec::new();
        for (images, height, width) in [(2, 8, 24), (1, 24, 8)] {
            let size = [images, 3, height, width];
            let pixels = Tensor::<4>::random(size, Distribution::Uniform(-1.0, 1.0), &device);
            let loss = objective.loss(&model, pixels.clone());
            // Position by position, as the codebook reads them.
            want.extend(loss.latents.clone().permute([0, 2, 3, 1]).into_data().iter::<f32>());
            let share = images as f64 / 3.0;
            assert!(sum.add((&model, None), group(pixels, share), loss, share));
        }
        let (codes, latents) = sum.positions();
        assert_eq!((codes.dims(), latents.dims()), ([1, 1, 144], [1, 3, 1, 144]));
        let got: Vec<f32> = latents.permute([0, 2, 3, 1]).into_data().iter::<f32>().collect();
        assert_eq!(got, want);
    }
}
