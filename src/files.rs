//! Atomic file writes, JSON files and PNG files.

use std::fs::File;
use std::io::{Cursor, ErrorKind, Write};
use std::path::{Path, PathBuf};

use image::{ImageFormat, RgbImage};
use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::error::{Error, Result};

/// Writes `bytes` to `path` atomically: to a scratch file next to it, synced, then renamed. Creates the
/// directory and replaces an existing file; on error the existing file is untouched and no scratch file
/// remains.
///
/// # Errors
/// [`Error::File`] if `path` is a directory; [`Error::Io`] if it cannot be written.
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
        // Report the first error, not that of the clean-up.
        let _ = std::fs::remove_file(&scratch);
        Error::io(path)(error)
    })
}

/// Writes `bytes` to the new file `path` atomically, as [`write_atomic`]; false if the file exists or another
/// process is writing it. Nothing is overwritten, also where the file system takes several names for one.
///
/// # Errors
/// [`Error::Io`] if it cannot be written.
pub fn write_new(path: &Path, bytes: &[u8]) -> Result<bool> {
    if let Some(parent) = path.parent().filter(|parent| !parent.as_os_str().is_empty()) {
        std::fs::create_dir_all(parent).map_err(Error::io(parent))?;
    }
    let scratch = scratch(path);
    // Who has created the scratch file is alone with the name.
    let mut file = match File::create_new(&scratch) {
        Ok(file) => file,
        Err(error) if error.kind() == ErrorKind::AlreadyExists => return Ok(false),
        Err(error) => return Err(Error::io(path)(error)),
    };
    if path.symlink_metadata().is_ok() {
        std::fs::remove_file(&scratch).map_err(Error::io(&scratch))?;
        return Ok(false);
    }
    let written = file
        .write_all(bytes)
        .and_then(|()| file.sync_all())
        .and_then(|()| std::fs::rename(&scratch, path));
    written.map(|()| true).map_err(|error| {
        // Report the first error, not that of the clean-up.
        let _ = std::fs::remove_file(&scratch);
        Error::io(path)(error)
    })
}

/// `image` encoded as PNG; `path` is only named in errors.
///
/// # Errors
/// [`Error::File`] if the image has no pixels.
pub(crate) fn png(path: &Path, image: &RgbImage) -> Result<Vec<u8>> {
    let mut png = Cursor::new(Vec::new());
    image
        .write_to(&mut png, ImageFormat::Png)
        .map_err(Error::because("cannot be encoded as PNG"))
        .map_err(Error::in_file(path))?;
    Ok(png.into_inner())
}

/// Writes `image` to `path` as PNG, atomically.
///
/// # Errors
/// Those of [`png`] and [`write_atomic`].
pub(crate) fn write_png(path: &Path, image: &RgbImage) -> Result<()> {
    write_atomic(path, &png(path, image)?)
}

/// Writes `value` to `path` as indented JSON, not atomically.
///
/// # Errors
/// [`Error::File`] if it cannot be expressed in JSON; [`Error::Io`] if the file cannot be written.
pub(crate) fn write_json<T: Serialize>(path: &Path, value: &T) -> Result<()> {
    let text = serde_json::to_string_pretty(value).map_err(Error::in_file(path))?;
    std::fs::write(path, text + "\n").map_err(Error::io(path))
}

/// The value in the JSON file at `path`.
///
/// # Errors
/// [`Error::Io`] if the file cannot be read; [`Error::File`] if it is not JSON or of another type.
pub(crate) fn read_json<T: DeserializeOwned>(path: &Path) -> Result<T> {
    let text = std::fs::read_to_string(path).map_err(Error::io(path))?;
    serde_json::from_str(&text).map_err(Error::in_file(path))
}

/// `bytes` as lower-case hexadecimal digits.
pub(crate) fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// Free bytes in the file system of `dir`; `None` if the system does not report them.
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

/// The scratch file of `path`: the same name with `.tmp` appended.
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
    fn writes_replace_files_and_failures_leave_nothing_behind() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("new/file.json");
        write_atomic(&path, b"one").unwrap();
        write_atomic(&path, b"two").unwrap();
        assert_eq!(std::fs::read(&path).unwrap(), b"two");
        assert!(write_atomic(&dir.path().join("new/"), b"three").is_err());
        assert!(write_atomic(&path.join("below"), b"four").is_err());
        assert_eq!(std::fs::read(&path).unwrap(), b"two");
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 1);
        assert_eq!(std::fs::read_dir(dir.path().join("new")).unwrap().count(), 1);
    }

    #[test]
    fn new_files_never_replace_others() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("new/a.png");
        assert!(write_new(&path, b"one").unwrap());
        assert!(!write_new(&path, b"two").unwrap());
        assert_eq!(std::fs::read(&path).unwrap(), b"one");
        // Another process is writing it.
        let taken = dir.path().join("new/b.png");
        std::fs::write(scratch(&taken), "").unwrap();
        assert!(!write_new(&taken, b"two").unwrap() && !taken.exists());
        assert_eq!(std::fs::read_dir(dir.path().join("new")).unwrap().count(), 2);
        let won = std::sync::atomic::AtomicUsize::new(0);
        std::thread::scope(|scope| {
            for _ in 0..8 {
                let (won, path) = (&won, dir.path().join("c.png"));
                scope.spawn(move || {
                    let is_mine = write_new(&path, b"three").unwrap();
                    won.fetch_add(usize::from(is_mine), std::sync::atomic::Ordering::SeqCst);
                });
            }
        });
        assert_eq!(won.into_inner(), 1);
    }
}
