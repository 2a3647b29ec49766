//! The original release's image tokenizer: `vqgan.ckpt`, a Lightning checkpoint of taming-transformers, and
//! `vqgan.yaml`.

use std::path::Path;

use burn::tensor::{Device, FloatDType, TensorData};
use serde::Deserialize;
use serde_json::{Map, Value, json};
use tensor_files::TensorSource;
use vq_tokenizer::preprocess::PreprocessorConfig;
use vq_tokenizer::{VqConfig, VqTokenizer};

use crate::checkpoint::torch_file::TorchFile;
use crate::error::{Error, Result};
use crate::files::read_text;

/// Prefix of the weights in the checkpoint.
const PREFIX: &str = "state_dict.";

/// The keys of the YAML file that are read.
#[derive(Deserialize)]
struct Yaml {
    model: YamlModel,
}

#[derive(Deserialize)]
struct YamlModel {
    params: YamlParams,
}

#[derive(Deserialize)]
struct YamlParams {
    embed_dim: usize,
    n_embed: usize,
    ddconfig: Map<String, Value>,
}

/// The configuration in the YAML file next to `ckpt`.
fn config(ckpt: &Path) -> Result<VqConfig> {
    let path = ckpt.with_extension("yaml");
    let text = read_text(&path)?;
    let yaml: Yaml = serde_norway::from_str(&text).map_err(Error::in_file(&path))?;
    let YamlParams { embed_dim, n_embed, ddconfig: mut keys } = yaml.model.params;
    keys.insert("embed_dim".to_owned(), json!(embed_dim));
    keys.insert("n_embed".to_owned(), json!(n_embed));
    let config: VqConfig = serde_path_to_error::deserialize(Value::Object(keys))
        .map_err(Error::in_file_because(&path, "ddconfig"))?;
    config.validate().map_err(Error::in_file(&path))?;
    Ok(config)
}

/// The image tokenizer in `ckpt`; `preprocessor` defaults to the original release's.
///
/// # Errors
/// Those of both files; if the weights do not fit the configuration.
pub fn open(
    ckpt: &Path,
    preprocessor: Option<PreprocessorConfig>,
    device: &Device,
) -> Result<VqTokenizer> {
    let config = config(ckpt)?;
    let preprocessor =
        preprocessor.unwrap_or_else(|| PreprocessorConfig::original(config.resolution));
    let tensors = Weights { file: TorchFile::open(ckpt)? };
    Ok(VqTokenizer::from_tensors(config, preprocessor, tensors, ckpt, device)?)
}

/// The tokenizer's weights in a checkpoint, which also holds those of its training losses.
struct Weights {
    file: TorchFile,
}

impl TensorSource for Weights {
    fn names(&self) -> Vec<String> {
        let ours = |name: &String| Some(name.strip_prefix(PREFIX)?.to_owned());
        let names = self.file.tensors().keys().filter_map(ours);
        names.filter(|name| !name.starts_with("loss.")).collect()
    }

    fn tensor(
        &mut self,
        name: &str,
        dtype: FloatDType,
    ) -> tensor_files::Result<Option<TensorData>> {
        let name = format!("{PREFIX}{name}");
        if !self.file.tensors().contains_key(&name) {
            return match self.file.object_at(&name) {
                None => Ok(None),
                Some(_) => Err(tensor_files::Error::source_failed(self.file.missing(&name))),
            };
        }
        let stored = self.file.stored(&name).map_err(tensor_files::Error::source_failed)?;
        stored.to_data(dtype).map(Some)
    }
}

/// The content of the YAML file for `config`.
pub fn yaml(config: &VqConfig) -> String {
    let value = json!({ "model": {
        "target": "taming.models.vqgan.VQModel",
        "params": {
            "embed_dim": config.embed_dim,
            "n_embed": config.num_embeddings,
            "ddconfig": {
                "double_z": config.double_latent,
                "z_channels": config.latent_channels,
                "resolution": config.resolution,
                "in_channels": config.in_channels,
                "out_ch": config.out_channels,
                "ch": config.base_channels,
                "ch_mult": config.channel_multiplier,
                "num_res_blocks": config.num_res_blocks,
                "attn_resolutions": config.attn_resolutions.clone().unwrap_or_default(),
                "dropout": config.dropout,
                "attn_type": config.attn_type,
                // Only this program reads these; others assume 32 groups and a plain codebook.
                "norm_groups": config.norm_groups,
                "quantizer": config.quantizer,
            },
        },
    } });
    serde_norway::to_string(&value).expect("numbers, strings and lists are valid YAML")
}
