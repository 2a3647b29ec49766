//! Data sets: readers for the formats people already use, and the way from samples to batches.
//!
//! [`open`] turns a path (or a list of paths) into a [`Dataset`] of [`Sample`]s. A recipe may
//! [`explode`](Exploded) a list-valued field into one sample per entry or
//! [`group`](Grouped) rows that share an image, maps fields to a document by a
//! [`template`], draws from several sources by weight ([`mixture`]) and packs the resulting
//! token sequences into rows ([`pack`]). Token sequences can be made once and kept as [`shards`].

mod aliased;
mod augment;
pub(crate) mod benchmarks;
mod config;
mod counted;
mod document;
mod encoded;
mod files;
mod group;
mod image_directory;
mod image_file;
mod imagefolder;
mod inspect;
mod jsonl;
pub mod mixture;
pub mod pack;
mod parquet;
mod render;
pub mod scenes;
pub mod shards;
mod source;
pub mod template;
mod webdataset;

use std::path::{Path, PathBuf};

use image::RgbImage;
use serde_json::{Map, Value};

pub use aliased::Aliased;
pub use augment::Augment;
pub use config::{DataConfig, Weight, WeightedTemplate};
pub(crate) use config::{Purpose, validate_sources};
pub use counted::{BadSample, Counted, DEFAULT_TOLERANCE};
pub use encoded::{EncodedSample, EncodedSource, Encoding};
pub use group::{Exploded, Grouped};
pub use image_directory::ImageDirectory;
pub use imagefolder::ImageFolder;
pub use inspect::{Column, ImageSize, Inspection, inspect};
pub use jsonl::Jsonl;
pub use parquet::Parquet;
pub use source::{DocumentSource, Renderer};
pub use webdataset::WebDataset;

use crate::{Error, Result};

/// The columns of a sample by name.
pub type Fields = Map<String, Value>;

/// One sample of a data set as a reader sees it.
#[derive(Clone, Debug, PartialEq)]
pub struct Sample {
    /// Columns by name; images are not among them.
    pub fields: Fields,
    /// Decoded images, in the order in which the sample names them; transparency is blended on
    /// white.
    pub images: Vec<RgbImage>,
    /// Where the sample comes from: file and member, row or line.
    pub source: String,
}

/// A data set with random access, readable from any thread. A sample that cannot be read is an
/// error for its index only; see [`Counted`].
pub trait Dataset: Send + Sync {
    /// The number of samples, good and bad.
    fn len(&self) -> usize;

    /// Sample `index` with its images decoded.
    ///
    /// # Errors
    /// When `index` is not below [`len`](Self::len), or the sample cannot be read; the message
    /// names file and member.
    fn get(&self, index: usize) -> Result<Sample>;

    /// What the data set is called in messages: usually its path.
    fn name(&self) -> &str;

    /// The fields of sample `index` alone; readers answer this without decoding images.
    ///
    /// # Errors
    /// As [`get`](Self::get), but an image that cannot be decoded may go unnoticed.
    fn fields(&self, index: usize) -> Result<Fields> {
        self.get(index).map(|sample| sample.fields)
    }

