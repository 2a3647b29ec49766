//! Token shards: documents as ids in safetensors files, made once by `calumma tokenize`, mapped into
//! memory by every training run.
//!
//! | tensor | type | shape | what |
//! |---|---|---|---|
//! | `ids` | U16 or U32 | `[tokens]` | ids of all documents, one after the other |
//! | `offsets` | U64 | `[documents + 1]` | where each document begins, and the end |
//! | `loss_mask` | U8 | `[ceil(tokens / 8)]` | a bit for each id, lowest first: whether it is a target |
//! | `sources` | U16 | `[documents]` | an index into the list `sources` of the metadata |
//!
//! The metadata holds `format`, `version`, `tokenizer` (a digest of text and image tokenizer), `sources` (a
//! JSON list of names), `made_of` (a digest of everything that decides the content) and SHA-256 sums
//! of header and data. The header is checked when a shard is opened, the data before its first document
//! is read: no flipped bit goes unnoticed.

mod content;
mod make;
#[cfg(feature = "object_store")]
mod remote;
mod shard;

use std::collections::{BTreeMap, BTreeSet};
use std::io::Read;
use std::path::{Path, PathBuf};

use sha2::{Digest, Sha256};

pub use content::ShardContent;
pub use make::{ShardJob, ShardReport};
pub use shard::Shard;

use super::files;
use crate::error::{Error, Result};
use crate::files::hex;
use crate::tokenize::{Processor, TokenSequence};

/// The ending of a shard's file name.
const ENDING: &str = "safetensors";

/// What begins the URL of an object store.
const SCHEMES: [&str; 4] = ["s3://", "gs://", "az://", "file://"];

/// Whether `spec` names token shards: files that end in `.safetensors`, a directory that holds some, or
/// the URL of an object store.
pub fn is_spec(spec: &str) -> bool {
    if is_url(spec) {
        return true;
    }
    let path = Path::new(spec.trim());
    let holds_shards = || files_in(path).is_ok_and(|files| files.iter().any(|f| is_shard(f)));
    path.extension().is_some_and(|ending| ending == ENDING) || (path.is_dir() && holds_shards())
}

/// Whether `spec` is the URL of an object store, which can hold token shards and nothing else.
pub(super) fn is_url(spec: &str) -> bool {
    SCHEMES.iter().any(|scheme| spec.trim().starts_with(scheme))
}

/// Whether the file at `path` says that it is a token shard; it may be damaged all the same.
pub fn is_shard(path: &Path) -> bool {
    let mut start = Vec::new();
    let read = std::fs::File::open(path).and_then(|file| file.take(4096).read_to_end(&mut start));
    let mark = format!("\"format\":\"{}\"", content::FORMAT);
    read.is_ok() && start.windows(mark.len()).any(|window| window == mark.as_bytes())
}

/// The files in the directory `dir` that may be shards by their ending, in the order of their names.
///
/// # Errors
/// [`Error::Io`] when the directory cannot be read.
pub fn files_in(dir: &Path) -> Result<Vec<PathBuf>> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(dir).map_err(Error::io(dir))? {
        let path = entry.map_err(Error::io(dir))?.path();
        if path.extension().is_some_and(|ending| ending == ENDING) {
            found.push(path);
        }
    }
    found.sort();
    Ok(found)
}

/// A digest of all that turns a document into ids: the text tokenizer, the image tokenizer (by the
/// digest of its files) and the form of images.
///
/// # Errors
/// When the text tokenizer cannot be written down.
pub fn tokenizer_digest(processor: &Processor, image_digest: &str) -> Result<String> {
    let mut hasher = Sha256::new();
    hasher.update(processor.text().to_bytes()?);
    hasher.update(format!("{image_digest} {:?}", processor.blocks()));
    Ok(hex(&hasher.finalize())[..16].to_owned())
}

/// Refuses a directory in which shards are missing: `SSS-NNNNN-of-CCCCC` names say how many there are of a
/// source.
fn refuse_gaps(dir: &Path, files: &[PathBuf]) -> Result<()> {
    let parts = |path: &PathBuf| -> Option<(String, usize, usize)> {
        let stem = path.file_stem()?.to_str()?;
        let (before, count) = stem.rsplit_once("-of-")?;
        let (source, number) = before.rsplit_once('-')?;
        Some((source.to_owned(), number.parse().ok()?, count.parse().ok()?))
    };
    let mut found: BTreeMap<(String, usize), BTreeSet<usize>> = BTreeMap::new();
    for (source, number, count) in files.iter().filter_map(parts) {
        found.entry((source, count)).or_default().insert(number);
    }
    for ((source, count), numbers) in &found {
        if let Some(missing) = (0..*count).find(|number| !numbers.contains(number)) {
            let name = format!("{source}-{missing:05}-of-{count:05}.{ENDING}");
            let message = format!("lacks {name}; run `calumma tokenize` to its end");
            return Err(Error::file(dir, message));
        }
    }
    Ok(())
}

