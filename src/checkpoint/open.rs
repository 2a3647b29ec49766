//! Opening a checkpoint: one of ours, or a directory of Hugging Face's as it was downloaded.

use std::path::Path;

use burn::tensor::{Device, FloatDType};
use serde_json::{Value, json};
use vq_tokenizer::preprocess::PreprocessorConfig;
use vq_tokenizer::weights::{self, TensorSource};
use vq_tokenizer::{VqConfig, VqTokenizer};

use super::config::config_from_json;
use super::tensors::{OfTransformer, of_image_tokenizer};
use super::weight_files::weight_files;
use super::{Manifest, VQ_DIR};
use crate::error::{Error, Result};
use crate::files::read_json;
use crate::generate::{GenerationConfig, Preset};
use crate::model::{CausalLm, ModelConfig};
use crate::tokenize::{Processor, PromptTemplates, TextTokenizer};

/// Hugging Face's file about the seam between images and text.
pub(super) const PROCESSOR: &str = "processor_config.json";
/// Its key for the form of images, ours: `fixed` (absent) or [`SIZED`].
pub(super) const IMAGE_FORMAT: &str = "image_format";
/// Images that say their size.
pub(super) const SIZED: &str = "sized";
/// The side in pixels of the squares that have as many pixels as most of Lumina-mGPT's releases draw.
const LUMINA_SIDE: usize = 768;

/// An opened checkpoint.
#[derive(Debug)]
pub struct Checkpoint {
    /// Sizes of the transformer.
    pub config: ModelConfig,
    /// The transformer, outside autodiff.
    pub model: CausalLm,
    /// Text and ids.
    pub processor: Processor,
    /// Images and codes; `None` where the directory holds no image tokenizer of its own.
    pub vq: Option<VqTokenizer>,
    /// How to sample unless told otherwise.
    pub generation: GenerationConfig,
    /// How the model wants to be asked.
    pub prompts: PromptTemplates,
    /// A short digest of all files; `None` without a manifest.
    pub digest: Option<String>,
}

impl Checkpoint {
    /// Opens the checkpoint in `dir` with its weights on `device`, in f32.
    ///
    /// # Errors
    /// [`Error::Io`] for a missing file, [`Error::File`] for a truncated or malformed one, for tensors
    /// that are missing, unexpected or of another shape, and for parts that do not fit together.
    pub fn open(dir: &Path, device: &Device) -> Result<Self> {
        Self::open_as(dir, device, FloatDType::F32)
    }

    /// As [`Self::open`], the transformer's weights in `dtype`; the image tokenizer's stay f32, in
    /// which alone its codes are right.
    ///
    /// # Errors
    /// As [`Self::open`].
    pub fn open_as(dir: &Path, device: &Device, dtype: FloatDType) -> Result<Self> {
        if !dir.is_dir() {
            return Err(Error::file(dir, "no checkpoint: the directory does not exist"));
        }
        let manifest = Manifest::read(dir)?;
        if let Some(manifest) = &manifest {
            manifest.check_sizes(dir)?;
        }
        let config_path = dir.join("config.json");
        let json: Value = read_json(&config_path)?;
        let config =
            config_from_json(&json).map_err(|e| Error::file(&config_path, e.to_string()))?;
        let text = TextTokenizer::load(&dir.join("tokenizer.json"))?;
        let vq = image_tokenizer(dir, device)?;
        let grid = match &vq {
            Some(vq) => vq.grid(),
            None => {
                let side = nested_config(dir, &json)?.grid();
                (side, side)
            }
        };
        let mut processor = Processor::new(text, grid)?;
        if has_sized_images(dir, &json)? {
            processor = processor.sized()?;
        }
        check_parts(dir, &config, &processor, vq.as_ref())?;
        let preset = manifest.is_none().then(|| preset_of(&json));
        let (generation, prompts) = generation(dir, preset, &processor)?;
        let (path, files) = weight_files(dir)?;
        let tensors = OfTransformer::new(files, &config);
        let model = weights::load_as(config.blank(device)?, tensors, &path, dtype)?;
        let digest = manifest.map(|manifest| manifest.digest());
        Ok(Self { config, model, processor, vq, generation, prompts, digest })
    }

    /// `model`, of the sizes `config`, with the weights of the checkpoint in `dir`.
    ///
    /// # Errors
    /// As [`Self::open`].
    pub fn load_weights(dir: &Path, config: &ModelConfig, model: CausalLm) -> Result<CausalLm> {
        let (path, files) = weight_files(dir)?;
        Ok(weights::load(model, OfTransformer::new(files, config), &path)?)
    }
}

