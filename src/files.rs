//! Atomic file writes, JSON files and PNG files.

use std::fs::File;
use std::io::{Cursor, ErrorKind, Read, Write};
use std::path::{Path, PathBuf};

use image::{ImageFormat, RgbImage};
use serde::de::DeserializeOwned;
use serde::{Serialize, Serializer};
use tensor_files::{LFS_POINTER, is_lfs_pointer};

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
/// [`Error::Io`] if the file cannot be read; [`Error::File`] if it is not JSON or of another type; the
/// message names the key.
pub(crate) fn read_json<T: DeserializeOwned>(path: &Path) -> Result<T> {
    let text = read_text(path)?;
    let mut json = serde_json::Deserializer::from_str(&text);
    let value = serde_path_to_error::deserialize(&mut json).map_err(Error::in_file(path))?;
    json.end().map_err(Error::in_file(path))?;
    Ok(value)
}

/// The text of the file at `path`.
///
/// # Errors
/// [`Error::Io`] if it cannot be read; [`Error::File`] if it is a pointer of Git LFS.
pub(crate) fn read_text(path: &Path) -> Result<String> {
    let text = std::fs::read_to_string(path).map_err(Error::io(path))?;
    refuse_lfs_pointer(path, text.as_bytes())?;
    Ok(text)
}

/// Copies the file `from` to `to`.
///
/// # Errors
/// [`Error::Io`] that names the file at fault, which is `to` if the disk is full.
pub(crate) fn copy(from: &Path, to: &Path) -> Result<()> {
    let mut source = File::open(from).map_err(Error::io(from))?;
    let mut copy = File::create(to).map_err(Error::io(to))?;
    let mut buffer = vec![0; 1 << 18];
    loop {
        match source.read(&mut buffer).map_err(Error::io(from))? {
            0 => return Ok(()),
            read => copy.write_all(&buffer[..read]).map_err(Error::io(to))?,
        }
    }
}

/// Refuses a Git LFS pointer; `head` holds the first bytes of the file at `path`, 64 are enough.
///
/// # Errors
/// [`Error::File`] if `head` begins as a pointer does.
pub(crate) fn refuse_lfs_pointer(path: &Path, head: &[u8]) -> Result<()> {
    match is_lfs_pointer(head) {
        true => Err(Error::file(path, LFS_POINTER)),
        false => Ok(()),
    }
}

/// As [`refuse_lfs_pointer`], for the file at `path`.
///
/// # Errors
/// [`Error::Io`] if the file cannot be read; [`Error::File`] if it is a pointer.
pub(crate) fn refuse_lfs_pointer_at(path: &Path) -> Result<()> {
    let mut head = Vec::new();
    let file = File::open(path).map_err(Error::io(path))?;
    file.take(64).read_to_end(&mut head).map_err(Error::io(path))?;
    refuse_lfs_pointer(path, &head)
}

/// `path` as text for JSON; the bytes of names that are not UTF-8 are escaped, so that names differ.
pub fn path_text(path: &Path) -> String {
    path.to_str().map_or_else(|| format!("{path:?}"), str::to_owned)
}

/// Serializes a path as [`path_text`]; paths themselves fail if they are not UTF-8.
pub(crate) fn serialize_path<S: Serializer>(
    path: &Option<PathBuf>,
    serializer: S,
) -> std::result::Result<S::Ok, S::Error> {
    path.as_deref().map(path_text).serialize(serializer)
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
    fn git_lfs_pointers_are_named_and_other_files_pass() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("train.parquet");
        for (bytes, is_pointer) in [
            (&b"version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 9\n"[..], true),
            (b"version https://git-lfs.github", false),
            (b"PAR1", false),
            (b"", false),
        ] {
            std::fs::write(&path, bytes).unwrap();
            let message = refuse_lfs_pointer_at(&path).err().map(|e| e.to_string());
            assert_eq!(message.is_some_and(|m| m.contains("Git LFS")), is_pointer);
        }
    }

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