/// The files of the shards that `spec` names.
fn locate(spec: &str, cache_dir: &Path, quiet: bool) -> Result<Vec<PathBuf>> {
    if is_url(spec) {
        return fetch(spec.trim(), cache_dir, quiet);
    }
    let mut paths = Vec::new();
    for path in files::expand(spec)? {
        match path.is_dir() {
            true => {
                let files = files_in(&path)?;
                refuse_gaps(&path, &files)?;
                paths.extend(files);
            }
            false => paths.push(path),
        }
    }
    Ok(paths)
}

#[cfg(feature = "object_store")]
use remote::fetch;

/// What a build without object stores says of the URL of one.
#[cfg(not(feature = "object_store"))]
fn fetch(url: &str, _cache_dir: &Path, _quiet: bool) -> Result<Vec<PathBuf>> {
    Err(Error::invalid(format!("data {url}: needs a build with --features object_store")))
}

/// The documents of several shards, one after the other.
#[derive(Debug)]
pub struct TokenShards {
    shards: Vec<Shard>,
    /// Index of the first document of each shard, and the total.
    starts: Vec<usize>,
    /// Names of sources over all shards.
    sources: Vec<String>,
    /// For each shard, its own source numbers as indices of `sources`.
    numbers: Vec<Vec<usize>>,
}

impl TokenShards {
    /// Opens the shards that `spec` names: a directory, a file, a brace, glob or comma list, or the URL of
    /// a shard or of what all their names begin with (`s3://bucket/prefix/`, `gs://`, `az://`, `file://`).
    ///
    /// Shards of a URL are fetched into `cache_dir` unless it holds them, in a build with the feature
    /// `object_store`; `quiet` keeps that from showing progress. Credentials come from the environment
    /// variables of the vendors' own tools (`AWS_ACCESS_KEY_ID`, `GOOGLE_APPLICATION_CREDENTIALS`,
    /// `AZURE_STORAGE_ACCOUNT_NAME` and the like), the only ones that this program heeds.
    ///
    /// # Errors
    /// When a file is missing or damaged, or was made by another tokenizer than that of the digest
    /// `tokenizer`; when a URL cannot be read.
    ///
    /// # Panics
    /// For a URL, when called from within an asynchronous task.
    pub fn open(spec: &str, tokenizer: &str, cache_dir: &Path, quiet: bool) -> Result<Self> {
        let paths = locate(spec, cache_dir, quiet)?;
        let shards = paths.iter().map(|path| Shard::open(path)).collect::<Result<Vec<_>>>()?;
        let (mut sources, mut numbers, mut starts) = (Vec::<String>::new(), Vec::new(), vec![0]);
        for shard in &shards {
            if shard.tokenizer() != tokenizer {
                let made = shard.tokenizer();
                return Err(Error::file(
                    shard.path(),
                    format!(
                        "was made with the tokenizer {made}, this run has {tokenizer}; make the \
                         shards again or train with the tokenizer that they were made with"
                    ),
                ));
            }
            let number = |name: &String| match sources.iter().position(|known| known == name) {
                Some(number) => number,
                None => {
                    sources.push(name.clone());
                    sources.len() - 1
                }
            };
            numbers.push(shard.sources().iter().map(number).collect());
            starts.push(starts.last().copied().unwrap_or(0) + shard.len());
        }
        if starts.last() == Some(&0) {
            return Err(Error::invalid(format!("data {spec}: the shards hold no document")));
        }
        Ok(Self { shards, starts, sources, numbers })
    }

    /// The number of documents.
    pub fn len(&self) -> usize {
        self.starts.last().copied().unwrap_or(0)
    }

    /// Whether there is no document; never so after [`open`](Self::open).
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Names of the sources that the documents come from.
    pub fn sources(&self) -> &[String] {
        &self.sources
    }

    /// Document `index` and the index of its source in [`sources`](Self::sources).
    ///
    /// # Errors
    /// When the shard that holds it is damaged.
    ///
    /// # Panics
    /// When there are not more than `index` documents.
    pub fn get(&self, index: usize) -> Result<(TokenSequence, usize)> {
        assert!(index < self.len(), "document {index} of {}", self.len());
        let at = self.starts.partition_point(|&start| start <= index) - 1;
        let (tokens, source) = self.shards[at].get(index - self.starts[at])?;
        Ok((tokens, self.numbers[at][source]))
    }
}
