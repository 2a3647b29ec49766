//! How a checkpoint generates, in the keys of this project's `generation_config.json`.

use std::path::Path;

use serde_json::{Map, Value, json};

use super::hugging_face::preset_of;
use super::manifest::Manifest;
use super::names::GENERATION;
use super::text_model;
use crate::error::{Error, Result};
use crate::files::read_json;
use crate::generate::{GenerationConfig, Preset};
use crate::tokenize::TextTokenizer;

/// What a run keeps of how the checkpoint in `dir`, with which it begins and whose ids it has, generates: everything but the
/// mode that a published model's class implies; or, where it has settings of its own, only the ids that end an answer. The
/// ends that every model with a separator has are left out.
///
/// # Errors
/// Those of the files.
pub fn kept_settings(dir: &Path, has_own: bool) -> Result<Map<String, Value>> {
    let config: Value = read_json(&dir.join("config.json"))?;
    let mut kept = match has_own {
        true => Map::new(),
        false => generation_settings(dir, &config, None)?,
    };
    let file = settings_in(dir)?;
    if file.get("modality").is_none() {
        kept.remove("modality");
    }
    let mut stop_ids = text_model::stop_ids(&file, &config);
    let common = ends_with_separator(dir)?;
    match stop_ids.iter().all(|id| common.contains(id)) {
        true => stop_ids.clear(),
        false => stop_ids.extend(common),
    }
    stop_ids.sort_unstable();
    stop_ids.dedup();
    kept.remove("eos_token_id");
    if !stop_ids.is_empty() {
        kept.insert("eos_token_id".to_owned(), json!(stop_ids));
    }
    let settings = GenerationConfig::from_json(&json!(kept).to_string());
    let valid = settings.and_then(|settings| settings.validate());
    valid.map_err(Error::in_file(&dir.join(GENERATION)))?;
    Ok(kept)
}

/// The ids that end an answer of the model in `dir`, if it has a separator.
fn ends_with_separator(dir: &Path) -> Result<Vec<u32>> {
    let path = dir.join("tokenizer.json");
    if !path.exists() {
        return Ok(Vec::new());
    }
    let text = TextTokenizer::load(&path)?;
    if !text.names_tell_roles() {
        return Ok(Vec::new());
    }
    let special = *text.vocabulary()?.special();
    Ok([Some(special.eos), special.sep].into_iter().flatten().collect())
}

/// The content of the file in `dir`; an empty object without one.
fn settings_in(dir: &Path) -> Result<Value> {
    let path = dir.join(GENERATION);
    let json: Value = if path.exists() { read_json(&path)? } else { json!({}) };
    match json.is_object() {
        true => Ok(json),
        false => Err(Error::file(&path, "is no JSON object")),
    }
}

/// The content of `generation_config.json` of the checkpoint in `dir`, whose `config.json` is `config`. It has the keys of
/// `preset`; without one a published model has those of its class, where its file does not say otherwise.
///
/// # Errors
/// Those of the files.
pub fn generation_settings(
    dir: &Path,
    config: &Value,
    preset: Option<Preset>,
) -> Result<Map<String, Value>> {
    let json = settings_in(dir)?;
    let mut keys = json.as_object().cloned().unwrap_or_default();
    let implied = Manifest::read(dir)?.is_none() && keys.get("prompts").is_none();
    let implied = implied.then(|| preset_of(config));
    let Some(chosen) = preset.or(implied) else { return Ok(keys) };
    let own = chosen.config().changed_by_file(&keys);
    let own = own.map_err(Error::in_file(&dir.join(GENERATION)))?;
    let mut stop_ids = own.stop_ids.clone();
    keys.extend(match preset {
        Some(preset) => preset.to_json(),
        None => chosen.to_json_with(&own),
    });
    let of_text = text_model::stop_ids(&json, config);
    if chosen == Preset::Text && !of_text.is_empty() {
        keys.insert("eos_token_id".to_owned(), json!(of_text));
    }
    if chosen.ends_turns_with_separator() {
        let ends = ends_with_separator(dir)?.into_iter();
        stop_ids.extend(ends.filter(|id| !own.stop_ids.contains(id)));
        keys.insert("eos_token_id".to_owned(), json!(stop_ids));
    }
    Ok(keys)
}
