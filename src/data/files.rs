//! Files of data sets: their state, names that must stay inside a directory, positioned reads.

use std::collections::{HashSet, VecDeque};
use std::fs::{DirEntry, File, Metadata};
use std::io::{self, Read};
use std::path::{Component, Path, PathBuf};
use std::time::UNIX_EPOCH;

use sha2::{Digest, Sha256};

use crate::error::{Error, Result};
use crate::files::{hex, refuse_lfs_pointer};

/// Path, size in bytes and modification time in nanoseconds since 1970 of the file at `path`, or of all
/// files below it in order, as a digest. Files that cannot be read count as empty.
pub(crate) fn states(path: &Path) -> Result<String> {
    let mut hasher = Sha256::new();
    let mut add = |path: &Path, metadata: Option<Metadata>| {
        let changed = metadata.as_ref().and_then(|metadata| metadata.modified().ok());
        let changed = changed.and_then(|at| at.duration_since(UNIX_EPOCH).ok());
        let changed = changed.map_or(0, |since| since.as_nanos() as u64);
        hasher.update(path.as_os_str().as_encoded_bytes());
        hasher.update([0]);
        hasher.update(metadata.map_or(0, |metadata| metadata.len()).to_le_bytes());
        hasher.update(changed.to_le_bytes());
    };
    let metadata = std::fs::metadata(path).map_err(Error::io(path))?;
    if metadata.is_dir() {
        for file in walk(path)?.files {
            let metadata = std::fs::metadata(&file).ok();
            add(&file, metadata);
        }
    } else {
        add(path, Some(metadata));
    }
    Ok(hex(&hasher.finalize()[..16]))
}

/// What is below a directory.
#[derive(Debug, Default)]
pub(super) struct Listing {
    /// All that is not a directory, in order; links that lead nowhere are among them.
    pub files: Vec<PathBuf>,
    /// Directories that cannot be listed.
    pub unreadable: Vec<(PathBuf, io::Error)>,
    /// Directories that are listed under another name.
    pub repeated: Vec<PathBuf>,
}

/// Lists what is below the directory `dir`. Links are followed, but each directory is listed once, under
/// its own name if that is below `dir`.
///
/// # Errors
/// If `dir` itself cannot be listed.
pub(super) fn walk(dir: &Path) -> Result<Listing> {
    let (mut listing, mut seen, mut links) = (Listing::default(), HashSet::new(), VecDeque::new());
    list(dir, &mut seen, &mut links, &mut listing).map_err(Error::io(dir))?;
    while let Some(link) = links.pop_front() {
        if let Err(error) = list(&link, &mut seen, &mut links, &mut listing) {
            listing.unreadable.push((link, error));
        }
    }
    listing.files.sort();
    Ok(listing)
}

/// Adds what is below `dir` to `listing`, and the links to directories there to `links`.
fn list(
    dir: &Path,
    seen: &mut HashSet<PathBuf>,
    links: &mut VecDeque<PathBuf>,
    listing: &mut Listing,
) -> io::Result<()> {
    if !seen.insert(dir.canonicalize()?) {
        listing.repeated.push(dir.to_owned());
        return Ok(());
    }
    let entry = |entry: io::Result<DirEntry>| {
        let entry = entry?;
        let (path, kind) = (entry.path(), entry.file_type()?);
        // Links alone need a look at what they lead to.
        let is_dir = if kind.is_symlink() { path.is_dir() } else { kind.is_dir() };
        Ok((path, is_dir, kind.is_symlink()))
    };
    let mut inside = std::fs::read_dir(dir)?.map(entry).collect::<io::Result<Vec<_>>>()?;
    inside.sort();
    for (path, is_dir, is_link) in inside {
        if !is_dir {
            listing.files.push(path);
        } else if is_link {
            links.push_back(path);
        } else if let Err(error) = list(&path, seen, links, listing) {
            listing.unreadable.push((path, error));
        }
    }
    Ok(())
}

