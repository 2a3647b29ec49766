//! Random access to the lines of a JSON lines file.

use std::fs::File;
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};

use image::RgbImage;
use serde_json::Value;

use super::dataset::Fields;
use super::messages::{item_error, type_name};
use super::{files, image_file};
use crate::error::{Error, Result};

/// JSON lines file with an index of its non-blank lines.
pub(super) struct Lines {
    path: PathBuf,
    file: File,
    spans: Vec<Span>,
}

/// Position of a line in the file.
struct Span {
    offset: u64,
    len: usize,
    /// Line number from 1, including blank lines.
    number: usize,
}

impl Lines {
    /// Indexes the file at `path`; fails if all lines are blank.
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

    /// The number of lines that are not blank.
    pub(super) fn len(&self) -> usize {
        self.spans.len()
    }

    /// The path of the file.
    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// Line `index` as a JSON object.
    pub(super) fn object(&self, index: usize) -> Result<Fields> {
        let span = &self.spans[index];
        let bytes =
            files::read_at(&self.file, span.offset, span.len).map_err(Error::io(&self.path))?;
        match serde_json::from_slice(&bytes)
            .map_err(Error::in_file_because(&self.path, self.label(index)))?
        {
            Value::Object(fields) => Ok(fields),
            other => {
                let message = format!("holds a {}, not a JSON object", type_name(&other));
                Err(self.error(index, message))
            }
        }
    }

    /// Decodes the image at `path`, named by line `index`.
    pub(super) fn image(&self, index: usize, path: &Path) -> Result<RgbImage> {
        let item = format!("{}: image {}", self.label(index), path.display());
        let bytes = files::read(path).map_err(Error::in_file_because(&self.path, &item))?;
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
    fn label(&self, index: usize) -> String {
        format!("line {}", self.spans[index].number)
    }
}
