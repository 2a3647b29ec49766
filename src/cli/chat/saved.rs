//! A conversation as training data: one line of JSON, with its images beside the file.

use std::path::{Path, PathBuf};

use calumma::files::write_new;
use calumma::pipeline::Chat;
use calumma::tokenize::Segment;
use calumma::{Error, Result};
use image::RgbImage;
use serde_json::{Value, json};

use crate::cli::images;

/// What readers of conversations take for an image in a text.
const MARK: &str = "<image>";

/// Writes `chat` as a row with `messages`, which data sources of JSON lines read, to the new file `path`
/// and its images to new files beside it. Returns the paths of the images.
///
/// # Errors
/// [`Error::Exists`]; if there is nothing to save or a text contains `<image>`, and those of the file system.
pub fn save(chat: &Chat<'_>, path: &Path) -> Result<Vec<PathBuf>> {
    if chat.exchanges().is_empty() {
        return Err(Error::invalid("there is no turn to save yet"));
    }
    let exists = || Error::Exists { path: path.to_owned() };
    if path.exists() {
        return Err(exists());
    }
    // Before any image is written.
    let texts = messages(chat, |_| Ok(json!({})))?;
    if let Some(message) = texts.iter().find(|message| is_marked(message)) {
        let remedy = match message["role"].as_str() {
            Some("system") => "the text is that of --system",
            _ => "/undo takes back turns",
        };
        return Err(Error::invalid(format!(
            "a text of this conversation contains {MARK}, which a reader of the file would take for an image; {remedy}"
        )));
    }
    let dir = path.parent().unwrap_or(Path::new(""));
    let stem = path.file_stem().unwrap_or_default().to_string_lossy();
    let mut saved = Vec::new();
    let messages = messages(chat, |image| {
        let file = images::save_new(dir, &format!("{stem}-image"), image, None)?;
        let name = file.file_name().unwrap_or_default().to_string_lossy().into_owned();
        saved.push(file);
        Ok(json!({ "type": "image", "path": name }))
    })?;
    let row = json!({ "messages": messages }).to_string() + "\n";
    match write_new(path, row.as_bytes())? {
        true => Ok(saved),
        false => Err(exists()),
    }
}

/// The messages of `chat`, with what `place` gives for each image.
///
/// # Errors
/// Those of `place`.
pub fn messages(
    chat: &Chat<'_>,
    mut place: impl FnMut(&RgbImage) -> Result<Value>,
) -> Result<Vec<Value>> {
    let text = |text: &str| json!({ "type": "text", "text": text });
    let system = chat.system().map(|system| json!({ "role": "system", "content": system }));
    let mut messages = Vec::from_iter(system);
    for exchange in chat.exchanges() {
        let question = exchange.question();
        let mut parts = question.images.iter().map(&mut place).collect::<Result<Vec<_>>>()?;
        if !question.text.is_empty() {
            parts.push(text(&question.text));
        }
        messages.push(message("user", parts));
        let segments = exchange.answer().iter().map(|segment| match segment {
            Segment::Text(said) => Ok(text(said)),
            Segment::Image(image) => place(image),
        });
        messages.push(message("assistant", segments.collect::<Result<Vec<_>>>()?));
    }
    Ok(messages)
}

/// Whether a text of `message` contains a mark.
fn is_marked(message: &Value) -> bool {
    let has_mark = |text: &Value| text.as_str().is_some_and(|text| text.contains(MARK));
    match &message["content"] {
        Value::Array(parts) => parts.iter().any(|part| has_mark(&part["text"])),
        text => has_mark(text),
    }
}

/// A message of `parts`; a text alone is no list, as most readers of conversations expect.
fn message(role: &str, parts: Vec<Value>) -> Value {
    let content = match parts.as_slice() {
        [] => json!(""),
        [part] if part["type"] == "text" => part["text"].clone(),
        _ => Value::from(parts),
    };
    json!({ "role": role, "content": content })
}
