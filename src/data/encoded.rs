//! Samples with their images as codes, encoded once and cached on disk for later runs.
//!
//! Training never runs the image tokenizer. Each source has a cache of JSON lines, named by a digest of
//! the tokenizer, the source, and the sizes and modification times of its files. A resumed or repeated
//! run therefore finds its cache; another tokenizer or changed data get a new one.

use std::collections::BTreeSet;
use std::fs::File;
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};

use rayon::prelude::*;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use vq_tokenizer::{Codes, VqTokenizer};

use super::config::SourceConfig;
use super::counted::Counted;
use super::dataset::{Dataset, Fields};
use super::open::fingerprint;
use crate::error::{Error, Result};
use crate::files::{hex, write_atomic};
use crate::report::Reporter;

/// Number of samples encoded together.
const BATCH: usize = 32;

/// Maximum number of bad samples listed per source.
const BAD_LISTED: usize = 20;

/// Sample with its images as codes.
#[derive(Clone, Debug)]
pub(super) struct EncodedSample {
    /// The columns that templates use.
    pub(super) fields: Fields,
    /// The codes of the images, in the sample's order.
    pub(super) images: Vec<Codes>,
    /// Its index in the data set.
    pub(super) index: usize,
    /// Its file and line, row or member.
    pub(super) place: String,
}

/// All readable samples of a source, in memory.
pub(super) struct EncodedSource {
    /// The readable samples in order.
    pub(super) samples: Vec<EncodedSample>,
    /// The data set, which knows its bad samples.
    pub(super) dataset: Counted,
    /// The number of samples, good and bad.
    pub(super) len: usize,
}

/// Image tokenizer with the location of its cache.
#[derive(Clone, Copy, Debug)]
pub struct Encoding<'a> {
    /// The image tokenizer.
    pub vq: &'a VqTokenizer,
    /// Digest of its files.
    pub digest: &'a str,
    /// Directory of the caches.
    pub cache_dir: &'a Path,
    /// Whether to hide the progress bar.
    pub quiet: bool,
}

/// Line of a cache with the images of sample `index`; bad samples have no line.
#[derive(Serialize, Deserialize)]
struct Line {
    index: usize,
    images: Vec<Codes>,
}

impl EncodedSource {
    /// Reads the source's codes from its cache, or encodes its images and writes the cache. Only the
    /// fields in `columns` are kept.
    ///
    /// # Errors
    /// If the data set cannot be read, more than `max_bad` of its samples are bad, or the cache is
    /// malformed ([`Error::File`]).
    pub(super) fn open(
        config: &SourceConfig,
        columns: &BTreeSet<String>,
        encoding: Encoding<'_>,
    ) -> Result<Self> {
        let dataset = config.open()?;
        let len = config.len_of(&dataset);
        let path = cache_path(config, encoding)?;
        let lines = if path.exists() {
            read(&path)?
        } else {
            let lines = encode(&dataset, len, encoding)?;
            write(&path, &lines)?;
            lines
        };
        record_missing(&dataset, len, &lines);
        let sample = |Line { index, images }| {
            let recorded = |error: Error| dataset.record(index, error.to_string());
            let mut fields = dataset.fields(index).map_err(recorded).ok()?;
            fields.retain(|name, _| columns.contains(name));
            Some(EncodedSample { fields, images, index, place: dataset.place(index) })
        };
        let samples: Vec<_> = lines.into_par_iter().filter_map(sample).collect();
        dataset.check()?;
        Ok(Self { samples, dataset, len })
    }
}

/// Records why samples without a line are bad, for a cache of an earlier run.
fn record_missing(dataset: &Counted, len: usize, lines: &[Line]) {
    // Lines are in the order of the samples.
    let is_missing = |index: &usize| lines.binary_search_by_key(index, |line| line.index).is_err();
    let missing: Vec<usize> = (0..len).filter(is_missing).collect();
    missing.into_par_iter().for_each(|index| {
        if dataset.get(index).is_ok() {
            let place = dataset.place(index);
            dataset.record(index, format!("{place}: was bad when the images were encoded"));
        }
    });
}

/// Path of the cache for this tokenizer, source and state of the source's files.
fn cache_path(config: &SourceConfig, encoding: Encoding<'_>) -> Result<PathBuf> {
    let identity = serde_json::json!([
        encoding.digest,
        config.path,
        fingerprint(&config.path)?,
        config.group_by,
        config.explode,
        config.limit
    ]);
    let digest = hex(&Sha256::digest(identity.to_string().as_bytes())[..8]);
    Ok(encoding.cache_dir.join(format!("{digest}.jsonl")))
}

/// The codes of the first `len` samples.
fn encode(dataset: &Counted, len: usize, encoding: Encoding<'_>) -> Result<Vec<Line>> {
    let mut reporter =
        if encoding.quiet { Reporter::silent() } else { Reporter::bar(len as u64, "images") };
    let mut lines = Vec::with_capacity(len);
    for start in (0..len).step_by(BATCH) {
        let end = (start + BATCH).min(len);
        let get = |index| Some((index, dataset.get(index).ok()?.images));
        let samples: Vec<_> = (start..end).into_par_iter().filter_map(get).collect();
        dataset.check()?;
        let mut batch = Vec::new();
        let mut counts = Vec::new();
        for (index, mut images) in samples {
            counts.push((index, images.len()));
            batch.append(&mut images);
        }
        let mut codes = encoding.vq.encode(&batch)?.into_iter();
        for (index, count) in counts {
            lines.push(Line { index, images: codes.by_ref().take(count).collect() });
        }
        reporter.step(end, batch.len());
    }
    for bad in dataset.bad().iter().take(BAD_LISTED) {
        reporter.note(&format!("left out: {}", bad.reason));
    }
    reporter.finish();
    Ok(lines)
}

/// Reads a cache.
fn read(path: &Path) -> Result<Vec<Line>> {
    let file = File::open(path).map_err(Error::io(path))?;
    let mut lines = Vec::new();
    for (index, line) in BufReader::new(file).lines().enumerate() {
        let line = line.map_err(Error::io(path))?;
        let context = format!("line {} is malformed; remove the file to encode again", index + 1);
        lines.push(serde_json::from_str(&line).map_err(Error::in_file_because(path, context))?);
    }
    Ok(lines)
}

/// Writes a cache.
fn write(path: &Path, lines: &[Line]) -> Result<()> {
    let mut bytes = Vec::new();
    for line in lines {
        serde_json::to_writer(&mut bytes, line).expect("numbers serialize to JSON");
        bytes.push(b'\n');
    }
    write_atomic(path, &bytes)
}
