//! The chat template of a checkpoint, in any of the files where `transformers` keeps one.

use std::path::Path;

use serde_json::Value;

use crate::error::{Error, Result};
use crate::files::{read_json, read_text};
use crate::tokenize::ChatTemplate;

pub(super) const TOKENIZER: &str = "tokenizer_config.json";
/// Older processors' file, with the key `chat_template`.
const PROCESSOR: &str = "chat_template.json";
/// The template in a file of its own.
pub(super) const JINJA: &str = "chat_template.jinja";
/// The template that counts among several.
const DEFAULT: &str = "default";

/// The chat template in `dir`: of `chat_template.jinja`, else of `chat_template.json`, else of
/// `tokenizer_config.json`, which also names the special tokens. Among several the one called
/// `default` counts.
///
/// # Errors
/// If a file cannot be read, or it has several templates and none is called `default`.
pub fn chat_template(dir: &Path) -> Result<Option<ChatTemplate>> {
    let settings = |name: &str| -> Result<Value> {
        let path = dir.join(name);
        if path.exists() { read_json(&path) } else { Ok(Value::Null) }
    };
    let tokenizer = settings(TOKENIZER)?;
    let jinja = dir.join(JINJA);
    let source = if jinja.exists() { Some(read_text(&jinja)?) } else { None };
    let (source, file) = match source {
        Some(source) => (Some(source), JINJA),
        None => match template_of(&settings(PROCESSOR)?, &dir.join(PROCESSOR))? {
            Some(source) => (Some(source), PROCESSOR),
            None => (template_of(&tokenizer, &dir.join(TOKENIZER))?, TOKENIZER),
        },
    };
    Ok(source.map(|source| ChatTemplate::new(source, file).with_tokens(special_tokens(&tokenizer))))
}

/// The template under `chat_template` in the file `path` with the content `json`.
fn template_of(json: &Value, path: &Path) -> Result<Option<String>> {
    let templates = match json.get("chat_template") {
        None | Some(Value::Null) => return Ok(None),
        Some(Value::String(source)) => return Ok(Some(source.clone())),
        Some(Value::Array(templates)) => templates,
        Some(_) => {
            let message = "chat_template is neither a text nor a list of name and template";
            return Err(Error::file(path, message));
        }
    };
    let text = |template: &Value, key: &str| Some(template.get(key)?.as_str()?.to_owned());
    let named: Option<Vec<(String, String)>> = templates
        .iter()
        .map(|template| Some((text(template, "name")?, text(template, "template")?)))
        .collect();
    let Some(named) = named else {
        let message = "chat_template has an entry without name and template";
        return Err(Error::file(path, message));
    };
    let only = (named.len() == 1).then(|| &named[0]);
    match named.iter().find(|(name, _)| name == DEFAULT).or(only) {
        Some((_, source)) => Ok(Some(source.clone())),
        None => {
            let names: Vec<&str> = named.iter().map(|(name, _)| name.as_str()).collect();
            let names = names.join(", ");
            let message = format!("chat_template has none called {DEFAULT}; there are: {names}");
            Err(Error::file(path, message))
        }
    }
}

/// The names of special tokens by their role; each is a text or an object with `content`.
pub(super) fn special_tokens(json: &Value) -> Vec<(String, String)> {
    // Roles that transformers does not know by itself may be in an object of their own.
    let extra = json.get("extra_special_tokens");
    let entries = [Some(json), extra].into_iter().flatten().filter_map(Value::as_object).flatten();
    let token = |(role, value): (&String, &Value)| {
        let name = value.as_str().or_else(|| value.get("content")?.as_str())?;
        role.ends_with("_token").then(|| (role.clone(), name.to_owned()))
    };
    entries.filter_map(token).collect()
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests")]
mod tests {
    use serde_json::json;

    use super::*;

    fn dir(files: &[(&str, &str)]) -> tempfile::TempDir {
        let dir = tempfile::tempdir().unwrap();
        for (name, content) in files {
            std::fs::write(dir.path().join(name), content).unwrap();
        }
        dir
    }

    fn found(files: &[(&str, &str)]) -> Option<(String, String)> {
        let template = chat_template(dir(files).path()).unwrap()?;
        Some((template.source().to_owned(), template.place().to_owned()))
    }

    #[test]
    fn the_file_of_its_own_goes_before_the_tokenizers_settings() {
        let tokenizer = (TOKENIZER, r#"{"chat_template": "c"}"#);
        let processor = (PROCESSOR, r#"{"chat_template": "b"}"#);
        let all = [(JINJA, "a\n"), processor, tokenizer];
        let named = |source: &str, file: &str| Some((source.to_owned(), file.to_owned()));
        assert_eq!(found(&all), named("a\n", JINJA));
        assert_eq!(found(&all[1..]), named("b", PROCESSOR));
        assert_eq!(found(&all[2..]), named("c", TOKENIZER));
        assert_eq!(found(&[(TOKENIZER, r#"{"chat_template": null}"#)]), None);
        assert_eq!(found(&[]), None);
    }

    #[test]
    fn the_default_among_named_templates_counts() {
        let entry = |name: &str| json!({ "name": name, "template": format!("of {name}") });
        let file = |entries: &[Value]| json!({ "chat_template": entries }).to_string();
        let two = file(&[entry("tool_use"), entry("default")]);
        assert_eq!(found(&[(TOKENIZER, &two)]).unwrap().0, "of default");
        assert_eq!(found(&[(TOKENIZER, &file(&[entry("rag")]))]).unwrap().0, "of rag");
        let message = |content: &str| {
            chat_template(dir(&[(TOKENIZER, content)]).path()).unwrap_err().to_string()
        };
        let error = message(&file(&[entry("rag"), entry("tool_use")]));
        assert!(error.contains("none called default; there are: rag, tool_use"), "{error}");
        assert!(message(&file(&[json!("a")])).contains("without name and template"));
        assert!(message(r#"{"chat_template": 3}"#).contains("neither a text nor a list"));
    }

    #[test]
    fn special_tokens_are_texts_or_objects() {
        let json = r#"{"chat_template": "", "eos_token": {"content": "<|im_end|>", "lstrip": false},
            "bos_token": null, "pad_token": "<pad>", "add_bos_token": true}"#;
        let template = chat_template(dir(&[(TOKENIZER, json)]).path()).unwrap().unwrap();
        let tokens = template.tokens();
        assert_eq!(tokens["eos_token"], "<|im_end|>");
        assert_eq!(tokens["pad_token"], "<pad>");
        assert_eq!(tokens["bos_token"], "<s>");
        assert_eq!(tokens.len(), 3);
    }
}
