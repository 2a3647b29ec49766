//! The zip archive and its entries.

use std::fs::File;
use std::io::{BufReader, Read, Seek, SeekFrom};
use std::ops::Range;
use std::path::Path;

use tensor_files::{LFS_POINTER, is_lfs_pointer};
use zip::read::{ArchiveOffset, Config};
use zip::{CompressionMethod, ZipArchive};

use super::escape::escaped;
use crate::error::{Error, Result};

/// The zip archive while its table of contents is read.
pub(super) struct Archive<'p> {
    path: &'p Path,
    zip: ZipArchive<BufReader<File>>,
    /// The one folder of the archive, with its slash.
    root: String,
    file_len: u64,
}

impl<'p> Archive<'p> {
    pub(super) fn open(path: &'p Path) -> Result<Self> {
        let mut file = File::open(path).map_err(Error::io(path))?;
        let file_len = file.metadata().map_err(Error::io(path))?.len();
        let mut head = Vec::new();
        file.by_ref().take(HEAD_LEN).read_to_end(&mut head).map_err(Error::io(path))?;
        if let Some(message) = foreign(&head) {
            return Err(Error::file(path, message));
        }
        let zip = ZipArchive::with_config(
            Config { archive_offset: ArchiveOffset::Known(0) },
            BufReader::new(file),
        )
        .map_err(Error::in_file_because(path, "no readable zip file, truncated perhaps"))?;
        let roots: Vec<_> = zip
            .file_names_raw()
            .filter_map(|name| std::str::from_utf8(name).ok()?.strip_suffix("data.pkl"))
            .filter(|root| root.find('/').is_some_and(|slash| slash + 1 == root.len()))
            .map(str::to_owned)
            .collect();
        let [root] = &roots[..] else {
            let message = format!("{} entries */data.pkl; a PyTorch file has one", roots.len());
            return Err(Error::file(path, message));
        };
        Ok(Self { path, root: root.clone(), zip, file_len })
    }

    pub(super) fn error(&self, message: impl Into<String>) -> Error {
        Error::file(self.path, message)
    }

    /// The bytes of the entry `name` below the root in the file; `None` without it.
    fn find(&mut self, name: &str) -> Result<Option<Range<u64>>> {
        let name = format!("{}{name}", self.root);
        let Some(index) = self.zip.index_for_name_raw(name.as_bytes()) else {
            return Ok(None);
        };
        let entry_name = format!("zip entry {}", escaped(&name));
        let in_entry = |message: String| Error::file(self.path, format!("{entry_name}: {message}"));
        let entry =
            self.zip.by_index_raw(index).map_err(Error::in_file_because(self.path, &entry_name))?;
        if entry.compression() != CompressionMethod::Stored || entry.encrypted() {
            let message = "compressed or encrypted; save it anew with torch.save";
            return Err(in_entry(message.to_owned()));
        }
        let start = entry.data_start().unwrap_or(u64::MAX);
        let end = start.saturating_add(entry.size());
        if end > self.file_len {
            let message = format!("ends at byte {end} of a file of {}: truncated", self.file_len);
            return Err(in_entry(message));
        }
        Ok(Some(start..end))
    }

    /// The content of the entry `name` below the root, at most `max_len` bytes; `None` without it.
    pub(super) fn read(&mut self, name: &str, max_len: usize) -> Result<Option<Vec<u8>>> {
        let Some(range) = self.find(name)? else {
            return Ok(None);
        };
        let len = usize::try_from(range.end - range.start).unwrap_or(usize::MAX);
        if len > max_len {
            return Err(self.error(format!("{name} has {len} bytes; allowed: at most {max_len}")));
        }
        read_at(self.path, range.start, len).map(Some)
    }

    /// The bytes of the storage `key` in the file; `None` without it.
    pub(super) fn storage(&mut self, key: &str) -> Result<Option<Range<u64>>> {
        self.find(&format!("data/{key}"))
    }
}

/// Bytes that distinguish other files from a PyTorch zip file.
const HEAD_LEN: u64 = 64;

/// The kind of a file that begins with `head`, and the remedy; `None` for a zip file.
fn foreign(head: &[u8]) -> Option<String> {
    let what = match head {
        [b'P', b'K', 3, 4, ..] => return None,
        [] => "an empty file",
        [0x80, 2..=5, ..] => "a bare pickle",
        [_, _, _, _, _, 0, 0, 0, b'{', ..] => {
            return Some(
                "a safetensors file, no PyTorch zip file; its name must end so".to_owned(),
            );
        }
        _ if is_lfs_pointer(head) => return Some(LFS_POINTER.to_owned()),
        _ => "a file of another kind",
    };
    Some(format!("{what}, no PyTorch zip file; save it with torch.save of PyTorch 1.6 or newer"))
}

/// `len` bytes of the file from `start`; opened anew, so that threads can read in parallel.
pub(super) fn read_at(path: &Path, start: u64, len: usize) -> Result<Vec<u8>> {
    let mut bytes = vec![0; len];
    File::open(path)
        .and_then(|mut file| {
            file.seek(SeekFrom::Start(start))?;
            file.read_exact(&mut bytes)
        })
        .map_err(Error::io(path))?;
    Ok(bytes)
}
