//! `config.json`: Hugging Face's keys, in their older and newer forms.

use serde_json::{Value, json};
use tensor_files::StoredDtype;
use vq_tokenizer::VqTokenizer;

use super::family::Family;
use super::transformers::vocabulary_map;
use super::{emu3, rope};
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
    emu3::flatten(object)?;
    rope::flatten(object)?;
    Family::of(object)?.read(object)?;
    let config: ModelConfig = serde_path_to_error::deserialize(json)
        .map_err(|e| Error::Invalid { message: e.to_string(), source: Some(e.into()) })?;
    config.validate()?;
    Ok(config)
}

/// A `config.json` with the keys that Hugging Face's class for such a model reads.
pub fn config_to_json(
    config: &ModelConfig,
    processor: &Processor,
    vq: Option<&VqTokenizer>,
    dtype: StoredDtype,
) -> Value {
    let mut json = json!(config);
    let vocabulary = processor.vocabulary();
    let special = vocabulary.special();
    let Some(object) = json.as_object_mut() else { return json };
    let family = Family::having(config);
    family.write(object, config);
    object.insert("dtype".to_owned(), json!(torch_name(dtype)));
    for (key, id) in [
        ("bos_token_id", special.bos),
        ("eos_token_id", Some(special.eos)),
        ("pad_token_id", Some(special.pad)),
    ] {
        object.insert(key.to_owned(), json!(id));
    }
    // The classes of text models have no images.
    if vocabulary.has_images() && matches!(family, Family::Chameleon | Family::Calumma) {
        object.insert("image_token_id".to_owned(), json!(special.image_placeholder));
        object.insert("vocabulary_map".to_owned(), vocabulary_map(vocabulary));
        object.insert("vq_config".to_owned(), json!(vq.map(|vq| vq.config())));
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
