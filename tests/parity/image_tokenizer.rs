//! The image tokenizer: latents, codes, pixels; preprocessing.

use std::path::Path;

use burn::tensor::{Device, Int, Tensor, TensorData};
use calumma::checkpoint::Checkpoint;
use tensor_files::WeightFiles;
use vq_tokenizer::preprocess::{PreprocessorConfig, open_image, to_images, to_rgb_by};
use vq_tokenizer::{VqConfig, VqModel, VqTokenizer};

use crate::excess::excess;
use crate::values::{Values, flat};
use crate::{Table, expected};

/// Absolute, for sums of a few hundred products in another order.
const TOLERANCE: f32 = 2e-4;

fn device() -> Device {
    Device::flex()
}

pub fn check(table: &mut Table, root: &Path) {
    let dir = root.join("vqvae");
    if let Some(values) = expected(&dir) {
        let config = VqConfig::load(&dir.join("config.json")).unwrap();
        let path = dir.join("model.safetensors");
        let files = WeightFiles::open(&path).unwrap();
        let preprocessor = PreprocessorConfig::hugging_face(config.resolution);
        let vq = VqTokenizer::from_tensors(config, preprocessor, files, &path, &device()).unwrap();
        check_model(table, "vqvae", &values, vq.model());
    }
    let dir = root.join("images");
    if let Some(values) = expected(&dir) {
        images(table, &dir, &values);
    }
}

fn check_model(table: &mut Table, title: &str, values: &Values, model: &VqModel) {
    for prefix in ["", "oblong."] {
        let key = |part: &str| format!("{prefix}{part}");
        if !values.has(&key("pixel_values")) {
            continue;
        }
        let pixels = Tensor::<4>::from_data(values.floats(&key("pixel_values")), &device());
        let latents = model.latents(pixels);
        if values.has(&key("latents")) {
            table.case(&format!("{title} {prefix}latents"), || {
                let want = flat(&values.floats(&key("latents")));
                excess(&flat(&latents.to_data()), &want, TOLERANCE, 0.0)
            });
        }
        table.exact(&format!("{title} {prefix}codes"), || {
            let codes = model.codes(latents.clone()).into_data();
            codes.iter::<i64>().eq(values.rows(&key("codes")).concat())
        });
        if values.has(&key("decoded")) && model.decoder.is_some() {
            decoded(table, &format!("{title} {prefix}"), prefix, values, model, latents.dims());
        }
    }
}

fn decoded(
    table: &mut Table,
    title: &str,
    prefix: &str,
    values: &Values,
    model: &VqModel,
    [_, _, height, width]: [usize; 4],
) {
    let codes = values.rows(&format!("{prefix}codes"));
    let batch = codes.concat().len() / (height * width);
    let ids = TensorData::new(codes.concat(), [batch, height, width]);
    let pixels = model.pixels(Tensor::<3, Int>::from_data(ids, &device()));
    table.case(&format!("{title}decoded"), || {
        let want = flat(&values.floats(&format!("{prefix}decoded")));
        excess(&flat(&pixels.to_data()), &want, TOLERANCE, 0.0)
    });
    table.exact(&format!("{title}decoded bytes"), || {
        let want = values.bytes(&format!("{prefix}decoded_uint8_hwc"));
        let images = to_images(pixels.clone());
        let bytes: Vec<u8> = images.into_iter().flat_map(|image| image.into_raw()).collect();
        let off = bytes.iter().zip(&want).filter(|(a, b)| a != b).count();
        let far = bytes.iter().zip(&want).any(|(a, b)| a.abs_diff(*b) > 1);
        bytes.len() == want.len() && !far && off * 1000 <= want.len()
    });
}

/// Encodes and decodes the image next to the release in `dir` with the imported image tokenizer.
pub fn check_vqgan(table: &mut Table, title: &str, dir: &Path, imported: &Path) {
    let Some(values) = expected(dir) else { return };
    let checkpoint = Checkpoint::open(imported, &device()).unwrap();
    if let Some(vq) = checkpoint.vq {
        check_model(table, &format!("{title} vqgan"), &values, vq.model());
    }
}

fn images(table: &mut Table, dir: &Path, values: &Values) {
    let names = values.names();
    for name in names.iter().filter_map(|name| name.strip_suffix("_uint8_hwc")) {
        let Some((stem, rule)) = name.rsplit_once('.') else { continue };
        let path = dir.join(format!("{stem}.png"));
        // The side of the squares of these cases.
        let side = (values.bytes(&format!("{name}_uint8_hwc")).len() / 3).isqrt();
        let config = match rule {
            "hf" => PreprocessorConfig::hugging_face(side),
            _ => PreprocessorConfig::original(side),
        };
        table.exact(&format!("images {stem} by the rule {rule}"), || {
            let image = config.resize(&to_rgb_by(open_image(&path).unwrap(), config.rule));
            image.into_raw() == values.bytes(&format!("{name}_uint8_hwc"))
        });
    }
}