    /// Whether there is no sample at all.
    fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

const ALLOWED: &str = "*.tar (brace, glob and comma lists too), *.parquet, *.jsonl, a directory \
                       with metadata.jsonl, scenes:SPLIT?count=N&seed=S, or a benchmark such as \
                       vqav2:questions=Q.json&annotations=A.json&images=DIR (also gqa, textvqa, \
                       pope, coco, karpathy, geneval)";

/// Opens the data set that `spec` names: `*.tar` (WebDataset), `*.parquet`, `*.jsonl`, a directory
/// with `metadata.jsonl`, each also as a brace list (`train-{0000..0007}.tar`), a glob
/// (`train-*.tar`) or a comma list; samples of several files follow one another. Public benchmarks
/// are read in the files that their authors publish:
///
/// | spec | fields of a sample |
/// |---|---|
/// | `vqav2:questions=Q.json&annotations=A.json&images=DIR` | `question_id`, `image_id`, `question`, `answer`, `answers`, `question_type`, `answer_type`; the first three without `annotations` |
/// | `gqa:questions=Q.json&images=DIR` | `question_id`, `image_id`, `question`, `answer`, `full_answer`, `is_balanced`, `question_type`, `semantic_type`, `detailed_type` |
/// | `textvqa:questions=Q.json&images=DIR` | `question_id`, `image_id`, `question`, `answer`, `answers` |
/// | `pope:questions=Q.json&images=DIR` | `question_id`, `file_name`, `question`, `answer` |
/// | `coco:annotations=A.json&images=DIR` | `image_id`, `file_name`, `captions` |
/// | `karpathy:annotations=A.json&images=DIR&split=test` | `image_id`, `file_name`, `captions` |
/// | `geneval:prompts=P.jsonl` | `prompt`, `tag`, `metadata`; no image |
///
/// # Errors
/// When a file is missing, is not what its name says, or the spec matches nothing; the message
/// names the path and what is allowed.
pub fn open(spec: &str) -> Result<Box<dyn Dataset>> {
    if scenes::is_spec(spec) {
        return Ok(Box::new(scenes::Scenes::new(spec.parse()?)?));
    }
    if let Some(spec) = benchmarks::Spec::parse(spec)? {
        return benchmarks::open(&spec);
    }
    let mut parts =
        files::expand(spec)?.iter().map(|p| open_file(p)).collect::<Result<Vec<_>>>()?;
    match parts.len() {
        1 => Ok(parts.remove(0)),
        _ => Ok(Box::new(Joined::new(spec, parts))),
    }
}

/// What tells one state of the data set that `spec` names from another: sizes and times of its files.
pub(crate) fn fingerprint(spec: &str) -> Result<Vec<(PathBuf, u64, u64)>> {
    if scenes::is_spec(spec) {
        return Ok(Vec::new());
    }
    let mut states = Vec::new();
    let paths = match benchmarks::Spec::parse(spec)? {
        Some(spec) => spec.paths().map(Path::to_owned).collect(),
        None => files::expand(spec)?,
    };
    paths.iter().try_for_each(|path| files::states(path, &mut states))?;
    Ok(states)
}

/// As [`open`], then explodes and groups as a recipe's `explode` and `group_by` ask.
///
/// # Errors
/// As [`open`], [`Exploded::new`] and [`Grouped::new`].
pub fn open_as(
    spec: &str,
    explode: Option<&str>,
    group_by: Option<&str>,
) -> Result<Box<dyn Dataset>> {
    let mut dataset = open(spec)?;
    if let Some(field) = explode {
        dataset = Box::new(Exploded::new(dataset, field)?);
    }
    if let Some(field) = group_by {
        dataset = Box::new(Grouped::new(dataset, field)?);
    }
    Ok(dataset)
}

fn open_file(path: &Path) -> Result<Box<dyn Dataset>> {
    let metadata = std::fs::metadata(path).map_err(Error::io(path))?;
    if metadata.is_dir() {
        return Ok(Box::new(ImageFolder::open(path)?));
    }
    let extension = path.extension().and_then(|e| e.to_str()).unwrap_or("").to_ascii_lowercase();
    match extension.as_str() {
        "tar" => Ok(Box::new(WebDataset::open(path)?)),
        "parquet" => Ok(Box::new(Parquet::open(path)?)),
        "jsonl" => Ok(Box::new(Jsonl::open(path)?)),
        "gz" | "zst" | "bz2" | "xz" => Err(Error::file(
            path,
            "compressed archives cannot be read in place; decompress the file first",
        )),
        _ => Err(Error::file(path, format!("not a known kind of data set; allowed are {ALLOWED}"))),
    }
}

/// Several data sets, one after the other.
struct Joined {
    name: String,
    parts: Vec<Box<dyn Dataset>>,
    /// Index of the first sample of each part, and the total.
    starts: Vec<usize>,
}

impl Joined {
    fn new(name: &str, parts: Vec<Box<dyn Dataset>>) -> Self {
        let mut starts = vec![0];
        let mut total = 0;
        for part in &parts {
            total += part.len();
            starts.push(total);
        }
        Self { name: name.to_owned(), parts, starts }
    }

    fn locate(&self, index: usize) -> Result<(&dyn Dataset, usize)> {
        in_range(self, index)?;
        let part = self.starts.partition_point(|&start| start <= index) - 1;
        Ok((self.parts[part].as_ref(), index - self.starts[part]))
    }
}

impl Dataset for Joined {
    fn len(&self) -> usize {
        self.starts.last().copied().unwrap_or(0)
    }

    fn get(&self, index: usize) -> Result<Sample> {
        let (part, index) = self.locate(index)?;
        part.get(index)
    }

    fn name(&self) -> &str {
        &self.name
    }

    fn fields(&self, index: usize) -> Result<Fields> {
        let (part, index) = self.locate(index)?;
        part.fields(index)
    }
}

/// Refuses an index beyond the end of `dataset`.
fn in_range<D: Dataset + ?Sized>(dataset: &D, index: usize) -> Result<()> {
    if index < dataset.len() {
        return Ok(());
    }
    Err(Error::invalid(format!(
        "sample {index} of {} does not exist; it has {}",
        dataset.name(),
        dataset.len()
    )))
}

/// The JSON type of `value` in a word.
fn type_name(value: &Value) -> &'static str {
    match value {
        Value::Null => "null",
        Value::Bool(_) => "boolean",
        Value::Number(number) if number.is_f64() => "number",
        Value::Number(_) => "integer",
        Value::String(_) => "string",
        Value::Array(_) => "list",
        Value::Object(_) => "object",
    }
}

/// Says that there is no `what` (a key, a kind) called `name`, and which of `known` is the nearest.
fn unknown(what: &str, name: &str, known: &[&str]) -> String {
    let distance = |known: &&&str| strsim::damerau_levenshtein(known, name);
    let nearest = known.iter().min_by_key(distance).copied().unwrap_or_default();
    let allowed = known.join(", ");
    format!("unknown {what} {name:?}, the nearest is {nearest:?} (allowed: {allowed})")
}

/// Names of `fields`, for messages.
fn available(fields: &Fields) -> String {
    match fields.is_empty() {
        true => "there are no fields".to_owned(),
        false => {
            let names: Vec<&str> = fields.keys().map(String::as_str).collect();
            format!("available are {}", names.join(", "))
        }
    }
}

/// An error about one item (member, row, line) of the file at `path`.
fn item_error(path: &Path, item: &str, message: impl std::fmt::Display) -> Error {
    Error::file(path, format!("{item}: {message}"))
}
