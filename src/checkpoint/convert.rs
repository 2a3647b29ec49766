//! Converting checkpoints tensor by tensor: Hugging Face's layout to ours and back, a training run's
//! checkpoint to a release.
//!
//! Both layouts have the same `config.json` and the same names; Hugging Face's keeps the image
//! tokenizer among the language model's tensors, ours in a separate directory. Tensors keep their
//! bytes unless another number format is requested.

use std::path::Path;

use serde_json::{Value, json};
use tensor_files::StoredDtype;
use vq_tokenizer::Architecture;

use super::adapter::{Merge, WeightedAdapter};
use super::config::{config_from_json, torch_name};
use super::directory::{require_directory, write_directory};
use super::family::Family;
use super::generation::generation_settings;
use super::hugging_face::has_sized_images;
use super::manifest::{DOCUMENTS, Manifest};
use super::names::{GENERATION, IMAGE_FORMAT, PROCESSOR, SIZED, VQ_DIR};
use super::source::{ImageTokenizer, LanguageModel, RotaryOrder, converted, format};
use super::stored::StoredTensors;
use super::tensors::VQ_PREFIX;
use super::weight_files::{SHARD_SIZE, write_weights};
use super::{emu3, transformers};
use crate::error::{Error, Result};
use crate::files::{copy, read_json, write_json};
use crate::generate::Preset;
use crate::tokenize::TextTokenizer;

/// Files that are copied unchanged if present.
pub(super) const COPIED: [&str; 8] = [
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "chat_template.jinja",
    "chat_template.json",
    "processor_config.json",
    "preprocessor_config.json",
];

/// Location of the image tokenizer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Layout {
    /// In a separate directory.
    Calumma,
    /// Among the language model's tensors, as `transformers` reads it.
    HuggingFace,
}

/// A conversion of a checkpoint.
#[derive(Clone, Debug)]
pub struct Conversion {
    /// The layout to write.
    pub layout: Layout,
    /// The number format of the weights; `None` keeps the stored one. The image tokenizer stays f32 for
    /// bf16, whose 8 significant bits would change many codes.
    pub dtype: Option<StoredDtype>,
    /// Maximum bytes of tensors in one file.
    pub shard_size: u64,
    /// The rotary order of the source.
    pub order: RotaryOrder,
    /// The sampling settings and prompts to write; `None` keeps those of the source; another
    /// project's checkpoint without prompts gets those of its release.
    pub preset: Option<Preset>,
    /// Adapters to merge into the weights.
    pub adapters: Vec<WeightedAdapter>,
}

impl Conversion {
    /// A conversion to `layout` that changes nothing else.
    pub fn to(layout: Layout) -> Self {
        Self {
            layout,
            dtype: None,
            shard_size: SHARD_SIZE,
            order: RotaryOrder::default(),
            preset: None,
            adapters: Vec::new(),
        }
    }