/// First bytes of compressed files, and the names of the formats.
const COMPRESSED: [(&[u8], &str); 6] = [
    (b"\x1F\x8B", "gzip"),
    (b"BZh", "bzip2"),
    (b"\xFD7zXZ\0", "xz"),
    (b"\x28\xB5\x2F\xFD", "zstd"),
    (b"\x04\x22\x4D\x18", "lz4"),
    (b"PK\x03\x04", "zip"),
];

/// Refuses a Git LFS pointer and a compressed file at `path`, whatever its name says.
///
/// # Errors
/// If the file cannot be read, or is one of these.
pub(super) fn refuse_wrapped(path: &Path) -> Result<()> {
    let mut head = Vec::new();
    let file = File::open(path).map_err(Error::io(path))?;
    file.take(64).read_to_end(&mut head).map_err(Error::io(path))?;
    refuse_lfs_pointer(path, &head)?;
    match COMPRESSED.iter().find(|(start, _)| head.starts_with(start)) {
        Some((_, format)) => {
            let message = format!("is compressed ({format}); decompress the file first");
            Err(Error::file(path, message))
        }
        None => Ok(()),
    }
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
    fn compressed_files_and_pointers_are_named_whatever_their_ending() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a.tar");
        let pointer = b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n";
        for (bytes, words) in [
            (&b"\x1F\x8B\x08\0"[..], "compressed (gzip)"),
            (b"\x28\xB5\x2F\xFD\0", "compressed (zstd)"),
            (b"BZh91AY", "compressed (bzip2)"),
            (b"\xFD7zXZ\0\0", "compressed (xz)"),
            (b"PK\x03\x04\x14", "compressed (zip)"),
            (pointer, "a pointer of Git LFS"),
        ] {
            std::fs::write(&path, bytes).unwrap();
            let message = refuse_wrapped(&path).unwrap_err().to_string();
            assert!(message.contains("a.tar: ") && message.contains(words), "{message}");
        }
        for bytes in [&b""[..], b"PAR1", b"BZ", b"{}"] {
            std::fs::write(&path, bytes).unwrap();
            refuse_wrapped(&path).unwrap();
        }
    }

    #[cfg(unix)]
    #[test]
    fn links_in_circles_and_to_nowhere_end_no_listing() {
        use std::os::unix::fs::symlink;
        let dir = tempfile::tempdir().unwrap();
        let root = dir.path().join("root");
        std::fs::create_dir_all(root.join("a")).unwrap();
        std::fs::write(root.join("a/x.png"), "x").unwrap();
        symlink("nowhere.png", root.join("gone.png")).unwrap();
        symlink("itself", root.join("itself")).unwrap();
        for (n, target) in [".", "..", "a", "../root"].iter().enumerate() {
            symlink(target, root.join(format!("link{n}"))).unwrap();
            symlink(root.join(format!("link{n}")), root.join(format!("a/back{n}"))).unwrap();
        }
        let listing = walk(&root).unwrap();
        let names = |file: &PathBuf| file.file_name().unwrap().to_str().unwrap().to_owned();
        let names: Vec<_> = listing.files.iter().map(names).collect();
        assert_eq!(names, ["x.png", "gone.png", "itself"]);
        assert!(listing.unreadable.is_empty());
        assert_eq!((&listing.files[0], listing.repeated.len()), (&root.join("a/x.png"), 8));
        let before = states(&root).unwrap();
        assert_eq!(states(&root).unwrap(), before);
        std::fs::write(root.join("nowhere.png"), "x").unwrap();
        assert_ne!(states(&root).unwrap(), before);
    }

    #[test]
    fn names_cannot_leave_their_directory() {
        let dir = Path::new("d");
        assert_eq!(inside(dir, "a/b.png").unwrap(), Path::new("d/a/b.png"));
        for name in ["", "/etc/passwd", "../a.png", "a/../../b.png"] {
            assert!(inside(dir, name).unwrap_err().contains("without .."), "{name}");
        }
    }
}
