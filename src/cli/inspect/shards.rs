//! Token shards: what they hold, and whether they are whole.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use calumma::data::shards::{self, Shard};
use calumma::{Error, Result};
use serde_json::json;

use crate::cli::session::{Session, name};
use crate::cli::sizes;

/// The shards at `path`, a file or a directory; `None` when it is something else.
pub fn find(path: &Path) -> Result<Option<Vec<PathBuf>>> {
    let files = match path.is_dir() {
        true => shards::files_in(path)?,
        false => vec![path.to_owned()],
    };
    let are_shards = !files.is_empty() && files.iter().all(|file| shards::is_shard(file));
    Ok(are_shards.then_some(files))
}

/// Prints what the shards hold, after reading all of them.
///
/// # Errors
/// When one is damaged.
pub fn show(path: &Path, files: &[PathBuf], session: &Session) -> Result<()> {
    let (mut documents, mut tokens, mut targets, mut longest) = (0, 0, 0, 0);
    let mut sources: BTreeMap<String, (usize, usize)> = BTreeMap::new();
    let mut tokenizers = Vec::new();
    for file in files {
        let shard = Shard::open(file)?;
        for index in 0..shard.len() {
            let (document, source) = shard.get(index)?;
            let source = sources.entry(shard.sources()[source].clone()).or_default();
            source.0 += 1;
            source.1 += document.len();
            targets += document.loss_mask.iter().filter(|counts| **counts).count();
            longest = longest.max(document.len());
        }
        documents += shard.len();
        tokens += shard.num_tokens();
        if !tokenizers.contains(&shard.tokenizer().to_owned()) {
            tokenizers.push(shard.tokenizer().to_owned());
        }
    }
    let bytes: u64 = files
        .iter()
        .map(|file| Ok(std::fs::metadata(file).map_err(Error::io(file))?.len()))
        .sum::<Result<u64>>()?;
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
