//! Writing a checkpoint from its parts.

use std::path::Path;

use serde_json::{Map, Value, json};
use tensor_files::{DeviceTensors, StoredDtype};
use vq_tokenizer::VqTokenizer;

use super::chat_template::JINJA;
use super::config::config_to_json;
use super::experts::separated;
use super::family::Family;
use super::names::{GENERATION, IMAGE_FORMAT, PROCESSOR, SIZED, VQ_DIR};
use crate::error::{Error, Result};
use crate::files::{copy, write_json};
use crate::generate::Preset;
use crate::model::ModelConfig;
use crate::tokenize::{Processor, Vocabulary};

/// The parts of a checkpoint to write.
#[derive(Debug)]
pub struct Parts<'a> {
    /// Configuration of the transformer.
    pub config: &'a ModelConfig,
    /// Its weights; `None` if the caller writes them.
    pub weights: Option<DeviceTensors>,
    /// The number format on disk.
    pub dtype: StoredDtype,
    /// Text and images to ids and back.
    pub processor: &'a Processor,
    /// Images to codes and back.
    pub vq: Option<&'a VqTokenizer>,
    /// The content of `generation_config.json`.
    pub generation: &'a Map<String, Value>,
}

impl Parts<'_> {
    /// Writes every file but the manifest into the existing directory `dir`.
    ///
    /// # Errors
    /// Those of the file system.
    pub fn write(&self, dir: &Path) -> Result<()> {
        let write_json = |name: &str, value: &Value| write_json(&dir.join(name), value);
        write_json(
            "config.json",
            &config_to_json(self.config, self.processor, self.vq, self.dtype),
        )?;
        let special = self.processor.vocabulary().special();
        let mut generation = self.generation.clone();
        for (key, id) in [("bos_token_id", special.bos), ("pad_token_id", Some(special.pad))] {
            generation.entry(key).or_insert(json!(id));
        }
        generation.entry("eos_token_id").or_insert(json!(Vec::from_iter(
            [Some(special.eos), special.sep].into_iter().flatten()
        )));
        if self.processor.vocabulary().has_images() && special.sep.is_none() {
            generation.entry("prompts").or_insert(json!(Preset::Extended.prompts()));
        }
        write_json(GENERATION, &Value::Object(generation))?;
        let mut tokenizer = tokenizer_config(self.processor.vocabulary());
        if let Some(template) = self.processor.chat_template() {
            for (role, token) in template.tokens() {
                tokenizer[role] = json!(token);
            }
            let path = dir.join(JINJA);
            std::fs::write(&path, template.source()).map_err(Error::io(&path))?;
        }
        write_json("tokenizer_config.json", &tokenizer)?;
        self.processor.text().save(&dir.join("tokenizer.json"))?;
        if let Some(weights) = &self.weights {
            let path = dir.join("model.safetensors");
            let as_mixtral = Family::having(self.config) == Family::Mixtral;
            tensor_files::write(&path, &separated(weights, as_mixtral), self.dtype)?;
        }
        if self.processor.blocks().are_sized() {
            write_json(PROCESSOR, &json!({ IMAGE_FORMAT: SIZED }))?;
        }
        if let Some(vq) = self.vq {
            let vq_dir = dir.join(VQ_DIR);
            std::fs::create_dir_all(&vq_dir).map_err(Error::io(&vq_dir))?;
            // Rounding to the 8 significant bits of bf16 would change many codes, to f16's 11 few.
            let dtype = match self.dtype {
                StoredDtype::F16 => StoredDtype::F16,
                StoredDtype::F32 | StoredDtype::Bf16 => StoredDtype::F32,
            };
            vq.save_as(&vq_dir, dtype)?;
            let name = "preprocessor_config.json";
            copy(&vq_dir.join(name), &dir.join(name))?;
        }
        Ok(())
    }
}

fn tokenizer_config(vocabulary: &Vocabulary) -> Value {
    use crate::tokenize::{BOS_TOKEN, EOS_TOKEN, PAD_TOKEN, SEP_TOKEN, UNK_TOKEN};
    let special = vocabulary.special();
    if special.sep.is_some() {
        return json!({
            "tokenizer_class": "PreTrainedTokenizerFast",
            "bos_token": BOS_TOKEN,
            "eos_token": EOS_TOKEN,
            "pad_token": PAD_TOKEN,
            "unk_token": UNK_TOKEN,
            "sep_token": SEP_TOKEN,
            "padding_side": "left",
            "clean_up_tokenization_spaces": false,
        });
    }
    let mut json = json!({
        "tokenizer_class": "PreTrainedTokenizerFast",
        "eos_token": vocabulary.name(special.eos),
        "pad_token": vocabulary.name(special.pad),
        "clean_up_tokenization_spaces": false,
    });
    for (role, id) in [
        ("bos_token", special.bos.filter(|_| special.begin_image.is_some())),
        ("boi_token", special.begin_image),
        ("eoi_token", special.end_image),
        ("image_token", special.image_placeholder),
    ] {
        if let Some(name) = id.and_then(|id| vocabulary.name(id)) {
            json[role] = json!(name);
        }
    }
    json
}
