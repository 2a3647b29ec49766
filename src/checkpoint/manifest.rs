//! `manifest.json`: the size and SHA-256 of every file of a checkpoint.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use crate::error::{Error, Result};
use crate::files::{hex, read_json, refuse_lfs_pointer_at};

/// The name of the manifest.
const NAME: &str = "manifest.json";
/// Files for people, copied into a release and excluded from manifests.
pub const DOCUMENTS: [&str; 2] = ["README.md", "LICENSE"];
/// The version of the directory layout that is written and read.
const FORMAT: u32 = 1;

/// The size and digest of every file of a checkpoint.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Manifest {
    /// Version of the directory layout.
    pub format: u32,
    /// Files by path relative to the directory, with `/`.
    pub files: BTreeMap<String, FileEntry>,
}

/// One file of a [`Manifest`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct FileEntry {
    /// Bytes.
    pub size: u64,
    /// Lower-case hexadecimal.
    pub sha256: String,
}

impl Manifest {
    /// The manifest of the files below `dir`, without [`DOCUMENTS`], which people may edit.
    ///
    /// # Errors
    /// [`Error::Io`] if a file cannot be read.
    pub fn of(dir: &Path) -> Result<Self> {
        let mut files = BTreeMap::new();
        for path in files_below(dir)? {
            let name = relative(dir, &path);
            if name != NAME && !DOCUMENTS.contains(&name.as_str()) {
                files.insert(name, FileEntry { size: size(&path)?, sha256: sha256(&path)? });
            }
        }
        Ok(Self { format: FORMAT, files })
    }

    /// Reads `dir/manifest.json`; `None` if there is none, as in other projects' checkpoints.
    ///
    /// # Errors
    /// [`Error::File`] if it is malformed or of an unknown format.
    pub fn read(dir: &Path) -> Result<Option<Self>> {
        let path = dir.join(NAME);
        if !path.exists() {
            return Ok(None);
        }
        let manifest: Self = read_json(&path)?;
        if manifest.format != FORMAT {
            let message = format!("format is {}; this version reads {FORMAT}", manifest.format);
            return Err(Error::file(&path, message));
        }
        Ok(Some(manifest))
    }

    /// Writes `dir/manifest.json`.
    ///
    /// # Errors
    /// [`Error::Io`].
    pub fn write(&self, dir: &Path) -> Result<()> {
        let path = dir.join(NAME);
        let text = serde_json::to_string_pretty(self).expect("a map of strings is valid JSON");
        std::fs::write(&path, text + "\n").map_err(Error::io(&path))
    }

    /// Compares every file with the manifest, digests included.
    ///
    /// # Errors
    /// [`Error::Manifest`] for a missing manifest and for the first file that differs; [`Error::Io`] for a
    /// missing file.
    pub fn verify(dir: &Path) -> Result<()> {
        let manifest = Self::read(dir)?
            .ok_or_else(|| differs(&dir.join(NAME), "the checkpoint has no manifest".to_owned()))?;
        manifest.check_sizes(dir)?;
        for (name, entry) in &manifest.files {
            let path = dir.join(name);
            if sha256(&path)? != entry.sha256 {
                return Err(differs(&path, "its digest is not the manifest's".to_owned()));
            }
        }
        Ok(())
    }

    /// Compares the sizes only: cheap, and enough to find a truncated file.
    ///
    /// # Errors
    /// As [`Self::verify`]; [`Error::File`] for a pointer of Git LFS.
    pub fn check_sizes(&self, dir: &Path) -> Result<()> {
        for (name, entry) in &self.files {
            let path = dir.join(name);
            let found = size(&path)?;
            if found != entry.size {
                refuse_lfs_pointer_at(&path)?;
                let message = format!("{found} bytes; the manifest says {}", entry.size);
                return Err(differs(&path, message));
            }
        }
        Ok(())
    }

    /// A short digest of the model: 12 hexadecimal digits over all files but those in `trainer/`.
    pub fn digest(&self) -> String {
        let mut hasher = Sha256::new();
        for (name, entry) in self.files.iter().filter(|(name, _)| !name.starts_with("trainer/")) {
            hasher.update(name.as_bytes());
            hasher.update(entry.sha256.as_bytes());
        }
        hex(&hasher.finalize())[..12].to_owned()
    }
}

fn differs(path: &Path, message: String) -> Error {
    Error::Manifest { path: path.to_owned(), message }
}

fn size(path: &Path) -> Result<u64> {
    Ok(std::fs::metadata(path).map_err(Error::io(path))?.len())
}

fn sha256(path: &Path) -> Result<String> {
    let mut file = File::open(path).map_err(Error::io(path))?;
    let mut hasher = Sha256::new();
    let mut buffer = vec![0; 1 << 16];
    loop {
        let read = file.read(&mut buffer).map_err(Error::io(path))?;
        if read == 0 {
            return Ok(hex(&hasher.finalize()));
        }
        hasher.update(&buffer[..read]);
    }
}

/// All files below `dir`, sorted.
pub(super) fn files_below(dir: &Path) -> Result<Vec<PathBuf>> {
    let mut files = Vec::new();
    for entry in std::fs::read_dir(dir).map_err(Error::io(dir))? {
        let path = entry.map_err(Error::io(dir))?.path();
        if path.is_dir() {
            files.extend(files_below(&path)?);
        } else {
            files.push(path);
        }
    }
    files.sort();
    Ok(files)
}

fn relative(dir: &Path, path: &Path) -> String {
    let below = path.strip_prefix(dir).unwrap_or(path);
    let parts: Vec<_> = below.components().map(|c| c.as_os_str().to_string_lossy()).collect();
    parts.join("/")
}
