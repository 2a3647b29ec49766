//! Reader for Hugging Face image folders: a directory of images with `metadata.jsonl`.

use std::path::{Path, PathBuf};

use serde_json::Value;

use super::dataset::{Dataset, Fields, Sample, Unused, in_range};
use super::files;
use super::lines::Lines;
use crate::error::{Error, Result};

/// Data set of a directory with `metadata.jsonl`. Each line names an image by `file_name` (or
/// several by the list `file_names`), relative to the directory, and holds the other columns.
pub struct ImageFolder {
    dir: PathBuf,
    name: String,
    lines: Lines,
}

impl ImageFolder {
    /// Indexes `metadata.jsonl` in the directory `dir`.
    ///
    /// # Errors
    /// If there is no such file or it is empty.
    pub fn open(dir: &Path) -> Result<Self> {
        let metadata = dir.join("metadata.jsonl");
        if !metadata.is_file() {
            let message = "a directory is a data set only if it holds metadata.jsonl with a \
                           file_name on each line";
            return Err(Error::file(dir, message));
        }
        let name = dir.display().to_string();
        Ok(Self { dir: dir.to_owned(), name, lines: Lines::open(&metadata)? })
    }

    /// Paths of the images named by the `fields` of line `index`.
    fn images(&self, index: usize, fields: &Fields) -> Result<Vec<PathBuf>> {
        let names = match (fields.get("file_name"), fields.get("file_names")) {
            (Some(Value::String(name)), _) => vec![name.as_str()],
            (None, Some(Value::Array(names))) => names.iter().filter_map(Value::as_str).collect(),
            _ => return Err(self.lines.error(index, "there is no string file_name")),
        };
        names
            .into_iter()
            .map(|name| files::inside(&self.dir, name).map_err(|e| self.lines.error(index, e)))
            .collect()
    }
}

impl Dataset for ImageFolder {
    fn len(&self) -> usize {
        self.lines.len()
    }

    fn get(&self, index: usize) -> Result<Sample> {
        let fields = self.fields(index)?;
        let images = self
            .images(index, &fields)?
            .iter()
            .map(|path| self.lines.image(index, path))
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
        in_range(self, index)?;
        self.lines.object(index)
    }
}
