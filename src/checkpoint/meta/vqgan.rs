//! `vqgan.ckpt` with `vqgan.yaml`: the image tokenizer of the original release, a Lightning checkpoint
//! of taming-transformers.

use std::path::Path;

use burn::tensor::{Device, FloatDType, TensorData};
use serde::Deserialize;
use serde_json::{Map, Value, json};
use vq_tokenizer::preprocess::PreprocessorConfig;
use vq_tokenizer::weights::{StoredTensor, TensorSource};
use vq_tokenizer::{VqConfig, VqTokenizer};

use crate::checkpoint::torch_file::TorchFile;
use crate::error::{Error, Result};

/// Where the weights lie in the checkpoint.
const UNDER: &str = "state_dict.";

/// The part of the YAML file that is read.
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

/// The shape of the tokenizer whose checkpoint is `ckpt`, from the YAML file beside it.
fn config(ckpt: &Path) -> Result<VqConfig> {
    let path = ckpt.with_extension("yaml");
    let text = std::fs::read_to_string(&path).map_err(Error::io(&path))?;
    let yaml: Yaml =
        serde_norway::from_str(&text).map_err(|e| Error::file(&path, e.to_string()))?;
    let YamlParams { embed_dim, n_embed, ddconfig: mut keys } = yaml.model.params;
    keys.insert("embed_dim".to_owned(), json!(embed_dim));
    keys.insert("n_embed".to_owned(), json!(n_embed));
    let config: VqConfig = serde_json::from_value(Value::Object(keys))
        .map_err(|e| Error::file(&path, format!("ddconfig: {e}")))?;
    config.validate().map_err(|e| Error::file(&path, e.to_string()))?;
    Ok(config)
}

/// The image tokenizer in `ckpt`; `preprocessor` is the original release's unless given.
///
/// # Errors
/// Those of both files; when weights and shape do not fit each other.
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

/// The tokenizer's weights among a checkpoint's: not those of the losses it was trained with.
struct Weights {
    file: TorchFile,
}

impl TensorSource for Weights {
    fn names(&self) -> Vec<String> {
        let ours = |name: &String| Some(name.strip_prefix(UNDER)?.to_owned());
        let names = self.file.tensors().keys().filter_map(ours);
        names.filter(|name| !name.starts_with("loss.")).collect()
    }

    fn tensor(
        &mut self,
        name: &str,
        dtype: FloatDType,
    ) -> vq_tokenizer::Result<Option<TensorData>> {
        let name = format!("{UNDER}{name}");
        let Some(info) = self.file.tensors().get(&name) else { return Ok(None) };
        let invalid = |e: Error| vq_tokenizer::Error::invalid(e.to_string());
        let bytes = self.file.read(&name).map_err(invalid)?;
        let stored = StoredTensor { dtype: info.dtype, shape: info.shape.clone(), bytes };
        stored.to_data(dtype).map(Some)
    }
}

/// The YAML file of a tokenizer of the shape `config`.
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
                // Read here alone; other programs take 32 groups and a plain codebook.
                "norm_groups": config.norm_groups,
                "quantizer": config.quantizer,
            },
        },
    } });
    serde_norway::to_string(&value).expect("numbers, texts and lists are valid YAML")
}
