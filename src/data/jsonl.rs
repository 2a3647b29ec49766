//! JSON lines: interleaved documents (`segments`, `messages`), instruction data in Alpaca's keys,
//! or plain rows with image paths.

use std::fs::File;
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};

use image::RgbImage;
use serde_json::Value;

use super::{Dataset, Fields, Sample, files, image_file, in_range, item_error, type_name};
use crate::{Error, Result};

/// One file of JSON objects, a line each. Images are named by segments of type `image` or by
/// the keys `image` and `images`; their paths are relative to the file. Rows with Alpaca's keys
/// also get a field `prompt`: the instruction and, on the next line, the input if there is one.
pub struct Jsonl {
    lines: Lines,
    name: String,
}

impl Jsonl {
    /// Indexes the lines of the file at `path`.
    ///
    /// # Errors
    /// When the file cannot be read or holds no line.
    pub fn open(path: &Path) -> Result<Self> {
        Ok(Self { lines: Lines::open(path)?, name: path.display().to_string() })
    }

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
        let dir = self.lines.path.parent().unwrap_or(Path::new(""));
        let images = paths
            .iter()
            .map(|path| self.lines.image(index, &dir.join(path)))
            .collect::<Result<_>>()?;
        Ok(Sample { fields, images, source: self.lines.source(index) })
    }

    fn name(&self) -> &str {
        &self.name
    }

    fn fields(&self, index: usize) -> Result<Fields> {
        self.parse(index).map(|(fields, _)| fields)
    }
}

/// Adds `prompt` to a row with `instruction` and `output` that has none yet.
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

/// Paths of the images of a row, in the order of the document.
fn image_paths(fields: &Fields) -> std::result::Result<Vec<String>, String> {
    let mut paths = Vec::new();
    if let Some(segments) = fields.get("segments") {
        collect(segments, "segments", &mut paths)?;
    } else if let Some(messages) = fields.get("messages") {
        for message in list(messages, "messages")? {
            match message.get("role").and_then(Value::as_str) {
                Some("system" | "user" | "assistant") => {}
                _ => return Err("a message needs a role: system, user or assistant".to_owned()),
            }
            match message.get("content") {
                Some(Value::String(_)) => {}
                Some(content) => collect(content, "content", &mut paths)?,
                None => return Err("a message needs content".to_owned()),
            }
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

fn collect(
    segments: &Value,
    name: &str,
    paths: &mut Vec<String>,
) -> std::result::Result<(), String> {
    for segment in list(segments, name)? {
        let field = |key: &str| match segment.get(key) {
            Some(value) => string(value, key),
            None => Err(format!("an entry of {name} has no {key}")),
        };
        match field("type")?.as_str() {
            "text" => drop(field("text")?),
            "image" => paths.push(field("path")?),
            other => {
                return Err(format!("{name}: type {other:?} is not known; it is text or image"));
            }
        }
    }
    Ok(())
}

fn list<'a>(value: &'a Value, name: &str) -> std::result::Result<&'a [Value], String> {
    let found = type_name(value);
    value.as_array().map(Vec::as_slice).ok_or_else(|| format!("{name} is a {found}, not a list"))
}

fn string(value: &Value, name: &str) -> std::result::Result<String, String> {
    let found = type_name(value);
    let text = value.as_str().map(str::to_owned);
    text.ok_or_else(|| format!("{name} is a {found}, not a string"))
}

/// The non-empty lines of a file by position.
pub(super) struct Lines {
    pub(super) path: PathBuf,
    file: File,
    spans: Vec<Span>,
}

struct Span {
    offset: u64,
    len: usize,
    /// Counted from 1, blank lines included.
    number: usize,
}

impl Lines {
    /// Indexes the file at `path`; it must have a line that is not blank.
    pub(super) fn open(path: &Path) -> Result<Self> {
        let file = File::open(path).map_err(Error::io(path))?;
        let mut reader = BufReader::with_capacity(1 << 20, &file);
        let (mut spans, mut line, mut offset, mut number) = (Vec::new(), Vec::new(), 0, 0);
        loop {
            line.clear();
            let len = reader.read_until(b'\n', &mut line).map_err(Error::io(path))?;
            if len == 0 {
                break;
            }
            number += 1;
            if !line.trim_ascii().is_empty() {
                spans.push(Span { offset, len, number });
            }
            offset += len as u64;
        }
        match spans.is_empty() {
            true => Err(Error::file(path, "holds no lines")),
            false => Ok(Self { path: path.to_owned(), file, spans }),
        }
    }

    pub(super) fn len(&self) -> usize {
        self.spans.len()
    }

    /// Line `index` as a JSON object.
    pub(super) fn object(&self, index: usize) -> Result<Fields> {
        let span = &self.spans[index];
        let bytes =
            files::read_at(&self.file, span.offset, span.len).map_err(Error::io(&self.path))?;
        match serde_json::from_slice(&bytes).map_err(|e| self.error(index, e))? {
            Value::Object(fields) => Ok(fields),
            other => {
                let message = format!("holds a {}, not a JSON object", type_name(&other));
                Err(self.error(index, message))
            }
        }
    }

    /// Decodes the image that line `index` names.
    pub(super) fn image(&self, index: usize, path: &Path) -> Result<RgbImage> {
        let bytes = files::read(path)
            .map_err(|e| self.error(index, format!("image {}: {e}", path.display())))?;
        image_file::decode(&bytes, &format!("{}: image {}", self.source(index), path.display()))
    }

    /// An error about line `index`.
    pub(super) fn error(&self, index: usize, message: impl std::fmt::Display) -> Error {
        item_error(&self.path, &format!("line {}", self.spans[index].number), message)
    }

    /// File and line, for people.
    pub(super) fn source(&self, index: usize) -> String {
        format!("{}: line {}", self.path.display(), self.spans[index].number)
    }
}
