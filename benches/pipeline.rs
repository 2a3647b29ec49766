//! Times of the parts at the demo's sizes, with random weights: `cargo bench`.
//!
//! encode and decode: one 64x64 image; prefill: a prompt of 80 tokens; decode_step: one token for each of two
//! rows (the two branches of guidance); train_step: 16 rows of 256 tokens; vq_train_step: 16 images.
#![allow(missing_docs, reason = "criterion's macros make undocumented items")]

use std::hint::black_box;

use burn::optim::GradientsParams;
use burn::tensor::{Device, Distribution, Tensor};
use calumma::data::pack::PackedBatch;
use calumma::generate::{LanguageModel, ServingModel, Span};
use calumma::model::{ModelConfig, PagedCache};
use calumma::train::objective::{Activations, LossConfig, NextToken, NextTokenBatch};
use calumma::train::{Optimizer, OptimizerConfig};
use criterion::{Criterion, criterion_group};
use image::RgbImage;
use vq_tokenizer::preprocess::PreprocessorConfig;
use vq_tokenizer::train::VqObjective;
use vq_tokenizer::{VqConfig, VqTokenizer};

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// An image tokenizer for 64x64 images, of a size similar to that of `recipes/vq-64.toml`.
fn vq_config() -> VqConfig {
    let json = serde_json::json!({
        "resolution": 64, "base_channels": 32, "channel_multiplier": [1, 1, 2, 4],
        "norm_groups": 4, "num_res_blocks": 1, "attn_resolutions": [], "latent_channels": 64, "embed_dim": 16,
        "num_embeddings": 1024,
    });
    serde_json::from_value(json).expect("the keys are VqConfig's")
}

/// The language model of `recipes/demo-lm.toml`.
fn model_config() -> ModelConfig {
    ModelConfig {
        vocab_size: 2560,
        hidden_size: 256,
        intermediate_size: 704,
        num_hidden_layers: 6,
        num_attention_heads: 4,
        num_key_value_heads: 4,
        max_position_embeddings: 512,
        ..ModelConfig::default()
    }
}

fn image_tokenizer(c: &mut Criterion) {
    let device = Device::flex();
    let model = vq_config().init(&device);
    let preprocessor = PreprocessorConfig::original(64);
    let tokenizer = VqTokenizer::new(vq_config(), preprocessor, model, device.clone());
    let image = RgbImage::from_fn(64, 64, |x, y| image::Rgb([x as u8 * 4, y as u8 * 4, 128]));
    let images = [image];
    let codes = tokenizer.encode(&images).expect("a 64x64 image fits");
    c.bench_function("encode", |b| b.iter(|| black_box(tokenizer.encode(&images))));
    c.bench_function("decode", |b| b.iter(|| black_box(tokenizer.decode(&codes))));

    let device = device.autodiff();
    let model = vq_config().init(&device);
    let objective = VqObjective::default();
    let pixels = Tensor::random([16, 3, 64, 64], Distribution::Uniform(-1.0, 1.0), &device);
    c.bench_function("vq_train_step", |b| {
        b.iter(|| {
            let loss = objective.loss(&model, pixels.clone());
            GradientsParams::from_grads(loss.total.backward(), &model)
        });
    });
}

fn decoding(c: &mut Criterion) {
    let device = Device::flex();
    let model = model_config().init(&device).expect("the sizes fit together");
    let serving = ServingModel::new(model_config(), model, device);
    let prompt: Vec<u32> = (0..80).map(|i| i * 7 % 2560).collect();
    let blocks: [[u32; 3]; 2] = [[0, 1, 2], [3, 4, 5]];
    let pass = |start: usize, ids: &[u32], cache: &mut PagedCache| {
        let span = |blocks| Span { blocks, start, ids, wanted: 1, columns: 0..2560 };
        serving.pass(&blocks.each_ref().map(|blocks| span(blocks)), cache).expect("they fit")
    };
    c.bench_function("prefill", |b| {
        b.iter(|| {
            let mut cache = serving.new_cache(6);
            black_box(pass(0, &prompt, &mut cache))
        });
    });
    let mut cache = serving.new_cache(6);
    pass(0, &prompt, &mut cache);
    let mut len = 80;
    c.bench_function("decode_step", |b| {
        b.iter(|| {
            // Later tokens are overwritten, the prompt's stay.
            len = if len == 160 { 80 } else { len };
            len += 1;
            black_box(pass(len - 1, &[9], &mut cache))
        });
    });
}

fn training(c: &mut Criterion) {
    let device = Device::flex().autodiff();
    let mut model = Some(model_config().init(&device).expect("the sizes fit together"));
    let (rows, seq_len, document) = (16, 256, 85);
    let tokens = rows * seq_len;
    let within = |token: usize| token % seq_len;
    let packed = PackedBatch {
        ids: (0..tokens).map(|token| (token * 7 % 2560) as u32).collect(),
        document_ids: (0..tokens).map(|token| (within(token) / document + 1) as u32).collect(),
        positions: (0..tokens).map(|token| (within(token) % document) as u32).collect(),
        loss_mask: (0..tokens).map(|token| within(token) % document != 0).collect(),
        sources: vec![0; tokens],
        rows,
        seq_len,
    };
    let batch = NextTokenBatch { is_image: vec![true; tokens], packed };
    let objective = NextToken { config: LossConfig::default() };
    let normalizer = objective.normalizer(std::slice::from_ref(&batch));
    let mut optimizer = Optimizer::new(OptimizerConfig::default());
    c.bench_function("train_step", |b| {
        b.iter(|| {
            let current = model.take().expect("put back below");
            let (gradients, _) =
                objective.gradients(&current, &batch, normalizer, Activations::Keep);
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
    targets = image_tokenizer, decoding, training
}

fn main() {
    calumma::allocator::tune();
    benches();
    Criterion::default().configure_from_args().final_summary();
}
