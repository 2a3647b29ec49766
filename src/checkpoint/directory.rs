//! Directories that appear whole or not at all.

use std::fs::File;
use std::path::Path;

use super::Manifest;
use super::manifest::files_below;
use crate::error::{Error, Result};
use crate::files::scratch;

/// Lets `fill` write into `<dir>.tmp`, adds the manifest, syncs every file and renames to `dir`.
///
/// A leftover of an interrupted attempt is replaced; an existing `dir` is refused.
///
/// # Errors
/// [`Error::File`] when `dir` exists; those of `fill` and of the file system. `dir` does not exist then.
pub fn write_directory(dir: &Path, fill: impl FnOnce(&Path) -> Result<()>) -> Result<()> {
    if dir.exists() {
        return Err(Error::file(dir, "already exists; choose another path or remove it first"));
    }
    let scratch = scratch(dir);
    if scratch.exists() {
        std::fs::remove_dir_all(&scratch).map_err(Error::io(&scratch))?;
    }
    std::fs::create_dir_all(&scratch).map_err(Error::io(&scratch))?;
    let written = fill(&scratch).and_then(|()| finish(&scratch, dir));
    if let Err(error) = written {
        // Nothing half-written stays behind; the first error is the one to tell.
        let _ = std::fs::remove_dir_all(&scratch);
        return Err(error);
    }
    match dir.parent().filter(|parent| !parent.as_os_str().is_empty()) {
        Some(parent) => sync(parent),
        None => Ok(()),
    }
}

/// Adds the manifest to `scratch`, syncs it and renames it to `dir`.
fn finish(scratch: &Path, dir: &Path) -> Result<()> {
    Manifest::of(scratch)?.write(scratch)?;
    for file in files_below(scratch)? {
        sync(&file)?;
    }
    sync(scratch)?;
    std::fs::rename(scratch, dir).map_err(Error::io(dir))
}

fn sync(path: &Path) -> Result<()> {
    // Directories cannot be opened for syncing on every platform; files can.
    match File::open(path).and_then(|file| file.sync_all()) {
        Ok(()) => Ok(()),
        Err(_) if path.is_dir() => Ok(()),
        Err(error) => Err(Error::io(path)(error)),
    }
}
