//! Which files are token shards.

use std::collections::{BTreeMap, BTreeSet};
use std::io::Read;
use std::path::{Path, PathBuf};

use super::content::{ENDING, FORMAT};
use super::remote;
use crate::data::patterns::{expand, is_url};
use crate::error::{Error, Result};

/// Whether `spec` names token shards: files that end in `.safetensors`, a directory that holds token shards,
/// or the URL of an object store.
pub fn is_spec(spec: &str) -> bool {
    if is_url(spec) {
        return true;
    }
    let path = Path::new(spec.trim());
    let holds_shards = || files_in(path).is_ok_and(|files| files.iter().any(|f| is_shard(f)));
    path.extension().is_some_and(|ending| ending == ENDING) || (path.is_dir() && holds_shards())
}

/// Whether the file at `path` is marked as a token shard; it may be damaged.
pub fn is_shard(path: &Path) -> bool {
    let mut start = Vec::new();
    let read = std::fs::File::open(path).and_then(|file| file.take(4096).read_to_end(&mut start));
    let mark = format!("\"format\":\"{}\"", FORMAT);
    read.is_ok() && start.windows(mark.len()).any(|window| window == mark.as_bytes())
}

/// The `.safetensors` files in the directory `dir`, sorted by name.
///
/// # Errors
/// [`Error::Io`] if the directory cannot be read.
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

/// Refuses a directory with missing shards, recognised by names of the form `SSS-NNNNN-of-CCCCC` (source,
/// number, count).
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

/// The files of the shards that `spec` names; those of a URL are fetched into `cache_dir`.
pub(super) fn locate(spec: &str, cache_dir: &Path, quiet: bool) -> Result<Vec<PathBuf>> {
    if is_url(spec) {
        return remote::fetch(spec.trim(), cache_dir, quiet);
    }
    let mut paths = Vec::new();
    for path in expand(spec)? {
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
