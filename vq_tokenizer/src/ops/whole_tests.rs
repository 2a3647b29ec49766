//! The whole tokenizer on the kernels of every device at hand against the same on the composed operations on the CPU.
#![allow(clippy::unwrap_used, reason = "tests")]

use burn::module::{Module, ModuleMapper, ModuleVisitor, Param};
use burn::optim::{AdamWConfig, GradientsParams};
use burn::tensor::{DType, Device, Distribution, Gradients, Int, Tensor};

use super::{Kernels, forced};
use crate::train::{
    AdversarialBatch, AdversarialConfig, AuxiliaryLosses, Discriminator, Lecam, SemanticConfig,
    SemanticHead, VqLossConfig, VqObjective,
};
use crate::{VqConfig, VqModel, init};

/// Values of tensors with their names.
type Named = Vec<(String, Vec<f32>)>;

/// The results of `run` on the kernels of every device, each with that on the composed operations on the CPU.
fn fused_and_composed<R: Clone>(run: impl Fn(&Device) -> R) -> Vec<[R; 2]> {
    let on = |(kernels, device): (Kernels, Device)| {
        let (result, operations) = forced::on(kernels, || run(&device));
        assert!(operations > 30, "only {operations} operations ran on {kernels:?}");
        result
    };
    let composed = on((Kernels::Composed, Device::flex()));
    let fused = std::iter::once((Kernels::Cpu, Device::flex())).chain(forced::gpu());
    fused.map(|side| [on(side), composed.clone()]).collect()
}

/// Moves every weight to a device.
struct Move<'a>(&'a Device);

impl ModuleMapper for Move<'_> {
    fn map_float<const D: usize>(&mut self, param: Param<Tensor<D>>) -> Param<Tensor<D>> {
        param.map(|weight| {
            let weight = Tensor::from_data(weight.to_data(), self.0);
            if self.0.is_autodiff() { weight.require_grad() } else { weight }
        })
    }
}

fn assert_close(what: &str, [fused, composed]: [&[f32]; 2]) {
    const TOLERANCE: f32 = 1e-5;
    assert_eq!(fused.len(), composed.len(), "{what}");
    let largest = composed.iter().fold(0.0f32, |largest, value| largest.max(value.abs()));
    // `max` would ignore NaN.
    let apart = |(a, b): (&f32, &f32)| if a.is_nan() { f32::INFINITY } else { (a - b).abs() };
    let difference = fused.iter().zip(composed).map(apart).fold(0.0f32, f32::max);
    assert!(largest > 0.0, "{what} is all zeros");
    let relative = difference / largest;
    assert!(relative <= TOLERANCE, "{what} differs by {relative} of its largest value {largest}");
}

fn assert_all_close([fused, composed]: [Named; 2]) {
    assert!(fused != composed, "equal bits: both sides ran the same operations");
    assert_eq!(fused.len(), composed.len());
    for ((name, fused), (other, composed)) in fused.iter().zip(&composed) {
        assert_eq!(name, other);
        assert_close(name, [fused, composed]);
    }
}

fn values<const D: usize>(x: &Tensor<D>) -> Vec<f32> {
    x.to_data().iter::<f32>().collect()
}

fn config() -> VqConfig {
    VqConfig {
        base_channels: 32,
        norm_groups: 8,
        channel_multiplier: vec![1, 2],
        num_res_blocks: 1,
        attn_resolutions: Some(vec![16]),
        resolution: 16,
        latent_channels: 8,
        embed_dim: 4,
        num_embeddings: 16,
        ..VqConfig::default()
    }
}

/// Pixels of images that are not square.
fn pixels(device: &Device) -> Tensor<4> {
    init::random([2, 3, 16, 24], Distribution::Uniform(-1.0, 1.0), device)
}

#[test]
fn kernels_are_chosen_by_device_and_dtype() {
    let x = Tensor::<4>::zeros([1, 1, 2, 2], &Device::flex());
    assert_eq!(Kernels::of(&x), Kernels::Cpu);
    assert_eq!(Kernels::of(&x.cast(DType::BF16)), Kernels::Composed);
    if let Some((kernels, gpu)) = forced::gpu() {
        let x = Tensor::<4>::zeros([1, 1, 2, 2], &gpu.autodiff());
        assert_eq!([Kernels::of(&x), Kernels::of(&x.cast(DType::F16))], [kernels; 2]);
    }
}

#[test]
fn composed_encoding_and_decoding_equal_the_fused() {
    let device = Device::flex();
    let (model, pixels) = (config().init(&device), pixels(&device));
    let found = fused_and_composed(|device| {
        let model = model.clone().map(&mut Move(device));
        let latents = model.latents(Tensor::from_data(pixels.to_data(), device));
        let codes = model.codes(latents.clone());
        let named = vec![
            ("latents".to_owned(), values(&latents)),
            ("decoded".to_owned(), values(&model.pixels(codes.clone()))),
        ];
        (named, codes.into_data().iter::<i64>().collect::<Vec<_>>())
    });
    for [fused, composed] in found {
        assert_eq!(fused.1, composed.1, "codes");
        assert_all_close([fused.0, composed.0]);
    }
}

/// Collects the gradients of all parameters by name, or their values if there are no gradients.
struct Parameters<'a> {
    gradients: Option<&'a Gradients>,
    path: Vec<String>,
    found: Named,
}

