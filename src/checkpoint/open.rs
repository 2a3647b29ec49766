//! Opening a checkpoint: ours, or a Hugging Face directory as downloaded.

use std::path::Path;

use burn::tensor::{Device, FloatDType, TensorData};
use serde_json::{Value, json};
use tensor_files::TensorSource;
use vq_tokenizer::VqTokenizer;

use super::adapter::{Merge, Merged, WeightedAdapter};
use super::config::config_from_json;
use super::directory::require_directory;
use super::hugging_face::{has_sized_images, image_tokenizer, nested_config, preset_of};
use super::manifest::Manifest;
use super::names::GENERATION;
use super::tensors::{SCORE, TransformerTensors};
use super::text_model::{processor_of, stop_ids, text_tokenizer};
use super::weight_files::weight_files;
use crate::error::{Error, Result};
use crate::files::read_json;
use crate::generate::{GenerationConfig, Preset};
use crate::model::{CausalLm, ModelConfig};
use crate::tokenize::{Processor, PromptTemplates, TEXT_GRID};

/// An opened checkpoint.
#[derive(Debug)]
pub struct Checkpoint {
    /// Configuration of the transformer.
    pub config: ModelConfig,
    /// The transformer, outside autodiff.
    pub model: CausalLm,
    /// Text and images to ids and back.
    pub processor: Processor,
    /// Images to codes and back; `None` if the directory holds no image tokenizer.
    pub vq: Option<VqTokenizer>,
    /// Default settings of sampling.
    pub generation: GenerationConfig,
    /// Prompts for its tasks.
    pub prompts: PromptTemplates,
    /// [`Manifest::digest`]; `None` without a manifest. With adapters one that covers them too.
    pub digest: Option<String>,
}

impl Checkpoint {
    /// Opens the checkpoint in `dir` with its weights on `device`, in f32.
    ///
    /// # Errors
    /// As [`require_directory`]; [`Error::Io`] for a missing file; [`Error::Manifest`] for a truncated one;
    /// [`Error::Tensors`] for tensors that are missing, unexpected or of another shape; [`Error::File`]
    /// for malformed files and parts that do not fit together.
    pub fn open(dir: &Path, device: &Device) -> Result<Self> {
        Self::open_as(dir, device, FloatDType::F32)
    }

    /// As [`Self::open`], with the transformer's weights in `dtype`.
    ///
    /// The image tokenizer stays in f32: any narrower format changes codes.
    ///
    /// # Errors
    /// As [`Self::open`].
    pub fn open_as(dir: &Path, device: &Device, dtype: FloatDType) -> Result<Self> {
        Self::open_with(dir, device, dtype, &[])
    }

    /// As [`Self::open_as`], with adapters merged into the weights, each with its weight in the sum.
    ///
    /// # Errors
    /// As [`Self::open`]; those of [`Merge::open`].
    pub fn open_with(
        dir: &Path,
        device: &Device,
        dtype: FloatDType,
        adapters: &[WeightedAdapter],
    ) -> Result<Self> {
        require_directory(dir)?;
        let manifest = Manifest::read(dir)?;
        if let Some(manifest) = &manifest {
            manifest.check_sizes(dir)?;
        }
        let config_path = dir.join("config.json");
        if !config_path.exists()
            && (dir.join("params.json").exists() || dir.join("models").is_dir())
        {
            let message = "is in the original release's layout; convert it with `calumma import`";
            return Err(Error::file(dir, message));
        }
        let json: Value = read_json(&config_path)?;
        let config = config_from_json(&json).map_err(Error::in_file(&config_path))?;
        let vq = image_tokenizer(dir, device)?;
        let processor = processor(dir, &json, vq.as_ref())?;
        check_parts(dir, &config, &processor, vq.as_ref())?;
        let preset = manifest.is_none().then(|| preset_of(&json));
        let (generation, prompts) = generation(dir, &json, preset, &processor)?;
        let (path, files) = weight_files(dir)?;
        let (merge, config) = Merge::open(adapters, config)?;
        let tensors = TransformerTensors::new(files, &config).map_err(Error::in_file(&path))?;
        let tensors = Merged { base: tensors, merge: &merge };
        let model = tensor_files::load_as(config.init(device)?, tensors, &path, dtype)?;
        let digest = match adapters {
            [] => manifest.map(|manifest| manifest.digest()),
            _ => Some(merge.digest(&manifest.map_or_else(|| Manifest::of(dir), Ok)?)?),
        };
        Ok(Self { config, model, processor, vq, generation, prompts, digest })
    }

