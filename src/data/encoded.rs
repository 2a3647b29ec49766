//! Samples whose pictures are codes: encoded once, kept on disk, read by every later run.
//!
//! Training never runs the image tokenizer. The cache is a JSON-lines file per source, named by a
//! digest of tokenizer and source, so that a resumed or repeated run finds it and another tokenizer
//! does not.

use std::collections::BTreeSet;
use std::fs::File;
use std::io::{BufRead, BufReader, BufWriter, Write};
use std::path::{Path, PathBuf};

use rayon::prelude::*;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use vq_tokenizer::{Codes, VqTokenizer};

use super::{Counted, DEFAULT_TOLERANCE, Fields};
use crate::error::{Error, Result};
use crate::report::Reporter;
use crate::train::DataConfig;

/// Pictures encoded at one time.
const BATCH: usize = 32;

/// A sample with its pictures as codes.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct EncodedSample {
    /// The columns that templates ask for.
    pub fields: Fields,
    /// The pictures, in the sample's order.
    pub images: Vec<Codes>,
}

/// All samples of a source, in memory.
#[derive(Debug)]
pub struct EncodedSource {
    /// The source's name in messages.
    pub name: String,
    /// The good samples, in order.
    pub samples: Vec<EncodedSample>,
}

impl EncodedSource {
    /// Reads the source's cache below `cache_dir`, or encodes the source and writes it.
    ///
    /// Only the columns in `columns` are kept. `tokenizer_digest` identifies `vq`.
    ///
    /// # Errors
    /// Those of the data set; more bad samples than [`DEFAULT_TOLERANCE`]; [`Error::File`] for a
    /// malformed cache.
    pub fn open(
        config: &DataConfig,
        columns: &BTreeSet<String>,
        vq: &VqTokenizer,
        tokenizer_digest: &str,
        cache_dir: &Path,
        quiet: bool,
    ) -> Result<Self> {
        let path = cache_path(config, columns, tokenizer_digest, cache_dir);
        let samples = if path.exists() {
            read(&path)?
        } else {
            let samples = encode(config, columns, vq, quiet)?;
            std::fs::create_dir_all(cache_dir).map_err(Error::io(cache_dir))?;
            write(&path, &samples)?;
            samples
        };
        if samples.is_empty() {
            return Err(Error::Invalid(format!("data {}: no good sample", config.path)));
        }
        Ok(Self { name: config.path.clone(), samples })
    }
}

fn cache_path(
    config: &DataConfig,
    columns: &BTreeSet<String>,
    tokenizer_digest: &str,
    dir: &Path,
) -> PathBuf {
    let identity = serde_json::json!([
        tokenizer_digest,
        config.path,
        config.group_by,
        config.explode,
        config.limit,
        columns
    ]);
    let digest = Sha256::digest(identity.to_string().as_bytes());
    let digest: String = digest.iter().take(8).map(|byte| format!("{byte:02x}")).collect();
    dir.join(format!("{digest}.jsonl"))
}

fn encode(
    config: &DataConfig,
    columns: &BTreeSet<String>,
    vq: &VqTokenizer,
    quiet: bool,
) -> Result<Vec<EncodedSample>> {
    let dataset =
        super::open_as(&config.path, config.explode.as_deref(), config.group_by.as_deref())?;
    let len = config.limit.map_or(dataset.len(), |limit| limit.min(dataset.len()));
    let counted = Counted::new(dataset, DEFAULT_TOLERANCE)?;
    let mut reporter =
        if quiet { Reporter::silent() } else { Reporter::bar(len as u64, "pictures") };
    let mut encoded = Vec::with_capacity(len);
    for start in (0..len).step_by(BATCH) {
        let end = (start + BATCH).min(len);
        let samples: Vec<_> =
            (start..end).into_par_iter().map(|index| counted.take(index)).collect::<Result<_>>()?;
        let mut pictures = Vec::new();
        let mut kept = Vec::new();
        for mut sample in samples.into_iter().flatten() {
            sample.fields.retain(|name, _| columns.contains(name));
            kept.push((sample.fields, sample.images.len()));
            pictures.append(&mut sample.images);
        }
        let mut codes = vq.encode(&pictures)?.into_iter();
        for (fields, count) in kept {
            encoded.push(EncodedSample { fields, images: codes.by_ref().take(count).collect() });
        }
        reporter.step(end, pictures.len());
    }
    reporter.finish();
    Ok(encoded)
}

fn read(path: &Path) -> Result<Vec<EncodedSample>> {
    let file = File::open(path).map_err(Error::io(path))?;
    let mut samples = Vec::new();
    for (index, line) in BufReader::new(file).lines().enumerate() {
        let line = line.map_err(Error::io(path))?;
        let sample = serde_json::from_str(&line).map_err(|e| {
            Error::file(path, format!("line {}: {e}; remove the file to encode again", index + 1))
        })?;
        samples.push(sample);
    }
    Ok(samples)
}

fn write(path: &Path, samples: &[EncodedSample]) -> Result<()> {
    let scratch = path.with_extension("tmp");
    let file = File::create(&scratch).map_err(Error::io(&scratch))?;
    let mut writer = BufWriter::new(file);
    for sample in samples {
        serde_json::to_writer(&mut writer, sample)
            .map_err(|e| Error::file(&scratch, e.to_string()))?;
        writer.write_all(b"\n").map_err(Error::io(&scratch))?;
    }
    let file = writer.into_inner().map_err(|e| Error::io(&scratch)(e.into_error()))?;
    file.sync_all().map_err(Error::io(&scratch))?;
    std::fs::rename(&scratch, path).map_err(Error::io(path))
}
