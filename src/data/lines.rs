//! Random access to the objects of a file of JSON lines, or of one JSON list.

use std::fs::File;
use std::io::{self, BufRead, BufReader};
use std::ops::Range;
use std::path::{Path, PathBuf};

use image::RgbImage;
use serde::de::DeserializeOwned;
use serde_json::Value;

use super::dataset::Fields;
use super::image_source::ImageSource;
use super::messages::{item_error, type_name};
use super::{files, image_file};
use crate::error::{Error, Result};
use crate::json;

/// File of JSON objects, one on each line or all in one list, with an index of them.
pub(super) struct Lines {
    path: PathBuf,
    file: File,
    spans: Vec<Span>,
    /// Whether the file is one JSON list.
    is_list: bool,
}

/// Position of an object in the file.
struct Span {
    offset: u64,
    len: usize,
    /// Line number from 1, including blank lines.
    number: usize,
}

impl Lines {
    /// Indexes the file at `path`, which may hold no objects.
    ///
    /// # Errors
    /// If it cannot be read or is UTF-16.
    pub(super) fn open(path: &Path) -> Result<Self> {
        let file = File::open(path).map_err(Error::io(path))?;
        let mut reader = BufReader::with_capacity(1 << 20, &file);
        let head = reader.fill_buf().map_err(Error::io(path))?;
        if let Some(message) = json::utf_16(head) {
            return Err(Error::file(path, message));
        }
        let offset = if head.starts_with(json::BOM) { json::BOM.len() } else { 0 };
        let in_list = match head[offset..].trim_ascii_start().first() {
            Some(b'[') => list_spans(path, offset as u64)?,
            _ => None,
        };
        reader.consume(offset);
        let is_list = in_list.is_some();
        let spans = match in_list {
            Some(spans) => spans,
            None => line_spans(reader, offset as u64).map_err(Error::io(path))?,
        };
        Ok(Self { path: path.to_owned(), file, spans, is_list })
    }

    /// The number of objects.
    pub(super) fn len(&self) -> usize {
        self.spans.len()
    }

    /// The path of the file.
    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// Object `index`; anything else is an error.
    pub(super) fn object(&self, index: usize) -> Result<Fields> {
        match self.parse(index)? {
            Value::Object(fields) => Ok(fields),
            other => {
                let message = format!("holds a {}, not a JSON object", type_name(&other));
                Err(self.error(index, message))
            }
        }
    }

    /// The keys of object `index` in the order of the file.
    pub(super) fn keys(&self, index: usize) -> Result<Vec<String>> {
        self.parse(index).map(|json::Keys(keys)| keys)
    }

    fn parse<T: DeserializeOwned>(&self, index: usize) -> Result<T> {
        let Span { offset, len, .. } = self.spans[index];
        let bytes = files::read_at(&self.file, offset, len).map_err(Error::io(&self.path))?;
        if bytes.trim_ascii().is_empty() {
            // A comma follows a missing value, nothing the end of a list that is cut off.
            let message = match files::read_at(&self.file, offset + len as u64, 1) {
                Ok(_) => "a value is missing before a comma",
                Err(_) => "the list has no end; the file is cut off",
            };
            return Err(self.error(index, message));
        }
        json::from_slice(&bytes).map_err(Error::in_file_because(&self.path, self.label(index)))
    }

    /// Decodes the image of `source`, named by line `index`.
    pub(super) fn image(&self, index: usize, source: &ImageSource) -> Result<RgbImage> {
        let item = format!("{}: {source}", self.label(index));
        let bytes = source.read().map_err(Error::in_file_because(&self.path, &item))?;
        image_file::decode(&bytes, &format!("{}: {item}", self.path.display()))
    }

    /// An error about line `index`.
    pub(super) fn error(&self, index: usize, message: impl std::fmt::Display) -> Error {
        item_error(&self.path, &self.label(index), message)
    }

    /// The file and line number of line `index`, for messages.
    pub(super) fn source(&self, index: usize) -> String {
        format!("{}: {}", self.path.display(), self.label(index))
    }

    /// The name of line `index` in messages.
    pub(super) fn label(&self, index: usize) -> String {
        match self.is_list {
            true => format!("[{index}]"),
            false => format!("line {}", self.spans[index].number),
        }
    }
}

/// The lines of `reader` that are not blank; it starts at `offset` in the file.
fn line_spans(mut reader: impl BufRead, mut offset: u64) -> io::Result<Vec<Span>> {
    let (mut spans, mut line, mut number) = (Vec::new(), Vec::new(), 0);
    loop {
        line.clear();
        let len = reader.read_until(b'\n', &mut line)?;
        if len == 0 {
            return Ok(spans);
        }
        number += 1;
        if !line.trim_ascii().is_empty() {
            spans.push(Span { offset, len, number });
        }
        offset += len as u64;
    }
}

/// The values of the JSON list that the file at `path` holds from `offset` on; `None` if more follows the
/// list. If the list is cut off, its last value cannot be parsed.
fn list_spans(path: &Path, offset: u64) -> Result<Option<Vec<Span>>> {
    let bytes = files::read(path).map_err(Error::io(path))?;
    let text = bytes.get(offset as usize..).unwrap_or_default();
    let (values, end) = json::list_values(text);
    if !text[end..].trim_ascii().is_empty() {
        return Ok(None);
    }
    let span = |(number, range): (usize, Range<usize>)| Span {
        offset: offset + range.start as u64,
        len: range.len(),
        number,
    };
    Ok(Some((1..).zip(values).map(span).collect()))
}
