use burn::tensor::{Device, Tensor};
use image::RgbImage;

use super::{PreprocessorConfig, to_images};

#[test]
fn the_rules_round_the_long_side_differently() {
    let (hugging_face, original) =
        (PreprocessorConfig::hugging_face(32), PreprocessorConfig::original(32));
    assert_eq!(hugging_face.resized(97, 53), (58, 32)); // 58.57
    assert_eq!(original.resized(97, 53), (59, 32));
    assert_eq!(original.resized(64, 80), (32, 40));
    assert_eq!(PreprocessorConfig::original(2).resized(4, 5), (2, 2)); // 2.5: half to even
}

#[test]
fn a_crop_larger_than_the_image_is_padded_with_black() {
    let config = PreprocessorConfig { shortest_edge: 5, ..PreprocessorConfig::original(8) };
    let image = config.resize(&RgbImage::from_pixel(5, 5, image::Rgb([9, 9, 9])));
    let lit = |x, y| image.get_pixel(x, y).0 == [9, 9, 9];
    assert!(lit(2, 2) && lit(6, 6) && !lit(1, 2) && !lit(7, 7));
    assert_eq!(image.pixels().filter(|pixel| pixel.0[0] == 9).count(), 25);
}

#[test]
fn a_very_long_image_is_resized_to_its_crop() {
    let config = PreprocessorConfig::hugging_face(512);
    assert_eq!(config.resize(&RgbImage::new(1, 30_000)).dimensions(), (512, 512));
}

#[test]
fn bytes_survive_conversion_to_a_tensor_and_back() {
    let config = PreprocessorConfig::original(16);
    let image = RgbImage::from_fn(16, 16, |x, y| image::Rgb([(16 * x + y) as u8, 0, 255]));
    let tensor = config.tensor(std::slice::from_ref(&image), &Device::flex()).unwrap();
    // Truncation may lose a level where the float lies just below it.
    let back = &to_images(tensor)[0];
    let off = image.as_raw().iter().zip(back.as_raw()).map(|(a, b)| a.abs_diff(*b)).max();
    assert!(off.unwrap() <= 1);
}

#[test]
fn flexible_images_with_original_pixels_span_minus_one_to_one() {
    let (flexible, square) =
        (PreprocessorConfig::flexible_original(32, 8), PreprocessorConfig::original(32));
    for (a, b) in flexible.levels(0).into_iter().zip(square.levels(0)) {
        assert!((a - b).abs() < 1e-6, "{a} {b}");
    }
    assert_eq!(flexible.resize(&RgbImage::new(60, 20)).dimensions(), (48, 16));
    assert_eq!(flexible.resize(&RgbImage::new(900, 20)).dimensions(), (64, 16));
    // 16 units: from 8x2 to 2x8.
    assert_eq!((flexible.shortest_side(), square.shortest_side()), (16, 32));
}

#[test]
fn values_are_clamped_and_truncated() {
    let device = Device::flex();
    let values = [-3.0, -1.0, 0.0, 0.999, 1.0, 7.0];
    let pixels = Tensor::<1>::from_floats(values, &device).reshape([1, 1, 1, 6]);
    let image = &to_images(pixels.repeat_dim(1, 3))[0];
    let reds: Vec<u8> = image.pixels().map(|pixel| pixel.0[0]).collect();
    assert_eq!(reds, [0, 0, 127, 254, 255, 255]);
}

#[test]
fn a_written_configuration_is_read_back_and_the_released_one_is_read() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("preprocessor_config.json");
    for config in [
        PreprocessorConfig::original(64),
        PreprocessorConfig::hugging_face(512),
        PreprocessorConfig::flexible(768),
        PreprocessorConfig::flexible_original(64, 8),
    ] {
        config.save(&path).unwrap();
        assert_eq!(PreprocessorConfig::load(&path).unwrap(), config);
    }
    let released = r#"{"crop_size": {"height": 512, "width": 512}, "do_resize": true, "resample": 1,
        "rescale_factor": 0.0078, "size": {"shortest_edge": 512}, "image_mean": [1.0, 1.0, 1.0]}"#;
    let config: PreprocessorConfig = serde_json::from_str(released).unwrap();
    assert_eq!(config, PreprocessorConfig::hugging_face(512));
    let error = serde_json::from_str::<PreprocessorConfig>(r#"{"resample": 0}"#).unwrap_err();
    assert!(error.to_string().contains("resample is 0"));
}
