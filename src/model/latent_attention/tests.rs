//! Latent attention against transformers' own, and its two forms against each other.

#![allow(clippy::unwrap_used, reason = "tests")]

use std::path::{Path, PathBuf};

use burn::tensor::{DType, Device, FloatDType, Int, Tensor, TensorData};
use tensor_files::WeightFiles;

use super::*;
use crate::model::{CausalLm, Lane, PagedCache, QkNorm, RopeScaling, SelfAttention, Yarn, mask};

const FIXTURE: &str = "tests/fixtures/architectures/deepseek-v3-dense";

fn fixture(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(FIXTURE).join(name)
}

/// An expected tensor.
fn expected<const D: usize>(name: &str) -> Tensor<D> {
    let files = WeightFiles::open(&fixture("expected.safetensors")).unwrap();
    let data = files.stored(name).unwrap().to_data(FloatDType::F32).unwrap();
    Tensor::from_data(data, &Device::flex())
}

fn model() -> (ModelConfig, CausalLm) {
    let yarn = Yarn {
        factor: 4.0,
        original_max_position_embeddings: 64,
        beta_fast: 8.0,
        beta_slow: 0.1,
        attention_factor: None,
        mscale: Some(1.0),
        mscale_all_dim: Some(1.0),
        truncate: true,
    };
    let latent = LatentConfig {
        q_lora_rank: Some(24),
        kv_lora_rank: 20,
        qk_nope_head_dim: 12,
        qk_rope_head_dim: 8,
        v_head_dim: 10,
    };
    let config = ModelConfig {
        vocab_size: 96,
        hidden_size: 32,
        intermediate_size: 48,
        num_hidden_layers: 2,
        num_attention_heads: 4,
        num_key_value_heads: 4,
        qk_norm: QkNorm::None,
        latent: Some(latent),
        max_position_embeddings: 256,
        rms_norm_eps: 1e-6,
        rope_theta: 5000.0,
        rope_scaling: RopeScaling::Yarn(yarn),
        ..ModelConfig::default()
    };
    let path = fixture("model.safetensors");
    let files = WeightFiles::open(&path).unwrap();
    let model = tensor_files::load(config.init(&Device::flex()).unwrap(), files, &path).unwrap();
    (config, model)
}

fn latent(model: &CausalLm) -> &LatentAttention {
    match &model.model.layers[0].self_attn {
        SelfAttention::Latent(attention) => attention,
        SelfAttention::Grouped(_) => panic!("another kind of attention"),
    }
}

fn positions(rows: usize, places: std::ops::Range<usize>) -> Tensor<2, Int> {
    let values: Vec<i32> = (0..rows).flat_map(|_| places.clone()).map(|at| at as i32).collect();
    Tensor::from_data(TensorData::new(values, [rows, places.len()]), &Device::flex())
}

fn largest<const D: usize>(x: Tensor<D>) -> f32 {
    x.abs().max().into_scalar()
}

#[test]
fn the_result_and_what_is_cached_are_those_of_transformers() {
    let (_, model) = model();
    let attention = latent(&model);
    let x = expected::<3>("mla.layer0.input");
    let [rows, seq, _] = x.dims();
    let rope = model.rope(positions(rows, 0..seq));
    let y = attention.forward(x.clone(), &rope, &mask::causal(seq, &Device::flex()));
    assert!(largest(y - expected("mla.layer0.output")) < 2e-4);
    let (latents, key) = attention.latent(x, &rope);
    assert!(largest(latents - expected("mla.layer0.latent")) < 2e-4);
    let key = key.squeeze_dim::<3>(1);
    assert!(largest(key - expected("mla.layer0.k_rope_half_split")) < 2e-4);
}

#[test]
fn passes_over_the_cache_give_the_results_of_the_expanded_form() {
    let (config, model) = model();
    let (attention, device) = (latent(&model), Device::flex());
    let x = expected::<3>("mla.layer0.input").narrow(0, 1, 1);
    let seq = x.dims()[1];
    let whole = attention.forward(
        x.clone(),
        &model.rope(positions(1, 0..seq)),
        &mask::causal(seq, &device),
    );
    let mut cache = PagedCache::new(&config, 2, DType::F32, &device);
    for chunk in [1, 4, seq] {
        for start in (0..seq).step_by(chunk) {
            let rows = chunk.min(seq - start);
            let lanes = [Lane { blocks: &[1], start, rows }];
            let rope = model.rope(positions(1, start..start + rows));
            let x = x.clone().narrow(1, start, rows);
            let y = attention.paged(x, &rope, &Lanes::new(&lanes), cache.layer(0));
            assert!(largest(y - whole.clone().narrow(1, start, rows)) < 1e-5, "chunks of {chunk}");
        }
    }
}
