//! Helpers of several test modules: fixtures, their tensors, a tiny checkpoint.

use std::path::{Path, PathBuf};

use burn::tensor::{Device, Tensor, TensorData};
use calumma::checkpoint::{Parts, write_directory};
use calumma::model::ModelConfig;
use calumma::tokenize::{BpeConfig, Processor, train_bpe};
use safetensors::{Dtype, SafeTensors};
use tensor_files::StoredDtype;
use vq_tokenizer::preprocess::PreprocessorConfig;
use vq_tokenizer::{VqConfig, VqTokenizer};

/// A file below `tests/fixtures`.
pub fn fixture(path: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures").join(path)
}

/// The expected values of a reference case.
pub struct Expected(Vec<u8>);

impl Expected {
    pub fn open(path: &str) -> Self {
        Self(std::fs::read(fixture(path)).unwrap())
    }

    pub fn names(&self) -> Vec<String> {
        let file = SafeTensors::deserialize(&self.0).unwrap();
        file.names().into_iter().map(|name| name.to_string()).collect()
    }

    /// An f32 tensor.
    pub fn floats(&self, name: &str) -> TensorData {
        let file = SafeTensors::deserialize(&self.0).unwrap();
        let view = file.tensor(name).unwrap();
        assert_eq!(view.dtype(), Dtype::F32, "{name}");
        let values: Vec<f32> = view
            .data()
            .chunks_exact(4)
            .map(|b| f32::from_le_bytes(b.try_into().unwrap()))
            .collect();
        TensorData::new(values, view.shape().to_vec())
    }

    /// An int64 tensor, flat, with its shape.
    pub fn ints(&self, name: &str) -> (Vec<i64>, Vec<usize>) {
        let file = SafeTensors::deserialize(&self.0).unwrap();
        let view = file.tensor(name).unwrap();
        assert_eq!(view.dtype(), Dtype::I64, "{name}");
        let values = view
            .data()
            .chunks_exact(8)
            .map(|b| i64::from_le_bytes(b.try_into().unwrap()))
            .collect();
        (values, view.shape().to_vec())
    }

    /// A uint8 tensor, flat.
    pub fn bytes(&self, name: &str) -> Vec<u8> {
        let file = SafeTensors::deserialize(&self.0).unwrap();
        let view = file.tensor(name).unwrap();
        assert_eq!(view.dtype(), Dtype::U8, "{name}");
        view.data().to_vec()
    }

    /// An int64 tensor as ids.
    pub fn ids(&self, name: &str) -> Vec<u32> {
        self.ints(name).0.into_iter().map(|id| u32::try_from(id).unwrap()).collect()
    }
}

/// The CPU.
pub fn cpu() -> Device {
    Device::flex()
}

/// As [`crate::excess::excess`] for tensors of one shape.
pub fn excess(a: &TensorData, b: &TensorData, absolute: f32, relative: f32) -> f32 {
    assert_eq!(a.shape().as_slice(), b.shape().as_slice());
    let [a, b] = [a, b].map(|data| data.iter::<f32>().collect::<Vec<_>>());
    crate::excess::excess(&a, &b, absolute, relative)
}

/// Asserts that `tensor` equals `expected` within the tolerance of hidden states and logits.
pub fn assert_close<const D: usize>(tensor: &Tensor<D>, expected: &TensorData, what: &str) {
    let excess = excess(&tensor.to_data(), expected, 2e-4, 1e-4);
    assert!(excess <= 1.0, "{what}: {excess} times the tolerance");
}

/// Side of the images of [`tiny_checkpoint`], in pixels; 4x4 codes each.
pub const TINY_SIDE: u32 = 32;
/// Longest sequence of [`tiny_checkpoint`].
pub const TINY_CONTEXT: usize = 96;

/// Writes a complete checkpoint of random weights, some 100 kB, to the new directory `dir`.
pub fn tiny_checkpoint(dir: &Path) {
    let device = cpu();
    let vq_config: VqConfig = serde_json::from_value(serde_json::json!({
        "base_channels": 32, "channel_multiplier": [1, 1, 1, 1], "num_res_blocks": 1,
        "attn_resolutions": [], "latent_channels": 8, "embed_dim": 8,
        "num_embeddings": 24, "resolution": TINY_SIDE,
    }))
    .unwrap();
    let side = TINY_SIDE as usize / vq_config.downsampling();
    let model = vq_config.init(&device);
    let preprocessor = PreprocessorConfig::original(TINY_SIDE as usize);
    let vq = VqTokenizer::new(vq_config, preprocessor, model, device.clone());
    let bpe = BpeConfig { vocab_size: 400, num_codes: 24, ..BpeConfig::default() };
    let text = train_bpe(&bpe, ["what colour is it? a red square, a blue circle"]).unwrap();
    let processor = Processor::new(text, (side, side)).unwrap();
    let config = ModelConfig {
        vocab_size: processor.vocabulary().len(),
        hidden_size: 32,
        intermediate_size: 48,
        num_hidden_layers: 2,
        num_attention_heads: 2,
        num_key_value_heads: 1,
        max_position_embeddings: TINY_CONTEXT,
        ..ModelConfig::default()
    };
    let generation = serde_json::json!({ "max_new_tokens": 8, "guidance_scale": 2.0 });
    let parts = Parts {
        weights: Some(tensor_files::on_device(&config.init(&device).unwrap())),
        config: &config,
        dtype: StoredDtype::F32,
        processor: &processor,
        vq: Some(&vq),
        generation: generation.as_object().unwrap(),
    };
    write_directory(dir, |dir| parts.write(dir)).unwrap();
}
