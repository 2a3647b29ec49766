//! `config.json`: Hugging Face's keys, in their older and newer forms.

use serde_json::{Value, json};
use tensor_files::StoredDtype;
use vq_tokenizer::VqTokenizer;

use super::rope;
use super::transformers::vocabulary_map;
use crate::error::{Error, Result};
use crate::model::ModelConfig;
use crate::tokenize::Processor;

/// The transformer's configuration in a `config.json`, with the rotary base in either place.
///
/// # Errors
/// [`Error::Invalid`] for a wrong type, a value out of range, or an unsupported feature.
pub fn config_from_json(json: &Value) -> Result<ModelConfig> {
    let mut json = json.clone();
    let object = json.as_object_mut().ok_or_else(|| Error::invalid("no JSON object"))?;
    rope::flatten(object)?;
    let only = [
        ("model_type", json!("chameleon")),
        ("hidden_act", json!("silu")),
        ("attention_bias", json!(false)),
        ("mlp_bias", json!(false)),
    ];
    for (key, allowed) in only {
        if let Some(value) = object.get(key).filter(|value| **value != allowed) {
            return Err(Error::invalid(format!("{key} is {value}; only {allowed} is supported")));
        }
    }
    let config: ModelConfig = serde_path_to_error::deserialize(json)
        .map_err(|e| Error::Invalid { message: e.to_string(), source: Some(e.into()) })?;
    config.validate()?;
    Ok(config)
}

/// A `config.json` with the keys that Hugging Face's Chameleon reads.
pub fn config_to_json(
    config: &ModelConfig,
    processor: &Processor,
    vq: Option<&VqTokenizer>,
    dtype: StoredDtype,
) -> Value {
    let mut json = json!(config);
    let vocabulary = processor.vocabulary();
    let special = vocabulary.special();
    let more = json!({
        "architectures": ["ChameleonForConditionalGeneration"],
        "model_type": "chameleon",
        "hidden_act": "silu",
        "attention_bias": false,
        "attention_dropout": 0.0,
        "mlp_bias": false,
        "rope_parameters": { "rope_theta": config.rope_theta, "rope_type": "default" },
        "dtype": torch_name(dtype),
        "bos_token_id": special.bos,
        "eos_token_id": special.eos,
        "pad_token_id": special.pad,
        "image_token_id": special.image_placeholder,
        "vocabulary_map": vocabulary_map(vocabulary),
        "vq_config": vq.map(|vq| json!(vq.config())),
    });
    if let (Some(object), Value::Object(more)) = (json.as_object_mut(), more) {
        object.extend(more);
    }
    json
}

/// PyTorch's name of a number format.
pub(super) fn torch_name(dtype: StoredDtype) -> &'static str {
    match dtype {
        StoredDtype::F32 => "float32",
        StoredDtype::Bf16 => "bfloat16",
        StoredDtype::F16 => "float16",
    }
}
