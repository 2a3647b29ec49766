//! Reader for JSON lines: interleaved documents (`segments`, `messages`, `conversations`), instruction
//! data with Alpaca's keys, or rows with image paths.

use std::path::Path;

use serde_json::Value;

use super::conversation::take_images;
use super::dataset::{Dataset, Fields, Sample, Unused, in_range};
use super::image_key::Place;
use super::image_source::ImageSource;
use super::lines::Lines;
use crate::error::Result;

/// Data set of a file with one JSON object per line, or with a list of them.
///
/// Images are named by segments of type `image` or by the keys `image` and `images`, with paths relative to
/// the file or as `data:` URIs. `<image>` marks in conversations stand for them. Rows with Alpaca's keys get
/// a field `prompt`: the instruction and, on the next line, the input if there is one.
pub struct Jsonl {
    lines: Lines,
    name: String,
}

impl Jsonl {
    /// Indexes the lines of the file at `path`, which may have none.
    ///
    /// # Errors
    /// If the file cannot be read or is UTF-16.
    pub fn open(path: &Path) -> Result<Self> {
        Ok(Self { lines: Lines::open(path)?, name: path.display().to_string() })
    }

    /// The fields of line `index` and its images.
    fn parse(&self, index: usize) -> Result<(Fields, Vec<ImageSource>)> {
        in_range(self, index)?;
        let mut fields = self.lines.object(index)?;
        add_prompt(&mut fields);
        let dir = self.lines.path().parent().unwrap_or(Path::new(""));
        let images = take_images(&mut fields)
            .and_then(|names| names.iter().map(|name| ImageSource::parse(name, dir)).collect());
        Ok((fields, images.map_err(|e| self.lines.error(index, e))?))
    }
}

impl Dataset for Jsonl {
    fn len(&self) -> usize {
        self.lines.len()
    }

    fn get(&self, index: usize) -> Result<Sample> {
        let (fields, images) = self.parse(index)?;
        let images = images.iter().map(|image| self.lines.image(index, image));
        let images = images.collect::<Result<_>>()?;
        Ok(Sample { fields, images, source: self.lines.source(index) })
    }

    fn image_places(&self, index: usize) -> Result<Option<Vec<Place>>> {
        let (_, images) = self.parse(index)?;
        let place = |(number, image)| match image {
            ImageSource::File(path) => Place::file(path),
            ImageSource::Inside(_) => Place::part(self.lines.path(), format!("{index}/{number}")),
        };
        Ok(Some(images.into_iter().enumerate().map(place).collect()))
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
