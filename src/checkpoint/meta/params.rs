//! `params.json` and `consolidate_params.json`: the original release's configuration.

use std::path::Path;

use serde::Deserialize;
use serde_json::{Map, Value, json};

use crate::error::{Error, Result};
use crate::files::read_json;
use crate::model::ModelConfig;

/// The release's longest sequence, which its files do not state.
const CONTEXT: usize = 4096;

/// The keys that define the model; others are ignored.
#[derive(Debug, Deserialize)]
struct Params {
    dim: usize,
    n_layers: usize,
    n_heads: usize,
    n_kv_heads: Option<usize>,
    vocab_size: usize,
    ffn_dim_multiplier: Option<f64>,
    #[serde(default = "multiple_of")]
    multiple_of: usize,
    #[serde(default = "norm_eps")]
    norm_eps: f64,
    #[serde(default = "rope_theta")]
    rope_theta: f64,
    #[serde(default)]
    qk_normalization: bool,
    #[serde(default)]
    swin_norm: bool,
    #[serde(default = "one")]
    model_parallel_size: usize,
    max_seq_len: Option<usize>,
}

fn multiple_of() -> usize {
    256
}
fn norm_eps() -> f64 {
    1e-5
}
fn rope_theta() -> f64 {
    10_000.0
}
fn one() -> usize {
    1
}

/// The width of the feed-forward layer (`chameleon/inference/transformer.py`).
fn feed_forward(dim: usize, multiplier: Option<f64>, multiple_of: usize) -> usize {
    let width = 2 * (4 * dim) / 3;
    let width = multiplier.map_or(width, |factor| (factor * width as f64) as usize);
    width.next_multiple_of(multiple_of.max(1))
}

/// Reads the configuration of the model in the directory `dir`.
///
/// # Errors
/// Those of the files; if a size is missing or the model has no query and key norms.
pub fn read(dir: &Path) -> Result<ModelConfig> {
    let path = dir.join("params.json");
    let object = |path: &Path| match read_json(path)? {
        Value::Object(object) => Ok(object),
        _ => Err(Error::file(path, "no JSON object")),
    };
    let mut keys: Map<String, Value> = object(&path)?;
    if let Some(Value::Object(model)) = keys.remove("model") {
        keys.extend(model);
    }
    let consolidated = dir.join("consolidate_params.json");
    if consolidated.exists() {
        keys.extend(object(&consolidated)?);
    }
    let params: Params =
        serde_path_to_error::deserialize(Value::Object(keys)).map_err(Error::in_file(&path))?;
    if !params.qk_normalization {
        return Err(Error::file(&path, "qk_normalization is false; only true is supported"));
    }
    let config = ModelConfig {
        vocab_size: params.vocab_size,
        hidden_size: params.dim,
        intermediate_size: feed_forward(params.dim, params.ffn_dim_multiplier, params.multiple_of),
        num_hidden_layers: params.n_layers,
        num_attention_heads: params.n_heads,
        num_key_value_heads: params.n_kv_heads.unwrap_or(params.n_heads),
        max_position_embeddings: params.max_seq_len.unwrap_or(CONTEXT),
        rms_norm_eps: params.norm_eps,
        rope_theta: params.rope_theta,
        swin_norm: params.swin_norm,
        model_parallel_size: params.model_parallel_size.max(1),
        ..ModelConfig::default()
    };
    config.validate().map_err(Error::in_file(&path))?;
    Ok(config)
}

/// Writes both files of a model of the configuration `config` into the existing directory `dir`.
///
/// # Errors
/// Those of the file system.
pub fn write(config: &ModelConfig, dir: &Path) -> Result<()> {
    let width = config.intermediate_size;
    // The ratio, half a channel up, with a multiple of 1 gives any width.
    let (multiplier, multiple) = match feed_forward(config.hidden_size, None, 256) == width {
        true => (None, 256),
        false => {
            let plain = feed_forward(config.hidden_size, None, 1) as f64;
            (Some((width as f64 + 0.5) / plain), 1)
        }
    };
    let params = json!({ "model": {
        "dim": config.hidden_size,
        "n_layers": config.num_hidden_layers,
        "n_heads": config.num_attention_heads,
        "n_kv_heads": config.num_key_value_heads,
        "ffn_dim_multiplier": multiplier,
        "multiple_of": multiple,
        "norm_eps": config.rms_norm_eps,
        "rope_theta": config.rope_theta,
        "qk_normalization": true,
        "swin_norm": config.swin_norm,
        "max_seq_len": config.max_position_embeddings,
    } });
    let consolidated = json!({
        "model_parallel_size": config.model_parallel_size,
        "vocab_size": config.vocab_size,
    });
    for (name, value) in [("params.json", params), ("consolidate_params.json", consolidated)] {
        let path = dir.join(name);
        std::fs::write(&path, format!("{value:#}\n")).map_err(Error::io(&path))?;
    }
    Ok(())
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;

    #[test]
    fn the_formula_gives_the_released_widths() {
        assert_eq!(feed_forward(4096, None, 256), 11_008);
        assert_eq!(feed_forward(8192, Some(1.0), 256), 22_016);
    }

    #[test]
    fn written_parameters_are_read_back() {
        let dir = tempfile::tempdir().unwrap();
        for (hidden, width) in [(4096, 11_008), (64, 176), (96, 250), (64, 7)] {
            let config = ModelConfig {
                hidden_size: hidden,
                intermediate_size: width,
                num_attention_heads: 4,
                num_key_value_heads: 2,
                model_parallel_size: 2,
                ..ModelConfig::default()
            };
            write(&config, dir.path()).unwrap();
            assert_eq!(read(dir.path()).unwrap(), config);
        }
    }
}
