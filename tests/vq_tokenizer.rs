//! The image tokenizer against transformers and the original release, on tiny checkpoints.
//!
//! `fixtures/vqvae` is transformers' `ChameleonVQVAE` with attention and changing widths; it has no
//! decoder. `fixtures/vqgan` is a decoder checked against the original release's program; its encoder
//! is that of `fixtures/models/prenorm-gqa`. Floats have a tolerance of 2e-4, for sums of a few hundred f32
//! products in another order. Every code of the fixtures wins by a clear margin, so codes must be equal.

use burn::tensor::{Int, Tensor};
use vq_tokenizer::preprocess::to_images;
use vq_tokenizer::{VqConfig, VqModel};

use crate::common::{Expected, cpu, excess, fixture};

const TOLERANCE: f32 = 2e-4;

/// transformers' model, with a random decoder.
fn vqvae() -> VqModel {
    let config = VqConfig::load(&fixture("vqvae/config.json")).unwrap();
    let model = config.init(&cpu());
    let path = fixture("vqvae/model.safetensors");
    let mut tensors = tensor_files::collect(&model);
    tensors.retain(|name, _| name.starts_with("decoder."));
    tensors.extend(tensor_files::read(&path).unwrap());
    tensor_files::load(model, tensors, &path).unwrap()
}

/// The original release's model, from one checkpoint for the encoder and one for the decoder.
fn vqgan() -> VqModel {
    let config: serde_json::Value =
        serde_json::from_slice(&std::fs::read(fixture("models/prenorm-gqa/config.json")).unwrap())
            .unwrap();
    let config: VqConfig = serde_json::from_value(config["vq_config"].clone()).unwrap();
    let path = fixture("vqgan/decoder.safetensors");
    let mut tensors = tensor_files::read(&path).unwrap();
    let language_model = fixture("models/prenorm-gqa/model.safetensors");
    for (name, data) in tensor_files::read(&language_model).unwrap() {
        if let Some(name) = name.strip_prefix("model.vqmodel.") {
            tensors.insert(name.to_owned(), data);
        }
    }
    tensor_files::load(config.init(&cpu()), tensors, &path).unwrap()
}

fn codes_of(model: &VqModel, latents: Tensor<4>) -> Vec<i64> {
    model.codes(latents).into_data().iter::<i64>().collect()
}

#[test]
fn latents_and_codes_equal_transformers() {
    let (model, expected) = (vqvae(), Expected::open("vqvae/expected.safetensors"));
    // The second is not square.
    for prefix in ["", "oblong."] {
        let tensor = |name: &str| expected.floats(&format!("{prefix}{name}"));
        let latents = model.latents(Tensor::from_data(tensor("pixel_values"), &cpu()));
        let off = excess(&latents.to_data(), &tensor("latents"), TOLERANCE, 0.0);
        assert!(off <= 1.0, "{prefix}latents are {off} tolerances off");
        let (codes, _) = expected.ints(&format!("{prefix}codes"));
        assert_eq!(codes_of(&model, latents), codes);
    }
}

#[test]
fn the_embedding_loss_with_weights_in_its_order_equals_transformers() {
    let (model, expected) = (vqvae(), Expected::open("vqvae/expected.safetensors"));
    let pixels = Tensor::from_data(expected.floats("pixel_values"), &cpu());
    let quantized = model.quantize.forward(model.latents(pixels));
    let loss = quantized.commitment_loss + quantized.codebook_loss * 0.25;
    let expected = expected.floats("embedding_loss").iter::<f32>().next().unwrap();
    assert!((loss.into_scalar::<f32>() - expected).abs() < 1e-5);
}

#[test]
fn codes_and_decoded_pixels_equal_the_original_release() {
    let (model, expected) = (vqgan(), Expected::open("vqgan/expected.safetensors"));
    let latents = model.latents(Tensor::from_data(expected.floats("pixel_values"), &cpu()));
    let (codes, _) = expected.ints("codes");
    assert_eq!(codes_of(&model, latents), codes);

    let ids: Vec<i32> = codes.iter().map(|code| *code as i32).collect();
    let ids = Tensor::<1, Int>::from_data(ids.as_slice(), &cpu()).reshape([1, 8, 8]);
    let decoded = model.pixels(ids);
    let off = excess(&decoded.to_data(), &expected.floats("decoded"), TOLERANCE, 0.0);
    assert!(off <= 1.0, "decoded pixels are {off} tolerances off");

    // A float close to an integer may be truncated to either side.
    let bytes = expected.bytes("decoded_uint8_hwc");
    let image = &to_images(decoded)[0];
    let pairs = || image.as_raw().iter().zip(&bytes);
    assert!(pairs().all(|(a, b)| a.abs_diff(*b) <= 1));
    let different = pairs().filter(|(a, b)| a != b).count();
    assert!(different * 1000 <= bytes.len(), "{different} of {} bytes differ", bytes.len());
}
