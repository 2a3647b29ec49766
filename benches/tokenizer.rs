//! Times of the image tokenizer at the size of the comparison with PyTorch: `cargo bench --bench tokenizer`.
//!
//! 64 channels in levels of 1, 2, 2, 4, two residual blocks each, 128x128 pixels, 16x16 codes of 4096;
//! batches of four images. encode: pixels to codes; decode: codes to pixels; train_step: loss, gradients and
//! an update with AdamW.
#![allow(missing_docs, reason = "criterion's macros make undocumented items")]

use std::hint::black_box;

use burn::optim::GradientsParams;
use burn::tensor::{Device, Distribution, Int, Tensor};
use calumma::train::{Optimizer, OptimizerConfig};
use criterion::{Criterion, criterion_group};
use vq_tokenizer::VqConfig;
use vq_tokenizer::train::{VqLossConfig, VqObjective};

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

const IMAGES: usize = 4;
const SIDE: usize = 128;

fn config() -> VqConfig {
    VqConfig {
        base_channels: 64,
        channel_multiplier: vec![1, 2, 2, 4],
        num_res_blocks: 2,
        attn_resolutions: None,
        latent_channels: 256,
        embed_dim: 256,
        num_embeddings: 4096,
        resolution: SIDE,
        ..VqConfig::default()
    }
}

fn pixels(device: &Device) -> Tensor<4> {
    Tensor::random([IMAGES, 3, SIDE, SIDE], Distribution::Uniform(-1.0, 1.0), device)
}

fn tokenizer(c: &mut Criterion) {
    let device = Device::flex();
    let model = config().init(&device);
    let input = pixels(&device);
    c.bench_function("vq_small_encode", |b| {
        b.iter(|| black_box(model.codes(model.latents(input.clone())).into_data()));
    });
    let codes = Tensor::<3, Int>::zeros([IMAGES, 16, 16], &device);
    c.bench_function("vq_small_decode", |b| {
        b.iter(|| black_box(model.pixels(codes.clone()).into_data()))
    });

    let device = device.autodiff();
    let mut model = Some(config().init(&device));
    let loss = VqLossConfig { l2: 0.0, gradient: 0.0, ..VqLossConfig::default() };
    let objective = VqObjective { config: loss };
    let input = pixels(&device);
    let mut optimizer = Optimizer::new(OptimizerConfig::default());
    c.bench_function("vq_small_train_step", |b| {
        b.iter(|| {
            let current = model.take().expect("put back below");
            let loss = objective.loss(&current, input.clone());
            let gradients = GradientsParams::from_grads(loss.total.backward(), &current);
            let (next, _) = optimizer
                .step(current, gradients, 1e-4)
                .map_err(|(_, norm)| norm)
                .expect("finite gradients");
            model = Some(next);
        });
    });
}

criterion_group! {
    name = benches;
    config = Criterion::default().sample_size(10);
    targets = tokenizer
}

fn main() {
    calumma::allocator::tune();
    benches();
    Criterion::default().configure_from_args().final_summary();
}
