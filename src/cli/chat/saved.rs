//! A conversation as training data: one line of JSON, with its images beside the file.

use std::path::{Path, PathBuf};

use calumma::files::write_new;
use calumma::pipeline::Chat;
use calumma::tokenize::Segment;
use calumma::{Error, Result};
use image::RgbImage;
use serde_json::{Value, json};

use crate::cli::images;

/// Writes `chat` as a row with `messages`, which data sources of JSON lines read, to the new file `path`
/// and its images to new files beside it. Returns the paths of the images.
///
/// # Errors
/// [`Error::Exists`]; if there is nothing to save, and those of the file system.
pub fn save(chat: &Chat<'_>, path: &Path) -> Result<Vec<PathBuf>> {
    if chat.exchanges().is_empty() {
        return Err(Error::invalid("there is no turn to save yet"));
    }
    let exists = || Error::Exists { path: path.to_owned() };
    if path.exists() {
        return Err(exists());
    }
    let dir = path.parent().unwrap_or(Path::new(""));
    let stem = path.file_stem().unwrap_or_default().to_string_lossy();
    let mut saved = Vec::new();
    let mut place = |image: &RgbImage| -> Result<Value> {
        let file = images::save_new(dir, &format!("{stem}-image"), image, None)?;
        let name = file.file_name().unwrap_or_default().to_string_lossy().into_owned();
        saved.push(file);
        Ok(json!({ "type": "image", "path": name }))
    };
    let text = |text: &str| json!({ "type": "text", "text": text });
    let mut messages = Vec::new();
    if let Some(system) = chat.system() {
        messages.push(json!({ "role": "system", "content": system }));
    }
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
    let row = json!({ "messages": messages }).to_string() + "\n";
    match write_new(path, row.as_bytes())? {
        true => Ok(saved),
        false => Err(exists()),
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
