//! Opening a data set by its spec.

use std::path::Path;

use super::benchmarks;
use super::class_folders::ClassFolders;
use super::dataset::Dataset;
use super::files;
use super::folder::{Folder, ending};
use super::group::{Exploded, Grouped};
use super::imagefolder::ImageFolder;
use super::joined::Joined;
use super::jsonl::Jsonl;
use super::parquet::Parquet;
use super::patterns::{expand, links_to_nowhere};
use super::scenes::{self, Scenes};
use super::webdataset::WebDataset;
use crate::error::{Error, Result};

const ALLOWED: &str = "*.tar (brace, glob and comma lists too), *.parquet, *.jsonl, a JSON list, a \
                       directory of images, scenes:SPLIT?count=N&seed=S, or a benchmark such as \
                       vqav2:questions=Q.json&annotations=A.json&images=DIR (also gqa, textvqa, \
                       pope, coco, karpathy, geneval)";

/// Opens the data set that `spec` names: `*.tar` (WebDataset), `*.parquet`, `*.jsonl` or a directory of
/// images, with or without metadata (`metadata.jsonl`, `.csv` or `.parquet`), each also as a brace list
/// (`train-{0000..0007}.tar`), a glob (`train-*.tar`) or a comma list; the samples of several files follow
/// one another. Public benchmarks are read from the files that their authors publish:
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
/// If a file is missing or not what its name says, or the spec matches nothing or no samples; the message
/// names the path and what is allowed.
pub fn open(spec: &str) -> Result<Box<dyn Dataset>> {
    if scenes::is_spec(spec) {
        return Ok(Box::new(Scenes::new(spec.parse()?)?));
    }
    if let Some(spec) = benchmarks::Spec::parse(spec)? {
        return benchmarks::open(&spec);
    }
    let paths = expand(spec)?;
    let mut parts = paths.iter().map(|path| open_file(path)).collect::<Result<Vec<_>>>()?;
    if let ([path], [part]) = (&paths[..], &parts[..])
        && part.is_empty()
    {
        return Err(Error::file(path, without_samples(path)));
    }
    if parts.iter().all(|part| part.is_empty()) {
        return Err(Error::invalid(format!("{spec}: holds no samples")));
    }
    let lost = links_to_nowhere(spec)?;
    match (parts.len(), lost.is_empty()) {
        (1, true) => Ok(parts.remove(0)),
        _ => Ok(Box::new(Joined::new(spec, parts, lost))),
    }
}

/// As [`open`], then exploded and grouped as a recipe's `explode` and `group_by` ask.
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
        return open_directory(path);
    }
    files::refuse_wrapped(path)?;
    match ending(path).as_str() {
        "tar" => Ok(Box::new(WebDataset::open(path)?)),
        "parquet" => Ok(Box::new(Parquet::open(path)?)),
        "jsonl" | "json" => Ok(Box::new(Jsonl::open(path)?)),
        "gz" | "tgz" | "zst" | "bz2" | "xz" | "zip" => {
            Err(Error::file(path, "is compressed; decompress the file first"))
        }
        _ => Err(Error::file(path, format!("not a known kind of data set; allowed are {ALLOWED}"))),
    }
}

/// What is wrong with the file or directory at `path`, which holds no samples.
fn without_samples(path: &Path) -> &'static str {
    match ending(path).as_str() {
        "tar" => {
            "holds no samples; supported members are .png, .jpg, .jpeg, .webp, .txt, .json, .cls \
             and longer names that end so"
        }
        "jsonl" | "json" => "holds no lines",
        _ => "holds no samples",
    }
}

fn open_directory(dir: &Path) -> Result<Box<dyn Dataset>> {
    let folder = Folder::list(dir)?;
    match ImageFolder::is_in(&folder) {
        true => Ok(Box::new(ImageFolder::of(folder)?)),
        false => Ok(Box::new(ClassFolders::of(folder)?)),
    }
}
