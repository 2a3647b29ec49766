//! The tokenizer and the settings of a text model, whose vocabulary has no codes of images.

use std::path::Path;

use serde_json::Value;

use super::chat_template::{TOKENIZER, chat_template, special_tokens};
use crate::error::{Error, Result};
use crate::files::read_json;
use crate::tokenize::{Processor, TextTokenizer};

/// The key of what ends an answer, an id or several.
const EOS_ID: &str = "eos_token_id";

/// The text tokenizer in `dir`, whose `config.json` is `config`. That of a text model gets its roles: what ends a
/// document and what fills rows are named in `tokenizer_config.json`, else by the ids in `config`.
///
/// # Errors
/// Those of the files; if nothing says what ends a document.
pub fn text_tokenizer(dir: &Path, config: &Value) -> Result<TextTokenizer> {
    let path = dir.join("tokenizer.json");
    let text = TextTokenizer::load(&path)?;
    if text.has_images() {
        return Ok(text);
    }
    let tokens = named_tokens(dir)?;
    let named =
        |role: &str| tokens.iter().find(|(name, _)| name == role).map(|(_, token)| token.clone());
    let by_id = |key: &str| eos_ids(config, key).first().and_then(|id| text.token(*id));
    let eos = named("eos_token").or_else(|| by_id(EOS_ID)).ok_or_else(|| {
        let message = "has no codes of images and no eos_token, which a text model needs";
        Error::file(&dir.join(TOKENIZER), message)
    })?;
    let pad = named("pad_token").or_else(|| by_id("pad_token_id"));
    text.of_text_model(&eos, pad.as_deref()).map_err(Error::in_file(&path))
}

/// Text to ids and back by the files of a text model in `dir`.
///
/// # Errors
/// Those of the files; if the tokenizer has codes of images.
pub fn text_processor(dir: &Path) -> Result<Processor> {
    let config: Value = read_json(&dir.join("config.json"))?;
    processor_of(text_tokenizer(dir, &config)?, dir)
}

/// The processor with the tokenizer `text` and the chat template in `dir`, which has the names of special tokens that
/// the files give.
///
/// # Errors
/// As [`chat_template`].
pub(super) fn processor_of(text: TextTokenizer, dir: &Path) -> Result<Processor> {
    let tokens = named_tokens(dir)?;
    let template = chat_template(dir)?.map(|template| template.with_only_tokens(tokens));
    Ok(Processor::of_text(text)?.with_chat_template(template))
}

/// The special tokens that `tokenizer_config.json` names, by role.
fn named_tokens(dir: &Path) -> Result<Vec<(String, String)>> {
    let path = dir.join(TOKENIZER);
    let settings: Value = if path.exists() { read_json(&path)? } else { Value::Null };
    Ok(special_tokens(&settings))
}

/// What ends an answer of a text model: what its `generation_config.json`, with the content `generation`, says, else
/// its `config.json`.
pub(super) fn stop_ids(generation: &Value, config: &Value) -> Vec<u32> {
    let own = eos_ids(generation, EOS_ID);
    if own.is_empty() { eos_ids(config, EOS_ID) } else { own }
}

fn eos_ids(json: &Value, key: &str) -> Vec<u32> {
    let id = |value: &Value| value.as_u64().and_then(|id| u32::try_from(id).ok());
    match json.get(key) {
        Some(Value::Array(ids)) => ids.iter().filter_map(id).collect(),
        Some(value) => id(value).into_iter().collect(),
        None => Vec::new(),
    }
}
