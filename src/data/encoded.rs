//! Samples whose images are codes: encoded once, kept on disk, read by every later run.
//!
//! Training never runs the image tokenizer. The cache is a JSON-lines file per source, named by a
//! digest of tokenizer and source, sizes and times of its files included, so that a resumed or repeated
//! run finds it, and another tokenizer or changed data do not.

use std::collections::BTreeSet;
use std::fs::File;
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};

use rayon::prelude::*;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use vq_tokenizer::{Codes, VqTokenizer};

use super::{Counted, DataConfig, Dataset, Fields};
use crate::error::{Error, Result};
use crate::files::{hex, write_atomic};
use crate::report::Reporter;

/// Images encoded at one time.
const BATCH: usize = 32;

/// Bad samples that are listed, of each source.
const BAD_LISTED: usize = 20;

/// A sample with its images as codes.
#[derive(Clone, Debug)]
pub struct EncodedSample {
    /// The columns that templates ask for.
    pub fields: Fields,
    /// The images, in the sample's order.
    pub images: Vec<Codes>,
}

/// All samples of a source, in memory.
#[derive(Debug)]
pub struct EncodedSource {
    /// The source's name in messages.
    pub name: String,
    /// The good samples, in order.
    pub samples: Vec<EncodedSample>,
    /// Samples that cannot be read.
    pub left_out: usize,
}

/// Where codes come from and where they are kept.
#[derive(Clone, Copy, Debug)]
pub struct Encoding<'a> {
    /// The image tokenizer.
    pub vq: &'a VqTokenizer,
    /// A digest of its files.
    pub digest: &'a str,
    /// The folder of the caches.
    pub cache_dir: &'a Path,
    /// Whether to show no progress.
    pub quiet: bool,
}

/// The images of the sample `index`; a bad sample has no line.
#[derive(Serialize, Deserialize)]
struct Line {
    index: usize,
    images: Vec<Codes>,
}

impl EncodedSource {
    /// Reads the codes of the source from its cache, or encodes its images and writes the cache.
    ///
    /// Only the columns in `columns` are kept.
    ///
    /// # Errors
    /// Those of the data set; more bad samples than the source's `max_bad`; [`Error::File`] for a
    /// malformed cache.
    pub fn open(
        config: &DataConfig,
        columns: &BTreeSet<String>,
        encoding: Encoding<'_>,
    ) -> Result<Self> {
        let dataset =
            super::open_as(&config.path, config.explode.as_deref(), config.group_by.as_deref())?;
        let path = cache_path(config, encoding)?;
        let lines = if path.exists() {
            read(&path)?
        } else {
            let lines = encode(Counted::new(dataset, config.max_bad)?, config.limit, encoding)?;
            write(&path, &lines)?;
            lines
        };
        let dataset =
            super::open_as(&config.path, config.explode.as_deref(), config.group_by.as_deref())?;
        let sample = |line: Line| -> Result<EncodedSample> {
            let mut fields = dataset.fields(line.index)?;
            fields.retain(|name, _| columns.contains(name));
            Ok(EncodedSample { fields, images: line.images })
        };
        let samples: Vec<_> = lines.into_par_iter().map(sample).collect::<Result<_>>()?;
        if samples.is_empty() {
            return Err(Error::invalid(format!("data {}: no good sample", config.path)));
        }
        let all = config.limit.map_or(dataset.len(), |limit| limit.min(dataset.len()));
        let left_out = all.saturating_sub(samples.len());
        Ok(Self { name: config.path.clone(), samples, left_out })
    }
}

/// Another tokenizer, other files behind the same path, or another view of them, have another cache.
fn cache_path(config: &DataConfig, encoding: Encoding<'_>) -> Result<PathBuf> {
    let identity = serde_json::json!([
        encoding.digest,
        config.path,
        super::fingerprint(&config.path)?,
        config.group_by,
        config.explode,
        config.limit
    ]);
    let digest = hex(&Sha256::digest(identity.to_string().as_bytes())[..8]);
    Ok(encoding.cache_dir.join(format!("{digest}.jsonl")))
}

fn encode(counted: Counted, limit: Option<usize>, encoding: Encoding<'_>) -> Result<Vec<Line>> {
    let len = limit.map_or(counted.len(), |limit| limit.min(counted.len()));
    let mut reporter =
        if encoding.quiet { Reporter::silent() } else { Reporter::bar(len as u64, "images") };
    let mut lines = Vec::with_capacity(len);
    for start in (0..len).step_by(BATCH) {
        let end = (start + BATCH).min(len);
        let take = |index| Ok(counted.take(index)?.map(|sample| (index, sample.images)));
        let samples: Vec<_> = (start..end).into_par_iter().map(take).collect::<Result<_>>()?;
        let mut together = Vec::new();
        let mut kept = Vec::new();
        for (index, mut images) in samples.into_iter().flatten() {
            kept.push((index, images.len()));
            together.append(&mut images);
        }
        let mut codes = encoding.vq.encode(&together)?.into_iter();
        for (index, count) in kept {
            lines.push(Line { index, images: codes.by_ref().take(count).collect() });
        }
        reporter.step(end, together.len());
    }
    for bad in counted.bad().iter().take(BAD_LISTED) {
        reporter.note(&format!("left out: {}", bad.reason));
    }
    reporter.finish();
    Ok(lines)
}

fn read(path: &Path) -> Result<Vec<Line>> {
    let file = File::open(path).map_err(Error::io(path))?;
    let mut lines = Vec::new();
    for (index, line) in BufReader::new(file).lines().enumerate() {
        let line = line.map_err(Error::io(path))?;
        lines.push(serde_json::from_str(&line).map_err(|e| {
            Error::file(path, format!("line {}: {e}; remove the file to encode again", index + 1))
        })?);
    }
    Ok(lines)
}

fn write(path: &Path, lines: &[Line]) -> Result<()> {
    let mut bytes = Vec::new();
    for line in lines {
        serde_json::to_writer(&mut bytes, line).expect("numbers are valid JSON");
        bytes.push(b'\n');
    }
    write_atomic(path, &bytes)
}
