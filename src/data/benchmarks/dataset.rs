//! Benchmarks as data sets.

use std::path::{Path, PathBuf};

use image::RgbImage;

use super::record::Record;
use super::spec::{Kind, Spec};
use super::{coco, geneval, gqa, karpathy, pope, textvqa, vqav2};
use crate::data::dataset::{Dataset, Fields, Sample, Unused, in_range};
use crate::data::image_key::Place;
use crate::data::messages::item_error;
use crate::data::{files, image_file};
use crate::{Error, Result};

/// Data set of the entries of a benchmark, in file order.
struct Benchmark<R> {
    name: String,
    /// File that lists the entries.
    file: PathBuf,
    /// Directory of the images.
    images: PathBuf,
    records: Vec<R>,
}

/// Opens the benchmark that `spec` names.
///
/// # Errors
/// If a file is missing or malformed (the message names line and field), or if the entries of two
/// files do not match (the message names their ids).
pub(in crate::data) fn open(spec: &Spec<'_>) -> Result<Box<dyn Dataset>> {
    match spec.kind() {
        Kind::VqaV2 => {
            let questions = spec.path("questions");
            benchmark(spec, questions, vqav2::read(questions, spec.optional_path("annotations"))?)
        }
        Kind::Gqa => list(spec, "questions", gqa::read),
        Kind::TextVqa => list(spec, "questions", textvqa::read),
        Kind::Pope => list(spec, "questions", pope::read),
        Kind::Coco => list(spec, "annotations", coco::read),
        Kind::Karpathy => list(spec, "annotations", |path| karpathy::read(path, spec.get("split"))),
        Kind::GenEval => list(spec, "prompts", geneval::read),
    }
}

/// Opens a benchmark whose entries are all in the file under `key`.
fn list<R: Record + 'static>(
    spec: &Spec<'_>,
    key: &str,
    read: impl FnOnce(&Path) -> Result<Vec<R>>,
) -> Result<Box<dyn Dataset>> {
    let file = spec.path(key);
    benchmark(spec, file, read(file)?)
}

/// The data set of `records`, which were read from `file`.
fn benchmark<R: Record + 'static>(
    spec: &Spec<'_>,
    file: &Path,
    records: Vec<R>,
) -> Result<Box<dyn Dataset>> {
    if records.is_empty() {
        return Err(Error::file(file, "holds no entries"));
    }
    let images = spec.optional_path("images").unwrap_or(Path::new(""));
    if spec.optional_path("images").is_some()
        && !std::fs::metadata(images).map_err(Error::io(images))?.is_dir()
    {
        return Err(Error::file(images, "images must be a directory of images"));
    }
    Ok(Box::new(Benchmark {
        name: spec.text().to_owned(),
        file: file.to_owned(),
        images: images.to_owned(),
        records,
    }))
}

impl<R: Record> Benchmark<R> {
    /// The path of the image `name` of the entry `label`.
    fn path(&self, label: &str, name: &str) -> Result<PathBuf> {
        let outside = |message: String| item_error(&self.file, label, message);
        files::inside(&self.images, name).map_err(outside)
    }

    /// Reads the image `name` of the entry `label`.
    fn image(&self, label: &str, name: &str) -> Result<RgbImage> {
        let path = self.path(label, name)?;
        let item = format!("{label}: image {}", path.display());
        let bytes = files::read(&path).map_err(Error::in_file_because(&self.file, &item))?;
        image_file::decode(&bytes, &format!("{}: {item}", self.file.display()))
    }
}

impl<R: Record> Dataset for Benchmark<R> {
    fn len(&self) -> usize {
        self.records.len()
    }

    fn get(&self, index: usize) -> Result<Sample> {
        in_range(self, index)?;
        let record = &self.records[index];
        let label = record.label();
        let images = match record.image() {
            Some(name) => vec![self.image(&label, &name)?],
            None => Vec::new(),
        };
        let source = format!("{}: {label}", self.file.display());
        Ok(Sample { fields: record.fields(), images, source })
    }

    fn image_places(&self, index: usize) -> Result<Option<Vec<Place>>> {
        in_range(self, index)?;
        let record = &self.records[index];
        let path = record.image().map(|name| self.path(&record.label(), &name)).transpose()?;
        Ok(Some(path.into_iter().map(Place::file).collect()))
    }

    fn unused(&self) -> Vec<Unused> {
        Vec::new()
    }

    fn place(&self, index: usize) -> String {
        format!("{}: {}", self.file.display(), self.records[index].label())
    }

    fn name(&self) -> &str {
        &self.name
    }

    fn fields(&self, index: usize) -> Result<Fields> {
        in_range(self, index)?;
        Ok(self.records[index].fields())
    }
}
