//! A checkpoint's files from its parts.

use std::path::Path;

use serde_json::{Map, Value, json};
use vq_tokenizer::VqTokenizer;
use vq_tokenizer::weights::{self, NamedTensors, StoredDtype};

use super::VQ_DIR;
use super::config::config_to_json;
use super::open::{IMAGE_FORMAT, PROCESSOR, SIZED};
use crate::error::{Error, Result};
use crate::files::write_json;
use crate::model::ModelConfig;
use crate::tokenize::Processor;

/// What a checkpoint is written from.
#[derive(Debug)]
pub struct Parts<'a> {
    /// Sizes of the transformer.
    pub config: &'a ModelConfig,
    /// Its weights; `None` where the caller writes `model.safetensors` itself.
    pub weights: Option<NamedTensors>,
    /// The number format on disk.
    pub dtype: StoredDtype,
    /// Text and ids.
    pub processor: &'a Processor,
    /// Images and codes.
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
        for (key, id) in [("bos_token_id", special.bos), ("pad_token_id", special.pad)] {
            generation.entry(key).or_insert(json!(id));
        }
        generation.entry("eos_token_id").or_insert(json!([special.eos, special.sep]));
        write_json("generation_config.json", &Value::Object(generation))?;
        write_json("tokenizer_config.json", &tokenizer_config())?;
        self.processor.text().save(&dir.join("tokenizer.json"))?;
        if let Some(weights) = &self.weights {
            let metadata = [("format".to_owned(), "pt".to_owned())].into();
            let bytes = weights::to_bytes(weights, self.dtype, Some(metadata))?;
            let path = dir.join("model.safetensors");
            std::fs::write(&path, bytes).map_err(Error::io(&path))?;
        }
        if self.processor.blocks().are_sized() {
            write_json(PROCESSOR, &json!({ IMAGE_FORMAT: SIZED }))?;
        }
        if let Some(vq) = self.vq {
            let vq_dir = dir.join(VQ_DIR);
            std::fs::create_dir_all(&vq_dir).map_err(Error::io(&vq_dir))?;
            // 8 significant bits move many codes; the 11 of half precision move few.
            vq.save_as(
                &vq_dir,
                match self.dtype {
                    StoredDtype::F16 => StoredDtype::F16,
                    StoredDtype::F32 | StoredDtype::Bf16 => StoredDtype::F32,
                },
            )?;
            let name = "preprocessor_config.json";
            let (from, to) = (vq_dir.join(name), dir.join(name));
            std::fs::copy(&from, &to).map_err(Error::io(&from))?;
        }
        Ok(())
    }
}

fn tokenizer_config() -> Value {
    use crate::tokenize::{BOS_TOKEN, EOS_TOKEN, PAD_TOKEN, SEP_TOKEN, UNK_TOKEN};
    json!({
        "tokenizer_class": "PreTrainedTokenizerFast",
        "bos_token": BOS_TOKEN,
        "eos_token": EOS_TOKEN,
        "pad_token": PAD_TOKEN,
        "unk_token": UNK_TOKEN,
        "sep_token": SEP_TOKEN,
        "padding_side": "left",
        "clean_up_tokenization_spaces": false,
    })
}
