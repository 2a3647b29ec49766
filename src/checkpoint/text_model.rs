//! The tokenizer and the settings of a text model, also of one that is extended by images: its files name the tokens
//! that have a role.

use std::path::Path;

use serde_json::Value;

use super::chat_template::{TOKENIZER, chat_template, special_tokens};
use crate::error::{Error, Result};
use crate::files::read_json;
use crate::tokenize::{Processor, RoleNames, TextTokenizer};

/// The key of what ends an answer, an id or several.
const EOS_ID: &str = "eos_token_id";

/// What names the tokens of images in Emu3's releases: role, name.
const OF_IMAGES: [(&str, &str); 3] =
    [("boi_token", "<|image start|>"), ("eoi_token", "<|image end|>"), ("image_token", "<image>")];

/// The text tokenizer in `dir`, whose `config.json` is `config`. One whose names do not tell roles gets them: what
/// ends a document and what fills rows are named in `tokenizer_config.json`, else by the ids in `config`; what begins,
/// ends and stands for an image there, else by Emu3's names.
///
/// # Errors
/// Those of the files; if nothing says what ends a document.
pub fn text_tokenizer(dir: &Path, config: &Value) -> Result<TextTokenizer> {
    let path = dir.join("tokenizer.json");
    let text = TextTokenizer::load(&path)?;
    if text.names_tell_roles() {
        return Ok(text);
    }
    let tokens = named_tokens(dir)?;
    let named =
        |role: &str| tokens.iter().find(|(name, _)| name == role).map(|(_, token)| token.clone());
    let by_id = |key: &str| eos_ids(config, key).first().and_then(|id| text.token(*id));
    let eos = named("eos_token").or_else(|| by_id(EOS_ID)).ok_or_else(|| {
        let message = "has no eos_token, which a model of this vocabulary needs";
        Error::file(&dir.join(TOKENIZER), message)
    })?;
    let mut names = RoleNames {
        eos,
        pad: named("pad_token").or_else(|| by_id("pad_token_id")),
        ..RoleNames::default()
    };
    if text.has_images() {
        let of_images = OF_IMAGES.map(|(role, usual)| {
            named(role).or_else(|| text.id(usual).is_some().then(|| usual.to_owned()))
        });
        [names.begin_image, names.end_image, names.image_placeholder] = of_images;
        // Emu3's processor puts it before a text, not its tokenizer.
        names.bos = named("bos_token")
            .or_else(|| by_id("bos_token_id"))
            .filter(|_| text.sizes_images_in_digits());
    }
    text.with_roles(&names).map_err(Error::in_file(&path))
}

/// Text to ids and back by the files in `dir`, with images of `grid` codes (rows, columns) if the tokenizer has codes.
///
/// # Errors
/// Those of the files; if the grid is empty.
pub fn processor(dir: &Path, grid: (usize, usize)) -> Result<Processor> {
    let path = dir.join("config.json");
    let config: Value = if path.exists() { read_json(&path)? } else { Value::Null };
    processor_of(text_tokenizer(dir, &config)?, grid, dir)
}

/// The processor with the tokenizer `text` and the chat template in `dir`, which has the names of special tokens that
/// the files give; the usual ones too if names tell roles.
///
/// # Errors
/// As [`chat_template`]; if `grid`, that of images, is empty.
pub(super) fn processor_of(
    text: TextTokenizer,
    grid: (usize, usize),
    dir: &Path,
) -> Result<Processor> {
    let mut template = chat_template(dir)?;
    if !text.names_tell_roles() {
        let tokens = named_tokens(dir)?;
        template = template.map(|template| template.with_only_tokens(tokens));
    }
    Ok(Processor::new(text, grid)?.with_chat_template(template))
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
    match json.get(key).or_else(|| json.get("text_config")?.get(key)) {
        Some(Value::Array(ids)) => ids.iter().filter_map(id).collect(),
        Some(value) => id(value).into_iter().collect(),
        None => Vec::new(),
    }
}
