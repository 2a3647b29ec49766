//! Files of data sets: their state, names that must stay inside a directory, positioned reads.

use std::fs::File;
use std::io;
use std::path::{Component, Path, PathBuf};
use std::time::UNIX_EPOCH;

use sha2::{Digest, Sha256};

use crate::error::{Error, Result};
use crate::files::hex;

/// Path, size in bytes and modification time in nanoseconds since 1970 of the file at `path`, or of all
/// files below it in order, as a digest.
pub(crate) fn states(path: &Path) -> Result<String> {
    let mut hasher = Sha256::new();
    add_states(path, &mut hasher)?;
    Ok(hex(&hasher.finalize()[..16]))
}

fn add_states(path: &Path, hasher: &mut Sha256) -> Result<()> {
    let metadata = std::fs::metadata(path).map_err(Error::io(path))?;
    if !metadata.is_dir() {
        let changed = metadata.modified().ok().and_then(|at| at.duration_since(UNIX_EPOCH).ok());
        let changed = changed.map_or(0, |since| since.as_nanos() as u64);
        hasher.update(path.as_os_str().as_encoded_bytes());
        hasher.update([0]);
        hasher.update(metadata.len().to_le_bytes());
        hasher.update(changed.to_le_bytes());
        return Ok(());
    }
    let entries = std::fs::read_dir(path).map_err(Error::io(path))?;
    let mut inside: Vec<PathBuf> = entries
        .map(|entry| entry.map(|e| e.path()))
        .collect::<io::Result<_>>()
        .map_err(Error::io(path))?;
    inside.sort();
    inside.iter().try_for_each(|path| add_states(path, hasher))
}

/// `dir/name`; an error if `name` leaves `dir`.
pub(super) fn inside(dir: &Path, name: &str) -> std::result::Result<PathBuf, String> {
    let stays = !name.is_empty()
        && Path::new(name)
            .components()
            .all(|c| matches!(c, Component::Normal(_) | Component::CurDir));
    match stays {
        true => Ok(dir.join(name)),
        false => Err(format!(
            "file name {name:?} is not allowed; it must be relative and without .. components"
        )),
    }
}

/// The content of a regular file; refuses devices and pipes, which may never end.
pub(super) fn read(path: &Path) -> io::Result<Vec<u8>> {
    match std::fs::metadata(path)?.is_file() {
        true => std::fs::read(path),
        false => Err(io::Error::new(io::ErrorKind::InvalidInput, "not a regular file")),
    }
}

/// `len` bytes of `file` from `offset`; neither uses nor changes the file's own position.
pub(super) fn read_at(file: &File, offset: u64, len: usize) -> io::Result<Vec<u8>> {
    let mut bytes = vec![0; len];
    read_exact_at(file, &mut bytes, offset)?;
    Ok(bytes)
}

#[cfg(unix)]
fn read_exact_at(file: &File, bytes: &mut [u8], offset: u64) -> io::Result<()> {
    std::os::unix::fs::FileExt::read_exact_at(file, bytes, offset)
}

#[cfg(windows)]
fn read_exact_at(file: &File, mut bytes: &mut [u8], mut offset: u64) -> io::Result<()> {
    while !bytes.is_empty() {
        match std::os::windows::fs::FileExt::seek_read(file, bytes, offset)? {
            0 => return Err(io::ErrorKind::UnexpectedEof.into()),
            read => {
                bytes = &mut bytes[read..];
                offset += read as u64;
            }
        }
    }
    Ok(())
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;

    #[test]
    fn names_cannot_leave_their_directory() {
        let dir = Path::new("d");
        assert_eq!(inside(dir, "a/b.png").unwrap(), Path::new("d/a/b.png"));
        for name in ["", "/etc/passwd", "../a.png", "a/../../b.png"] {
            assert!(inside(dir, name).unwrap_err().contains("without .."), "{name}");
        }
    }
}
