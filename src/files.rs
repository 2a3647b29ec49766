//! Files that appear whole or not at all, and files of JSON.

use std::fs::File;
use std::io::{Cursor, Write};
use std::path::{Path, PathBuf};

use image::{ImageFormat, RgbImage};
use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::error::{Error, Result};

/// Writes `bytes` to `path`, making its folder if need be: beside it first, synced, then renamed. An
/// older file is replaced; after an error it is untouched and nothing else is left behind.
///
/// # Errors
/// [`Error::File`] when `path` is a directory; [`Error::Io`] when it cannot be written.
pub fn write_atomic(path: &Path, bytes: &[u8]) -> Result<()> {
    if path.is_dir() {
        return Err(Error::file(path, "is a directory; expected the path of a file"));
    }
    if let Some(parent) = path.parent().filter(|parent| !parent.as_os_str().is_empty()) {
        std::fs::create_dir_all(parent).map_err(Error::io(parent))?;
    }
    let scratch = scratch(path);
    let written = File::create(&scratch)
        .and_then(|mut file| file.write_all(bytes).and_then(|()| file.sync_all()))
        .and_then(|()| std::fs::rename(&scratch, path));
    written.map_err(|error| {
        // The first error is the one to tell.
        let _ = std::fs::remove_file(&scratch);
        Error::io(path)(error)
    })
}

/// `image` as the PNG of the file at `path`, which is not written.
///
/// # Errors
/// [`Error::File`] when it has no pixels.
pub(crate) fn png(path: &Path, image: &RgbImage) -> Result<Vec<u8>> {
    let mut png = Cursor::new(Vec::new());
    image
        .write_to(&mut png, ImageFormat::Png)
        .map_err(|e| Error::file(path, format!("cannot be written: {e}")))?;
    Ok(png.into_inner())
}

/// Writes `image` to the file at `path` as a PNG, as [`write_atomic`] does.
///
/// # Errors
/// Those of [`png`] and [`write_atomic`].
pub(crate) fn write_png(path: &Path, image: &RgbImage) -> Result<()> {
    write_atomic(path, &png(path, image)?)
}

/// Writes `value` to the file at `path` as indented JSON.
///
/// # Errors
/// [`Error::File`] when it has no form in JSON; [`Error::Io`].
pub(crate) fn write_json<T: Serialize>(path: &Path, value: &T) -> Result<()> {
    let text = serde_json::to_string_pretty(value).map_err(|e| Error::file(path, e.to_string()))?;
    std::fs::write(path, text + "\n").map_err(Error::io(path))
}

/// The value in the JSON file at `path`.
///
/// # Errors
/// Those of the file; when it is no JSON or of another form.
pub(crate) fn read_json<T: DeserializeOwned>(path: &Path) -> Result<T> {
    let text = std::fs::read_to_string(path).map_err(Error::io(path))?;
    serde_json::from_str(&text).map_err(|e| Error::file(path, e.to_string()))
}

/// `bytes` in hexadecimal digits.
pub(crate) fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// Bytes that may still be written where `dir` lies; `None` where the system does not say.
pub(crate) fn free_bytes(dir: &Path) -> Option<u64> {
    #[cfg(unix)]
    {
        let found = rustix::fs::statvfs(dir).ok()?;
        Some(found.f_bavail.saturating_mul(found.f_frsize))
    }
    #[cfg(not(unix))]
    {
        let _ = dir;
        None
    }
}

/// Where `path` is prepared: its neighbour of the same name with `.tmp`.
pub(crate) fn scratch(path: &Path) -> PathBuf {
    let mut name = path.file_name().unwrap_or_default().to_owned();
    name.push(".tmp");
    path.with_file_name(name)
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;

    #[test]
    fn a_file_is_replaced_whole_and_a_failure_leaves_nothing() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("new/file.json");
        write_atomic(&path, b"one").unwrap();
        write_atomic(&path, b"two").unwrap();
        assert_eq!(std::fs::read(&path).unwrap(), b"two");
        assert!(write_atomic(&dir.path().join("new/"), b"three").is_err());
        assert!(write_atomic(&path.join("below"), b"four").is_err());
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 1);
        assert_eq!(std::fs::read_dir(dir.path().join("new")).unwrap().count(), 1);
    }
}
