//! Keys of images: digests by which codes kept from earlier runs are found.

use std::io;
use std::path::{Path, PathBuf};

use sha2::{Digest, Sha256};

use super::files;
use crate::files::hex;

/// Where the encoded bytes of an image lie.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Place {
    /// The file.
    pub file: PathBuf,
    /// The part of the file, such as a member or a row; `None` if the image is the whole file.
    pub part: Option<String>,
}

impl Place {
    /// The whole of `file`.
    pub fn file(file: impl Into<PathBuf>) -> Self {
        Self { file: file.into(), part: None }
    }

    /// The `part` of `file`.
    pub fn part(file: impl Into<PathBuf>, part: impl Into<String>) -> Self {
        Self { file: file.into(), part: Some(part.into()) }
    }
}

/// The key of an image with the encoded `bytes`: a digest, whatever the file is called and whenever it
/// was written.
pub(super) fn bytes_key(bytes: &[u8]) -> String {
    hex(&Sha256::digest(bytes)[..16])
}

/// The [`bytes_key`] of the file at `path`.
pub(super) fn file_key(path: &Path) -> io::Result<String> {
    Ok(bytes_key(&files::read(path)?))
}
