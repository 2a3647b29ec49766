//! Describes token shards after reading and checking all of them.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use calumma::data::shards::{self, Shard};
use calumma::{Error, Result};
use serde_json::json;

use crate::cli::session::{Session, name};
use crate::cli::sizes;

/// The shards at `path`, a file or a directory; `None` if it is something else.
///
/// # Errors
/// Those of the directory.
pub fn find(path: &Path) -> Result<Option<Vec<PathBuf>>> {
    let files = match path.is_dir() {
        true => shards::files_in(path)?,
        false => vec![path.to_owned()],
    };
    let are_shards = !files.is_empty() && files.iter().all(|file| shards::is_shard(file));
    Ok(are_shards.then_some(files))
}

/// Totals over shards.
#[derive(Default)]
struct Totals {
    bytes: u64,
    documents: usize,
    longest: usize,
    tokens: usize,
    targets: usize,
    tokenizers: Vec<String>,
    /// Documents and tokens by source.
    sources: BTreeMap<String, (usize, usize)>,
}

impl Totals {
    /// Adds the shard in `file`.
    fn add(&mut self, file: &Path) -> Result<()> {
        let shard = Shard::open(file)?;
        for index in 0..shard.len() {
            let (document, source) = shard.get(index)?;
            let source = self.sources.entry(shard.sources()[source].clone()).or_default();
            source.0 += 1;
            source.1 += document.len();
            self.targets += document.loss_mask.iter().filter(|counts| **counts).count();
            self.longest = self.longest.max(document.len());
        }
        self.bytes += std::fs::metadata(file).map_err(Error::io(file))?.len();
        self.documents += shard.len();
        self.tokens += shard.num_tokens();
        if !self.tokenizers.iter().any(|known| known == shard.tokenizer()) {
            self.tokenizers.push(shard.tokenizer().to_owned());
        }
        Ok(())
    }
}

/// Describes the shards in `files`, found at `path`.
///
/// # Errors
/// If one is damaged.
pub fn show(path: &Path, files: &[PathBuf], session: &Session) -> Result<()> {
    let mut totals = Totals::default();
    files.iter().try_for_each(|file| totals.add(file))?;
    let Totals { bytes, documents, longest, tokens, targets, tokenizers, sources } = totals;
    session.line(format_args!("{}: token shards, all whole", path.display()))?;
    session.line(format_args!("  {} files, {}", files.len(), sizes::bytes(bytes as f64)))?;
    session.line(format_args!(
        "  {documents} documents of up to {longest} tokens; {tokens} tokens, {targets} of them targets"
    ))?;
    session.line(format_args!("  made with the tokenizer {}", tokenizers.join(", ")))?;
    for (source, (documents, tokens)) in &sources {
        session.line(format_args!("  {source}: {documents} documents, {tokens} tokens"))?;
    }
    session.object(&json!({
        "kind": "token shards",
        "path": name(path),
        "files": files.len(),
        "bytes": bytes,
        "documents": documents,
        "longest": longest,
        "tokens": tokens,
        "targets": targets,
        "tokenizers": tokenizers,
        "sources": sources
            .iter()
            .map(|(source, (documents, tokens))| {
                json!({ "source": source, "documents": documents, "tokens": tokens })
            })
            .collect::<Vec<_>>(),
    }))
}
