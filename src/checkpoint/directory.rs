//! Directories written atomically.

use std::fs::File;
use std::path::{Path, PathBuf};

use super::manifest::{Manifest, files_below};
use crate::error::{Error, Result};
use crate::files::scratch;

/// Checks that `dir` is a directory.
///
/// # Errors
/// [`Error::NoCheckpoint`] if there is nothing; [`Error::File`] if it is a file.
pub fn require_directory(dir: &Path) -> Result<()> {
    if dir.is_dir() {
        return Ok(());
    }
    if !dir.exists() {
        return Err(Error::NoCheckpoint { path: dir.to_owned() });
    }
    let message = "is a file; a checkpoint is a directory with config.json, tokenizer.json and \
                   model.safetensors";
    Err(Error::file(dir, message))
}

/// Creates `dir` atomically: `fill` writes into `<dir>.tmp`, which gets its manifest, is synced and renamed.
///
/// A leftover of an interrupted attempt is replaced.
///
/// # Errors
/// [`Error::Exists`]; those of `fill` and of the file system, after which `dir` does not exist. They name
/// the file below `dir` that could not be written.
pub fn write_directory(dir: &Path, fill: impl FnOnce(&Path) -> Result<()>) -> Result<()> {
    if dir.exists() {
        return Err(Error::Exists { path: dir.to_owned() });
    }
    let scratch = scratch(dir);
    if scratch.exists() {
        std::fs::remove_dir_all(&scratch).map_err(Error::io(&scratch))?;
    }
    std::fs::create_dir_all(&scratch).map_err(Error::io(dir))?;
    let written = fill(&scratch).and_then(|()| finish(&scratch, dir));
    if let Err(mut error) = written {
        // The first error is the one to report.
        let _ = std::fs::remove_dir_all(&scratch);
        if let Some(path) = path_of(&mut error)
            && let Ok(below) = path.strip_prefix(&scratch)
        {
            *path = dir.join(below);
        }
        return Err(error);
    }
    match dir.parent().filter(|parent| !parent.as_os_str().is_empty()) {
        Some(parent) => sync(parent),
        None => Ok(()),
    }
}

/// The file that could not be read or written.
fn path_of(error: &mut Error) -> Option<&mut PathBuf> {
    use vq_tokenizer::Error as Vq;
    match error {
        Error::Io { path, .. }
        | Error::Tensors(tensor_files::Error::Io { path, .. })
        | Error::Vq(Vq::Io { path, .. } | Vq::Tensors(tensor_files::Error::Io { path, .. })) => {
            Some(path)
        }
        _ => None,
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
    // Not every platform can open directories for syncing.
    match File::open(path).and_then(|file| file.sync_all()) {
        Ok(()) => Ok(()),
        Err(_) if path.is_dir() => Ok(()),
        Err(error) => Err(Error::io(path)(error)),
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests")]
mod tests {
    use std::io::{Error as IoError, ErrorKind};

    use super::*;

    #[test]
    fn a_failed_write_names_the_destination_and_leaves_nothing() {
        let scratch = tempfile::tempdir().unwrap();
        let dest = scratch.path().join("dest");
        let full = || IoError::from(ErrorKind::StorageFull);
        type Fail = fn(&Path, IoError) -> Error;
        let failures: [Fail; 4] = [
            |path, error| Error::io(path)(error),
            |path, error| tensor_files::Error::io(path)(error).into(),
            |path, error| vq_tokenizer::Error::io(path)(error).into(),
            |path, error| vq_tokenizer::Error::from(tensor_files::Error::io(path)(error)).into(),
        ];
        for fail in failures {
            let written = write_directory(&dest, |dir| Err(fail(&dir.join("a/b"), full())));
            let message = written.unwrap_err().to_string();
            assert!(message.starts_with(&format!("{}: ", dest.join("a/b").display())), "{message}");
            assert_eq!(std::fs::read_dir(scratch.path()).unwrap().count(), 0);
        }
        // The source keeps its name.
        let source = Path::new("source");
        let written = write_directory(&dest, |_| Err(Error::io(source)(full())));
        assert!(written.unwrap_err().to_string().starts_with("source: "));
    }

    #[test]
    fn a_file_in_place_of_a_checkpoint_is_called_one() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let message = require_directory(file.path()).unwrap_err().to_string();
        assert!(message.contains("is a file; a checkpoint is a directory"), "{message}");
        let missing = require_directory(&file.path().join("below")).unwrap_err();
        assert!(matches!(missing, Error::NoCheckpoint { .. }));
    }
}