impl ModuleVisitor for Parameters<'_> {
    fn enter_module(&mut self, name: &str, _container_type: &str) {
        self.path.push(name.to_owned());
    }

    fn exit_module(&mut self, _name: &str, _container_type: &str) {
        self.path.pop();
    }

    fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
        let name = self.path.join(".");
        // The bias of the keys shifts all scores of a query equally, which softmax ignores: its gradient is
        // zero but for rounding.
        if name.ends_with(".k.bias") {
            return;
        }
        let value = match self.gradients {
            Some(gradients) => values(&param.val().grad(gradients).expect(&name)),
            None => values(&param.val()),
        };
        self.found.push((name, value));
    }
}

/// The gradients of all parameters of `module`, or their values if there are no gradients, named
/// after `what`.
fn parameters<M: Module>(what: &str, module: &M, gradients: Option<&Gradients>) -> Named {
    let mut visitor = Parameters { gradients, path: Vec::new(), found: Named::new() };
    module.visit(&mut visitor);
    visitor.found.into_iter().map(|(name, value)| (format!("{what} {name}"), value)).collect()
}

/// The networks of a training with all losses that pass through the operations.
#[derive(Clone)]
struct Networks {
    model: VqModel,
    discriminator: Discriminator,
    head: SemanticHead,
}

impl Networks {
    fn moved(&self, device: &Device) -> Self {
        let Self { model, discriminator, head } = self.clone();
        let mut to = Move(device);
        let (model, discriminator) = (model.map(&mut to), discriminator.map(&mut to));
        Self { model, discriminator, head: head.map(&mut to) }
    }

    fn new(device: &Device) -> Self {
        let adversarial = AdversarialConfig { channels: 16, layers: 1, ..Default::default() };
        let semantic = SemanticConfig { weight: 1.0, words: 6, hidden: 16 };
        Self {
            model: config().init(device),
            discriminator: Discriminator::new(&adversarial, device),
            head: SemanticHead::new(&semantic, 4, device),
        }
    }

    /// Losses and gradients of three steps of AdamW, and the weights after them.
    fn train(self, pixels: &Tensor<4>, words: &Tensor<2>) -> Named {
        let Self { mut model, mut discriminator, mut head } = self;
        let config = VqLossConfig { ms_ssim: 0.2, ..VqLossConfig::default() };
        let objective = VqObjective { config };
        // An epsilon below the largest gradients would magnify the rounding of the small ones.
        let optimizer = || AdamWConfig::new().with_epsilon(10.0).init();
        let mut optimizers = [optimizer(), optimizer(), optimizer()];
        let mut lecam = Lecam::default();
        let mut found = Named::new();
        for step in 0..3 {
            let auxiliary = AuxiliaryLosses {
                discriminator: Some((&discriminator, 0.1, true)),
                perceptual: None,
                semantic: Some((&head, words, 0.1)),
            };
            let loss = objective.loss_with(&model, pixels.clone(), auxiliary);
            found.push((format!("loss {step}"), values(&loss.total)));
            // The complaint is a mean of logits of both signs, which may cancel; the loss contains it.
            let terms = loss.terms.iter().filter(|(name, _)| *name != "complaint");
            found.extend(terms.map(|(name, term)| (format!("{name} {step}"), values(term))));
            let mut gradients = loss.total.backward();
            found.extend(parameters(&format!("gradient {step}"), &model, Some(&gradients)));
            found.extend(parameters(&format!("gradient {step}"), &head, Some(&gradients)));
            let of_model = GradientsParams::from_module(&mut gradients, &model);
            let of_head = GradientsParams::from_module(&mut gradients, &head);
            let (pixels, reconstructions) = (pixels.clone(), loss.output);
            let batch = AdversarialBatch { pixels, reconstructions, share: 1.0 };
            let loss = lecam.discriminator_loss(&discriminator, batch, 0.1).total;
            found.push((format!("discriminator loss {step}"), values(&loss)));
            let gradients = loss.backward();
            found.extend(parameters(&format!("gradient {step}"), &discriminator, Some(&gradients)));
            let of_discriminator = GradientsParams::from_grads(gradients, &discriminator);
            model = optimizers[0].step(1e-2, model, of_model);
            head = optimizers[1].step(1e-2, head, of_head);
            discriminator = optimizers[2].step(1e-2, discriminator, of_discriminator);
        }
        found.extend(parameters("weight", &model, None));
        found.extend(parameters("weight", &head, None));
        found.extend(parameters("weight", &discriminator, None));
        found
    }
}

/// With a seed at which rounding changes no code, and no sign in a hinge or an absolute value; at one in four it does.
#[test]
fn three_composed_training_steps_equal_the_fused() {
    init::seed(32);
    let device = Device::flex().autodiff();
    let (networks, pixels) = (Networks::new(&device), pixels(&device));
    let words = Tensor::<1, Int>::from_ints([1, 0, 0, 1, 0, 0, 0, 1, 1, 0, 0, 0], &device);
    let words = words.float().reshape([2, 6]);
    let found = fused_and_composed(|device| {
        let device = device.clone().autodiff();
        let pixels = Tensor::from_data(pixels.to_data(), &device);
        networks.moved(&device).train(&pixels, &Tensor::from_data(words.to_data(), &device))
    });
    found.into_iter().for_each(assert_all_close);
}