/// Whose way of sampling the foreign checkpoint with the `config.json` `json` has.
pub(super) fn preset_of(json: &Value) -> Preset {
    let architecture = json.get("architectures").and_then(|names| names.get(0)?.as_str());
    // The class of Lumina-mGPT's training code.
    match architecture.is_some_and(|name| name.starts_with("ChameleonXLLMX")) {
        true => Preset::Lumina,
        false => Preset::Chameleon,
    }
}

/// Whether images say their size in the checkpoint in `dir`.
pub(super) fn has_sized_images(dir: &Path, json: &Value) -> Result<bool> {
    let path = dir.join(PROCESSOR);
    let said = match path.exists() {
        true => read_json::<Value>(&path)?.get(IMAGE_FORMAT).cloned(),
        false => None,
    };
    match said.as_ref().map(Value::as_str) {
        None => Ok(preset_of(json).sizes_images()),
        Some(Some("fixed")) => Ok(false),
        Some(Some(SIZED)) => Ok(true),
        Some(_) => {
            let said = said.unwrap_or_default();
            let message = format!("{IMAGE_FORMAT} is {said}; allowed: \"fixed\", \"{SIZED}\"");
            Err(Error::file(&path, message))
        }
    }
}

/// Settings and prompts of the checkpoint in `dir`; one of others that says nothing of prompts is asked
/// and sampled as `preset` is.
fn generation(
    dir: &Path,
    preset: Option<Preset>,
    processor: &Processor,
) -> Result<(GenerationConfig, PromptTemplates)> {
    let path = dir.join("generation_config.json");
    let json: Value = if path.exists() { read_json(&path)? } else { json!({}) };
    let in_file = |e: Error| Error::file(&path, e.to_string());
    let text = json.to_string();
    let said = GenerationConfig::from_json(&text).map_err(in_file)?;
    if let Some(preset) = preset.filter(|_| json.get("prompts").is_none()) {
        let mut config = GenerationConfig { stop_ids: said.stop_ids, ..preset.config() };
        if preset.ends_turns_with_separator() {
            config.stop_ids.push(processor.vocabulary().special().sep);
        }
        return Ok((config, preset.prompts()));
    }
    let prompts = PromptTemplates::from_json(&text).map_err(in_file)?;
    prompts.validate().map_err(in_file)?;
    Ok((said, prompts))
}

/// The image tokenizer of the checkpoint in `dir`: a folder of its own, or tensors among the language
/// model's; `None` where there is neither.
///
/// # Errors
/// Those of its files; when they do not fit each other.
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

/// The `vq_config` of a `config.json`; absent keys are the release's.
pub(super) fn nested_config(dir: &Path, json: &Value) -> Result<VqConfig> {
    let nested = json.get("vq_config").filter(|nested| !nested.is_null()).cloned();
    serde_json::from_value(nested.unwrap_or_else(|| json!({})))
        .map_err(|e| Error::file(&dir.join("config.json"), format!("vq_config: {e}")))
}

/// How `dir` says that images are prepared: a file of its own, or a part of the processor's; without
/// either Hugging Face's rule at `resolution`. Images that say their size need a rule that gives them
/// any, which no file of Lumina-mGPT's says.
pub(super) fn preprocessor(
    dir: &Path,
    json: &Value,
    resolution: usize,
) -> Result<PreprocessorConfig> {
    let own = dir.join("preprocessor_config.json");
    let says_rule = own.exists() && read_json::<Value>(&own)?.get("rule").is_some();
    if !says_rule && has_sized_images(dir, json)? {
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
        Some(json) => serde_json::from_value(json)
            .map_err(|e| Error::file(&shared, format!("image_processor: {e}"))),
        None => Ok(PreprocessorConfig::hugging_face(resolution)),
    }
}

fn check_parts(
    dir: &Path,
    config: &ModelConfig,
    processor: &Processor,
    vq: Option<&VqTokenizer>,
) -> Result<()> {
    let names = processor.vocabulary().len();
    if names > config.vocab_size {
        let message =
            format!("tokenizer.json has {names} ids, config.json vocab_size {}", config.vocab_size);
        return Err(Error::file(dir, message));
    }
    let tokens = processor.vocabulary().num_codes();
    match vq.map(|vq| vq.config().num_embeddings) {
        Some(codes) if codes != tokens => {
            let message = format!(
                "tokenizer.json names {tokens} image codes, the image tokenizer has {codes}"
            );
            Err(Error::file(dir, message))
        }
        _ => Ok(()),
    }
}