    /// Writes the checkpoint in `source`, without its training state, to `dest`.
    ///
    /// One tensor is in memory at a time. Returns a warning if other programs will compute something else.
    ///
    /// # Errors
    /// Those of the files, with the tensor at fault; [`Error::File`] if the layout is Hugging Face's and
    /// transformers cannot open the image tokenizer, whose channels must be multiples of 32;
    /// [`Error::Manifest`] if a file differs from the manifest; [`Error::Exists`]. Nothing is left behind
    /// then.
    pub fn run(&self, source: &Path, dest: &Path) -> Result<Option<&'static str>> {
        require_directory(source)?;
        if Manifest::read(source)?.is_some() {
            Manifest::verify(source)?;
        }
        let path = source.join("config.json");
        let mut json: Value = read_json(&path)?;
        let config = config_from_json(&json).map_err(Error::in_file(&path))?;
        let files = StoredTensors::open(source)?;
        let vq = ImageTokenizer::find(source, &json, &files)?;
        let for_transformers = self.layout == Layout::HuggingFace;
        let tokenizer = source.join("tokenizer.json");
        let is_text = tokenizer.is_file() && !TextTokenizer::load(&tokenizer)?.has_images();
        if is_text && self.order == RotaryOrder::SideBySide {
            let message = "the side-by-side order is one of Chameleon's conversions alone";
            return Err(Error::file(source, message));
        }
        if for_transformers && config.qk_norm_share < 1.0 {
            let message = "norms of queries and keys are still being blended in; export a later checkpoint, or without --layout hf";
            return Err(Error::file(&path, message));
        }
        if for_transformers && Family::having(&config) == Family::Calumma {
            let message = "no class of transformers has this combination of sizes; export it without --layout hf";
            return Err(Error::file(&path, message));
        }
        // The classes of text models have no image tokenizer: it stays in its directory.
        let takes_images = Family::having(&config) == Family::Chameleon || emu3::is_emu3(&json);
        let layout = if takes_images { self.layout } else { Layout::Calumma };
        let this = Self { layout, ..self.clone() };
        let is_whole = layout == Layout::HuggingFace;
        if let (true, Some(vq)) = (is_whole, &vq) {
            transformers::check_opens(source, &json, vq)?;
        }
        let (merge, config) = Merge::open(&self.adapters, config)?;
        if config.num_labels > 0 {
            json["num_labels"] = json!(config.num_labels);
        }
        let model =
            LanguageModel { files: &files, config: &config, order: self.order, merge: &merge };
        write_directory(dest, |dir| {
            for name in COPIED.iter().chain(&DOCUMENTS) {
                let from = source.join(name);
                if from.is_file() {
                    copy(&from, &dir.join(name))?;
                }
            }
            let settings = generation_settings(source, &json, this.preset)?;
            write_json(&dir.join(GENERATION), &json!(settings))?;
            this.write_processor(source, &json, vq.as_ref(), dir)?;
            if is_whole && !is_text {
                transformers::add_vocabulary(&mut json, source)?;
            }
            this.write_config(json, vq.as_ref(), dir)?;
            this.write_tensors(&model, vq.as_ref(), dir)
        })?;
        let config = vq.as_ref().map(|vq| &vq.config);
        Ok((is_whole && !is_text).then(|| transformers::difference(config)).flatten())
    }

    /// Writes Hugging Face's [`PROCESSOR`] if the layout or the form of images needs it.
    fn write_processor(
        &self,
        source: &Path,
        json: &Value,
        vq: Option<&ImageTokenizer>,
        dir: &Path,
    ) -> Result<()> {
        let path = dir.join(PROCESSOR);
        let preset = self.preset.is_some_and(Preset::sizes_images);
        let sized = preset || has_sized_images(source, json)?;
        let is_there = path.exists();
        let mut settings: Value = if is_there { read_json(&path)? } else { json!({}) };
        if let (false, Some(vq)) = (is_there, vq) {
            let factor = vq.config.downsampling();
            let (height, width) = (vq.preprocessor.crop_height, vq.preprocessor.crop_width);
            let is_emu3 = emu3::is_emu3(json);
            settings = json!({
                "processor_class": if is_emu3 { "Emu3Processor" } else { "ChameleonProcessor" },
                "image_seq_length": height / factor * (width / factor),
                "image_token": "<image>",
            });
        }
        if sized {
            settings[IMAGE_FORMAT] = json!(SIZED);
        }
        let needed = sized || self.layout == Layout::HuggingFace && vq.is_some();
        if needed && !is_there || sized { write_json(&path, &settings) } else { Ok(()) }
    }

    /// Writes `config.json`, and the image tokenizer's configuration if its tensors are among the language model's.
    fn write_config(&self, mut json: Value, vq: Option<&ImageTokenizer>, dir: &Path) -> Result<()> {
        if let (Some(dtype), Some(keys)) = (self.dtype, json.as_object_mut()) {
            keys.remove("torch_dtype");
            keys.insert("dtype".to_owned(), json!(torch_name(dtype)));
        }
        if let (Layout::HuggingFace, Some(vq)) = (self.layout, vq) {
            if json.get("vq_config").is_none_or(Value::is_null) {
                json["vq_config"] = json!(vq.config);
            }
            let preprocessor = dir.join("preprocessor_config.json");
            if !preprocessor.exists() {
                vq.preprocessor.save(&preprocessor)?;
            }
        }
        write_json(&dir.join("config.json"), &json)
    }

    /// Writes the weights of both models, converted.
    fn write_tensors(
        &self,
        model: &LanguageModel<'_>,
        vq: Option<&ImageTokenizer>,
        dir: &Path,
    ) -> Result<()> {
        let vq_dtype = self.dtype.filter(|dtype| *dtype != StoredDtype::Bf16);
        let mut infos = model.infos(self.dtype);
        let of_model = |name: &str| Ok(converted(model.stored(name)?, self.dtype)?.bytes);
        let Some(vq) = vq else {
            return write_weights(dir, &infos, self.shard_size, of_model);
        };
        if self.layout == Layout::Calumma {
            vq.write(&dir.join(VQ_DIR), model.files, vq_dtype)?;
            return write_weights(dir, &infos, self.shard_size, of_model);
        }
        infos.extend(vq.tensors.iter().map(|(name, dtype, shape)| {
            (VQ_PREFIX.to_owned() + name, format(*dtype, vq_dtype), shape.clone())
        }));
        if vq.config.architecture == Architecture::Emu3 {
            infos.iter_mut().for_each(|(name, ..)| *name = emu3::published_name(name));
        }
        write_weights(dir, &infos, self.shard_size, |name| {
            let name = emu3::common_name(name);
            match name.strip_prefix(VQ_PREFIX) {
                Some(name) => Ok(converted(vq.stored(name, model.files)?, vq_dtype)?.bytes),
                None => of_model(&name),
            }
        })
    }
}
