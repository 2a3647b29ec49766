//! Emu3's `config.json` and the names of its tensors. Source: `configuration_emu3.py` and `modeling_emu3.py` of
//! transformers 5.24.

use serde_json::{Map, Value, json};

use super::family::default;
use super::tensors::VQ_PREFIX;
use crate::error::{Error, Result};

/// The `model_type` of the whole model.
const MODEL_TYPE: &str = "emu3";

/// Prefixes of the published names and what takes their place; the last is that of the class's own names, which newer
/// versions may write.
const PREFIXES: [(&str, &str); 4] = [
    ("text_model.model.", "model."),
    ("text_model.lm_head.", "lm_head."),
    ("vqmodel.", VQ_PREFIX),
    ("model.text_model.", "model."),
];

/// Whether the `config.json` `json` is Emu3's.
pub(super) fn is_emu3(json: &Value) -> bool {
    json.get("model_type").is_some_and(|name| name == MODEL_TYPE)
}

/// The name that the tensor `name` of a file has in files of other models; that of any other model stays.
pub(super) fn common_name(name: &str) -> String {
    let renamed = PREFIXES
        .iter()
        .find_map(|(published, common)| Some((*common).to_owned() + name.strip_prefix(published)?));
    renamed.unwrap_or_else(|| name.to_owned())
}

/// The published name of the tensor that [`common_name`] calls `name`.
pub(super) fn published_name(name: &str) -> String {
    // The image tokenizer's prefix begins with the transformer's.
    let rows = [PREFIXES[2], PREFIXES[1], PREFIXES[0]];
    let renamed = rows
        .iter()
        .find_map(|(published, common)| Some((*published).to_owned() + name.strip_prefix(common)?));
    renamed.unwrap_or_else(|| name.to_owned())
}

/// Moves the text model's keys in `config` to the top, if they are Emu3's, with the release's values for absent ones.
///
/// # Errors
/// [`Error::Invalid`] if `text_config` is no object.
pub(super) fn flatten(config: &mut Map<String, Value>) -> Result<()> {
    if config.get("model_type").is_none_or(|name| name != MODEL_TYPE) {
        return Ok(());
    }
    match config.remove("text_config") {
        None | Some(Value::Null) => {}
        Some(Value::Object(mut text)) => {
            text.remove("model_type");
            config.extend(text);
        }
        Some(value) => {
            let message = format!("text_config is {value}; allowed: an object");
            return Err(Error::invalid(message));
        }
    }
    for (key, value) in [
        ("vocab_size", json!(184_622)),
        ("hidden_size", json!(4096)),
        ("intermediate_size", json!(14_336)),
        ("num_hidden_layers", json!(32)),
        ("num_attention_heads", json!(32)),
        ("num_key_value_heads", json!(8)),
        ("max_position_embeddings", json!(9216)),
        ("rms_norm_eps", json!(1e-5)),
        ("rope_theta", json!(1e6)),
    ] {
        default(config, key, value);
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::super::tensors::{EMBEDDING, HEAD};
    use super::*;

    #[test]
    fn names_are_those_of_other_models_and_back() {
        for (published, common) in [
            ("text_model.model.norm.weight", "model.norm.weight"),
            ("text_model.lm_head.weight", HEAD),
            ("text_model.model.embed_tokens.weight", EMBEDDING),
            ("vqmodel.quantize.embedding.weight", "model.vqmodel.quantize.embedding.weight"),
        ] {
            assert_eq!(common_name(published), common);
            assert_eq!(common_name(common), common);
            assert_eq!(published_name(common), published);
        }
        assert_eq!(common_name("model.text_model.norm.weight"), "model.norm.weight");
    }
}
