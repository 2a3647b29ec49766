//! Image and sampling settings of Hugging Face's directories, with defaults for what they lack.

use std::path::Path;

use burn::tensor::Device;
use serde_json::{Value, json};
use tensor_files::TensorSource;
use vq_tokenizer::preprocess::PreprocessorConfig;
use vq_tokenizer::{VqConfig, VqTokenizer};

use super::emu3::is_emu3;
use super::names::{IMAGE_FORMAT, PROCESSOR, SIZED, VQ_DIR};
use super::tensors::of_image_tokenizer;
use super::weight_files::weight_files;
use crate::error::{Error, Result};
use crate::files::read_json;
use crate::generate::Preset;

/// Side in pixels of a square with as many pixels as the images of most Lumina-mGPT releases.
const LUMINA_SIDE: usize = 768;

/// The image tokenizer of the checkpoint in `dir`: its directory, or tensors among the language
/// model's.
///
/// `None` if there is neither.
///
/// # Errors
/// Those of its files; if they do not fit each other.
pub fn image_tokenizer(dir: &Path, device: &Device) -> Result<Option<VqTokenizer>> {
    let own = dir.join(VQ_DIR);
    if own.is_dir() {
        return Ok(Some(VqTokenizer::load(&own, device)?));
    }
    let (path, files) = weight_files(dir)?;
    let tensors = of_image_tokenizer(files);
    if tensors.names().is_empty() {
        return Ok(None);
    }
    let json: Value = read_json(&dir.join("config.json"))?;
    let config = nested_config(dir, &json)?;
    config.validate()?;
    let preprocessor = preprocessor(dir, &json, config.resolution)?;
    Ok(Some(VqTokenizer::from_tensors(config, preprocessor, tensors, &path, device)?))
}

/// The `vq_config` of the `config.json` `json` in `dir`; absent keys have the release's values.
pub(super) fn nested_config(dir: &Path, json: &Value) -> Result<VqConfig> {
    let nested = json.get("vq_config").filter(|nested| !nested.is_null()).cloned();
    let release = if is_emu3(json) { json!({ "model_type": "emu3_vqgan" }) } else { json!({}) };
    serde_path_to_error::deserialize(nested.unwrap_or(release))
        .map_err(Error::in_file_because(&dir.join("config.json"), "vq_config"))
}

/// The preprocessing of images in `dir`: from its own file or the processor's, by default Hugging Face's
/// at `resolution`.
///
/// Images with sizes need the flexible rule, which no file of Lumina-mGPT names.
pub(super) fn preprocessor(
    dir: &Path,
    json: &Value,
    resolution: usize,
) -> Result<PreprocessorConfig> {
    let own = dir.join("preprocessor_config.json");
    let has_rule = own.exists() && read_json::<Value>(&own)?.get("rule").is_some();
    if !has_rule && has_sized_images(dir, json)? && !is_emu3(json) {
        return Ok(PreprocessorConfig::flexible(LUMINA_SIDE));
    }
    if own.exists() {
        return Ok(PreprocessorConfig::load(&own)?);
    }
    let shared = dir.join(PROCESSOR);
    let nested = match shared.exists() {
        true => read_json::<Value>(&shared)?.get("image_processor").cloned(),
        false => None,
    };
    match nested {
        Some(json) => serde_path_to_error::deserialize(json)
            .map_err(Error::in_file_because(&shared, "image_processor")),
        None if is_emu3(json) => Ok(PreprocessorConfig::emu3()),
        None => Ok(PreprocessorConfig::hugging_face(resolution)),
    }
}

/// The preset of a checkpoint of another project with the `config.json` `json`.
pub(super) fn preset_of(json: &Value) -> Preset {
    if is_text_model(json) {
        return Preset::Text;
    }
    if is_emu3(json) {
        return Preset::Emu3;
    }
    let architecture = json.get("architectures").and_then(|names| names.get(0)?.as_str());
    // The class name in Lumina-mGPT's training code.
    match architecture.is_some_and(|name| name.starts_with("ChameleonXLLMX")) {
        true => Preset::Lumina,
        false => Preset::Chameleon,
    }
}

/// Whether the `config.json` `json` is that of another family's text model.
pub(super) fn is_text_model(json: &Value) -> bool {
    let model_type = json.get("model_type").and_then(Value::as_str);
    model_type.is_some_and(|name| !["chameleon", "calumma", "emu3"].contains(&name))
}

/// Whether the ids of an image begin with its size in the checkpoint in `dir`.
pub(super) fn has_sized_images(dir: &Path, json: &Value) -> Result<bool> {
    let path = dir.join(PROCESSOR);
    let format = match path.exists() {
        true => read_json::<Value>(&path)?.get(IMAGE_FORMAT).cloned(),
        false => None,
    };
    match format.as_ref().map(Value::as_str) {
        None => Ok(preset_of(json).sizes_images()),
        Some(Some("fixed")) => Ok(false),
        Some(Some(SIZED)) => Ok(true),
        Some(_) => {
            let format = format.unwrap_or_default();
            let message = format!("{IMAGE_FORMAT} is {format}; allowed: \"fixed\", \"{SIZED}\"");
            Err(Error::file(&path, message))
        }
    }
}