    /// `model`, which has the configuration `config`, with the weights of the checkpoint in `dir`. A score head that
    /// the checkpoint lacks stays as it is.
    ///
    /// # Errors
    /// As [`Self::open`].
    pub fn load_weights(dir: &Path, config: &ModelConfig, model: CausalLm) -> Result<CausalLm> {
        Self::load_some_weights(dir, config, model, |_| true)
    }

    /// As [`Self::load_weights`] for the parameters whose names are `wanted`; the others stay.
    ///
    /// # Errors
    /// As [`Self::open`].
    pub fn load_some_weights(
        dir: &Path,
        config: &ModelConfig,
        model: CausalLm,
        wanted: impl Fn(&str) -> bool,
    ) -> Result<CausalLm> {
        let (path, files) = weight_files(dir)?;
        let has_score = files.contains(SCORE);
        let wanted = |name: &str| wanted(name) && (has_score || name != SCORE);
        let tensors = TransformerTensors::new(files, config).map_err(Error::in_file(&path))?;
        let tensors = Wanted { tensors, wanted: &wanted };
        Ok(tensor_files::load_some(model, tensors, &path, wanted)?)
    }
}

/// The tensors of a model whose names are wanted.
struct Wanted<'a, W> {
    tensors: TransformerTensors<'a>,
    wanted: W,
}

impl<W: Fn(&str) -> bool> TensorSource for Wanted<'_, W> {
    fn names(&self) -> Vec<String> {
        let names = self.tensors.names().into_iter();
        names.filter(|name| (self.wanted)(name)).collect()
    }

    fn tensor(
        &mut self,
        name: &str,
        dtype: FloatDType,
    ) -> tensor_files::Result<Option<TensorData>> {
        self.tensors.tensor(name, dtype)
    }

    fn missing(&self, name: &str) -> Vec<String> {
        self.tensors.missing(name)
    }
}

/// Text and images to ids and back, as the files in `dir` with the `config.json` `config` say.
fn processor(dir: &Path, config: &Value, vq: Option<&VqTokenizer>) -> Result<Processor> {
    let text = text_tokenizer(dir, config)?;
    if !text.has_images() {
        return processor_of(text, TEXT_GRID, dir);
    }
    let grid = match vq {
        Some(vq) => vq.grid(),
        None => {
            let side = nested_config(dir, config)?.grid();
            (side, side)
        }
    };
    if grid.0 == 0 || grid.1 == 0 {
        let message = format!("its images have {} rows and {} columns of codes", grid.0, grid.1);
        return Err(Error::file(dir, message));
    }
    let processor = processor_of(text, grid, dir)?;
    if has_sized_images(dir, config)? { processor.sized() } else { Ok(processor) }
}

/// Settings and prompts of the checkpoint in `dir` with the `config.json` `config`, by default those of `preset`.
fn generation(
    dir: &Path,
    config: &Value,
    preset: Option<Preset>,
    processor: &Processor,
) -> Result<(GenerationConfig, PromptTemplates)> {
    let path = dir.join(GENERATION);
    let json: Value = if path.exists() { read_json(&path)? } else { json!({}) };
    let text = json.to_string();
    if let Some(preset) = preset.filter(|_| json.get("prompts").is_none()) {
        // A file of a published model says what differs from the model's own code, if anything.
        let changes = json.as_object().cloned().unwrap_or_default();
        let changed = preset.config().changed_by_file(&changes);
        let mut settings = changed.map_err(Error::in_file(&path))?;
        if preset == Preset::Text {
            settings.stop_ids = stop_ids(&json, config);
        }
        let sep = processor.vocabulary().special().sep;
        let sep = sep
            .filter(|sep| preset.ends_turns_with_separator() && !settings.stop_ids.contains(sep));
        settings.stop_ids.extend(sep);
        return Ok((settings, preset.prompts()));
    }
    let own = GenerationConfig::from_json(&text).map_err(Error::in_file(&path))?;
    let prompts = PromptTemplates::from_json(&text).map_err(Error::in_file(&path))?;
    prompts.validate().map_err(Error::in_file(&path))?;
    Ok((own, prompts))
}

/// Checks that vocabulary, image tokenizer and model fit together.
fn check_parts(
    dir: &Path,
    config: &ModelConfig,
    processor: &Processor,
    vq: Option<&VqTokenizer>,
) -> Result<()> {
    let names = processor.vocabulary().len();
    if names > config.vocab_size {
        let message = format!(
            "tokenizer.json has {names} ids, vocab_size in config.json is {}",
            config.vocab_size
        );
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
