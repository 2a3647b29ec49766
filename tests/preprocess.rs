//! Preprocessing against Pillow 13: transformers' processor and the original release's rules.

use vq_tokenizer::preprocess::{PreprocessorConfig, Rule, open_image, to_rgb_by};

use crate::common::{Expected, cpu, excess, fixture};

/// Images of every colour mode and of wide, tall, small and exact sizes.
const IMAGES: [&str; 11] = [
    "rgb_wide",
    "rgb_tall",
    "rgb_small",
    "rgb_extreme",
    "rgb_exact",
    "rgb_large_noise",
    "gray",
    "gray_alpha",
    "palette",
    "rgba_gradient",
    "rgba_opaque",
];

fn preprocessed(name: &str, config: &PreprocessorConfig) -> image::RgbImage {
    let path = fixture(&format!("images/{name}.png"));
    config.resize(&to_rgb_by(open_image(&path).unwrap(), config.rule))
}

#[test]
fn bytes_equal_both_references_exactly() {
    let expected = Expected::open("images/expected.safetensors");
    for (rule, config) in [
        ("hf", PreprocessorConfig::hugging_face(32)),
        ("original", PreprocessorConfig::original(32)),
    ] {
        for name in IMAGES {
            let image = preprocessed(name, &config);
            let reference = expected.bytes(&format!("{name}.{rule}_uint8_hwc"));
            assert_eq!(image.as_raw(), &reference, "{name} by rule {rule}");
        }
    }
}

#[test]
fn pixel_values_equal_both_references() {
    let expected = Expected::open("images/expected.safetensors");
    for (rule, config) in [
        ("hf_pil", PreprocessorConfig::hugging_face(32)),
        ("original", PreprocessorConfig::original(32)),
    ] {
        for name in ["rgb_wide", "rgba_gradient"] {
            let tensor = config.tensor(&[preprocessed(name, &config)], &cpu()).unwrap();
            let reference = expected.floats(&format!("{name}.{rule}"));
            let off = excess(&tensor.squeeze_dim::<3>(0).to_data(), &reference, 1e-6, 0.0);
            assert!(off <= 1.0, "{name} by rule {rule} is {off} tolerances off");
        }
    }
}

#[test]
fn the_released_configuration_is_hugging_faces_rule_at_512_pixels() {
    let path = fixture("images/preprocessor_config.json");
    let config = PreprocessorConfig::load(&path).unwrap();
    assert_eq!(config, PreprocessorConfig::hugging_face(512));
    assert_eq!(config.rule, Rule::HuggingFace);
}
