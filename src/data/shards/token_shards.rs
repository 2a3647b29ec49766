//! The documents of several shards.

use std::path::Path;

use super::locate::locate;
use super::shard::Shard;
use crate::error::{Error, Result};
use crate::tokenize::TokenSequence;

/// The documents of several shards, one after the other.
#[derive(Debug)]
pub struct TokenShards {
    shards: Vec<Shard>,
    /// Index of the first document of each shard, and the total.
    starts: Vec<usize>,
    /// Names of the sources in all shards.
    sources: Vec<String>,
    /// For each shard, the index in `sources` of each of its own sources.
    numbers: Vec<Vec<usize>>,
}

impl TokenShards {
    /// Opens the shards that `spec` names: a directory, a file, a brace, glob or comma list, or the URL of
    /// a shard or of a prefix (`s3://bucket/prefix/`, `gs://`, `az://`, `file://`).
    ///
    /// Shards of a URL are fetched into `cache_dir` unless it holds them already, in a build with the
    /// feature `object_store`; `quiet` hides the progress. Credentials come from the environment variables
    /// of the vendors' own tools (`AWS_ACCESS_KEY_ID`, `GOOGLE_APPLICATION_CREDENTIALS`,
    /// `AZURE_STORAGE_ACCOUNT_NAME` and the like).
    ///
    /// # Errors
    /// If a file is missing or damaged, or was made by a tokenizer with another digest than `tokenizer`;
    /// if a URL cannot be read; if there is no document.
    ///
    /// # Panics
    /// For a URL, if called from within an asynchronous task.
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

    /// Whether there are no documents; always false after [`open`](Self::open).
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
    /// If its shard is damaged.
    ///
    /// # Panics
    /// If `index` is not below [`len`](Self::len).
    pub fn get(&self, index: usize) -> Result<(TokenSequence, usize)> {
        assert!(index < self.len(), "document {index} of {}", self.len());
        let at = self.starts.partition_point(|&start| start <= index) - 1;
        let (tokens, source) = self.shards[at].get(index - self.starts[at])?;
        Ok((tokens, self.numbers[at][source]))
    }
}
