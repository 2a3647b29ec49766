//! Reader for JSON lines: interleaved documents (`segments`, `messages`), instruction data with
//! Alpaca's keys, or rows with image paths.

use std::path::Path;

use serde_json::Value;

use super::dataset::{Dataset, Fields, Sample, Unused, in_range};
use super::lines::Lines;
use super::messages::type_name;
use crate::error::Result;

/// Data set of a file with one JSON object per line.
///
/// Images are named by segments of type `image` or by the keys `image` and `images`, with paths
/// relative to the file. Rows with Alpaca's keys get a field `prompt`: the instruction and, on the
/// next line, the input if there is one.
pub struct Jsonl {
    lines: Lines,
    name: String,
}

impl Jsonl {
    /// Indexes the lines of the file at `path`.
    ///
    /// # Errors
    /// If the file cannot be read or has only blank lines.
    pub fn open(path: &Path) -> Result<Self> {
        Ok(Self { lines: Lines::open(path)?, name: path.display().to_string() })
    }

    /// The fields of line `index` and the paths of its images.
    fn parse(&self, index: usize) -> Result<(Fields, Vec<String>)> {
        in_range(self, index)?;
        let mut fields = self.lines.object(index)?;
        let paths = image_paths(&fields).map_err(|e| self.lines.error(index, e))?;
        add_prompt(&mut fields);
        Ok((fields, paths))
    }
}

impl Dataset for Jsonl {
    fn len(&self) -> usize {
        self.lines.len()
    }

    fn get(&self, index: usize) -> Result<Sample> {
        let (fields, paths) = self.parse(index)?;
        let dir = self.lines.path().parent().unwrap_or(Path::new(""));
        let images = paths
            .iter()
            .map(|path| self.lines.image(index, &dir.join(path)))
            .collect::<Result<_>>()?;
        Ok(Sample { fields, images, source: self.lines.source(index) })
    }

    fn unused(&self) -> Vec<Unused> {
        Vec::new()
    }

    fn place(&self, index: usize) -> String {
        self.lines.source(index)
    }

    fn name(&self) -> &str {
        &self.name
    }

    fn fields(&self, index: usize) -> Result<Fields> {
        self.parse(index).map(|(fields, _)| fields)
    }
}

/// Adds `prompt` to a row that has `instruction` and `output` but no `prompt`.
fn add_prompt(fields: &mut Fields) {
    let text = |name: &str| fields.get(name).and_then(Value::as_str);
    let (Some(instruction), Some(_), None) = (text("instruction"), text("output"), text("prompt"))
    else {
        return;
    };
    let prompt = match text("input") {
        Some(input) if !input.is_empty() => format!("{instruction}\n{input}"),
        _ => instruction.to_owned(),
    };
    fields.insert("prompt".to_owned(), prompt.into());
}

/// Result of checking a row; the error is the message.
type Checked<T> = std::result::Result<T, String>;

/// The paths of a row's images in document order.
fn image_paths(fields: &Fields) -> Checked<Vec<String>> {
    let mut paths = Vec::new();
    if let Some(segments) = fields.get("segments") {
        collect_segments(segments, "segments", &mut paths)?;
    } else if let Some(messages) = fields.get("messages") {
        for message in list(messages, "messages")? {
            collect_message(message, &mut paths)?;
        }
    } else {
        match fields.get("image") {
            None | Some(Value::Null) => {}
            Some(image) => paths.push(string(image, "image")?),
        }
        if let Some(images) = fields.get("images") {
            for image in list(images, "images")? {
                paths.push(string(image, "images")?);
            }
        }
    }
    Ok(paths)
}

/// Checks a message and adds the paths of its images.
fn collect_message(message: &Value, paths: &mut Vec<String>) -> Checked<()> {
    match message.get("role").and_then(Value::as_str) {
        Some("system" | "user" | "assistant") => {}
        _ => return Err("a message needs a role: system, user or assistant".to_owned()),
    }
    match message.get("content") {
        Some(Value::String(_)) => Ok(()),
        Some(content) => collect_segments(content, "content", paths),
        None => Err("a message needs content".to_owned()),
    }
}

/// Checks a list of segments, named `name`, and adds the paths of its images.
fn collect_segments(segments: &Value, name: &str, paths: &mut Vec<String>) -> Checked<()> {
    for segment in list(segments, name)? {
        let field = |key: &str| match segment.get(key) {
            Some(value) => string(value, key),
            None => Err(format!("an entry of {name} has no {key}")),
        };
        match field("type")?.as_str() {
            "text" => drop(field("text")?),
            "image" => paths.push(field("path")?),
            other => {
                return Err(format!("{name}: unknown type {other:?}; allowed: text, image"));
            }
        }
    }
    Ok(())
}

/// The value as a list.
fn list<'a>(value: &'a Value, name: &str) -> Checked<&'a [Value]> {
    let found = type_name(value);
    value.as_array().map(Vec::as_slice).ok_or_else(|| format!("{name} is a {found}, not a list"))
}

/// The value as a string.
fn string(value: &Value, name: &str) -> Checked<String> {
    let found = type_name(value);
    let text = value.as_str().map(str::to_owned);
    text.ok_or_else(|| format!("{name} is a {found}, not a string"))
}
