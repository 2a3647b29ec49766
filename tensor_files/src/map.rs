//! Mapped files: one of any size opens at once, and its pages are read when they are first needed.

#![allow(unsafe_code, reason = "a mapped file may change beneath the program; see `map_file`")]

use std::fs::File;
use std::path::Path;

use bytes::Bytes;
use memmap2::Mmap;

use crate::error::{Error, Result};

/// A file's content, mapped; cheap to clone.
pub type MappedFile = Bytes;

/// The content of the file at `path`, mapped read-only for as long as a part of it is in use.
///
/// # Errors
/// [`Error::Io`] if it cannot be opened or mapped.
pub fn map_file(path: &Path) -> Result<MappedFile> {
    let file = File::open(path).map_err(Error::io(path))?;
    // SAFETY: the mapped bytes change only if another program writes into the file. Token shards are never
    // written in place: whole files are renamed over the old ones, which live on until they are
    // unmapped. Every bit pattern is a valid id, so a program that breaks this rule causes other
    // numbers, or a SIGBUS if it truncates the file.
    let mapping = unsafe { Mmap::map(&file) }.map_err(Error::io(path))?;
    Ok(Bytes::from_owner(mapping))
}
