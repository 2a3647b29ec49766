//! Public benchmarks in the files that their authors publish, named by a spec such as
//! `vqav2:questions=Q.json&annotations=A.json&images=DIR`.
//!
//! The annotation files are read once, when the data set is opened; what is wrong in them is an error
//! with file, line and field. Images are read with their samples: one that is missing or broken is
//! an error of its sample alone.

mod coco;
mod geneval;
mod gqa;
mod karpathy;
mod pope;
mod read;
mod spec;
mod textvqa;
mod vqav2;

use std::collections::HashMap;
use std::path::{Path, PathBuf};

use image::RgbImage;
use serde_json::Value;

use spec::Kind;
pub(super) use spec::Spec;

use super::{Dataset, Fields, Sample, files, image_file, in_range, item_error};
use crate::{Error, Result};

/// One entry of a benchmark, as its format holds it.
trait Record: Send + Sync {
    /// What it is called in messages, such as `question 42`.
    fn label(&self) -> String;

    /// Its columns.
    fn fields(&self) -> Fields;

    /// The file of its image below the directory of images; `None` where the benchmark has none.
    fn image(&self) -> Option<String>;
}

/// The most frequent of several people's answers; among equals the first.
pub(crate) fn most_frequent<T: AsRef<str>>(answers: &[T]) -> Option<&str> {
    let mut counts: HashMap<&str, usize> = HashMap::new();
    answers.iter().for_each(|answer| *counts.entry(answer.as_ref()).or_default() += 1);
    // The last of the greatest is taken, so the order is turned round.
    answers.iter().rev().map(AsRef::as_ref).max_by_key(|answer: &&str| counts[*answer])
}

/// The entries of a benchmark as a data set, in the order of their file.
struct Benchmark<R> {
    name: String,
    /// The file that lists the entries.
    file: PathBuf,
    images: PathBuf,
    records: Vec<R>,
}

/// Opens the benchmark that `spec` names.
///
/// # Errors
/// When a file is missing or not of the benchmark's format, with line and field; when entries of
/// two files do not belong together, with their ids.
pub(super) fn open(spec: &Spec<'_>) -> Result<Box<dyn Dataset>> {
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

/// A benchmark whose entries are all in the file that `spec` has under `key`.
fn list<R: Record + 'static>(
    spec: &Spec<'_>,
    key: &str,
    read: impl FnOnce(&Path) -> Result<Vec<R>>,
) -> Result<Box<dyn Dataset>> {
    let file = spec.path(key);
    benchmark(spec, file, read(file)?)
}

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
    fn image(&self, label: &str, name: &str) -> Result<RgbImage> {
        let error = |message: String| item_error(&self.file, label, message);
        let path = files::inside(&self.images, name).map_err(error)?;
        let bytes =
            files::read(&path).map_err(|e| error(format!("image {}: {e}", path.display())))?;
        let origin = format!("{}: {label}: image {}", self.file.display(), path.display());
        image_file::decode(&bytes, &origin)
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

    fn name(&self) -> &str {
        &self.name
    }

    fn fields(&self, index: usize) -> Result<Fields> {
        in_range(self, index)?;
        Ok(self.records[index].fields())
    }
}

/// Columns of the given names and values.
fn columns<const N: usize>(columns: [(&str, Value); N]) -> Fields {
    columns.into_iter().map(|(name, value)| (name.to_owned(), value)).collect()
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests")]
mod tests {
    use std::fs::write;

    use crate::data::fingerprint;

    #[test]
    fn the_fingerprint_covers_annotations_and_images() {
        let dir = tempfile::tempdir().unwrap();
        let at = dir.path().display();
        let spec = format!("karpathy:annotations={at}/a.json&images={at}/i&split=test");
        assert!(fingerprint(&spec).is_err(), "there are no files yet");
        std::fs::create_dir(dir.path().join("i")).unwrap();
        write(dir.path().join("a.json"), "{}").unwrap();
        let mut seen = vec![fingerprint(&spec).unwrap()];
        for (name, text) in [("a.json", "{} "), ("i/1.jpg", "1"), ("i/1.jpg", "12")] {
            write(dir.path().join(name), text).unwrap();
            let now = fingerprint(&spec).unwrap();
            assert!(!seen.contains(&now), "{name} has changed");
            seen.push(now);
        }
    }
}
