//! The header of a safetensors file, checked.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::Read;
use std::path::Path;

use safetensors::tensor::TensorInfo;
use serde_json::Value;

use crate::error::{Cause, Error, Result};
use crate::lfs::{LFS_POINTER, is_lfs_pointer};

/// Longest header that is read, in bytes: the format's own limit.
const MAX_LEN: u64 = 100_000_000;

/// Bytes by which a file of another kind is recognised.
const HEAD_LEN: u64 = 64;

/// The content of a safetensors header.
pub(crate) struct Header {
    /// Byte of the file at which the data begins.
    pub start: u64,
    /// The tensors in the order of their data, which they fill without gaps.
    pub tensors: Vec<(String, TensorInfo)>,
    /// The strings in `__metadata__`.
    pub metadata: BTreeMap<String, String>,
}

impl Header {
    /// The header of the file at `path`.
    ///
    /// # Errors
    /// [`Error::Io`]; [`Error::Damaged`] if the header is malformed or the data has another size.
    pub(crate) fn read(path: &Path) -> Result<Self> {
        let mut file = File::open(path).map_err(Error::io(path))?;
        let size = file.metadata().map_err(Error::io(path))?.len();
        let mut head = Vec::new();
        file.by_ref().take(HEAD_LEN).read_to_end(&mut head).map_err(Error::io(path))?;
        if is_lfs_pointer(&head) {
            return Err(malformed(path, LFS_POINTER.to_owned()));
        }
        let Some((prefix, begun)) = head.split_first_chunk() else {
            return Err(malformed(path, format!("it has only {size} bytes")));
        };
        let len = u64::from_le_bytes(*prefix);
        if len > MAX_LEN.min(size.saturating_sub(8)) {
            return Err(malformed(path, format!("a header of {len} bytes in a file of {size}")));
        }
        let mut text = begun.to_vec();
        file.take(len.saturating_sub(begun.len() as u64))
            .read_to_end(&mut text)
            .map_err(Error::io(path))?;
        text.truncate(usize::try_from(len).unwrap_or(usize::MAX));
        let start = 8 + len;
        let (mut tensors, metadata) = parse(path, &text)?;
        check(&mut tensors, size - start).map_err(|message| malformed(path, message))?;
        Ok(Self { start, tensors, metadata })
    }
}

type Entries = (Vec<(String, TensorInfo)>, BTreeMap<String, String>);

fn parse(path: &Path, text: &[u8]) -> Result<Entries> {
    let header = serde_json::from_slice(text).map_err(|e| damaged(path, e.to_string(), e))?;
    let Value::Object(header) = header else {
        return Err(malformed(path, "its header is no JSON object".to_owned()));
    };
    let (mut tensors, mut metadata) = (Vec::with_capacity(header.len()), BTreeMap::new());
    for (name, value) in header {
        let in_entry = |e: serde_json::Error| damaged(path, format!("tensor {name}: {e}"), e);
        if name == "__metadata__" {
            metadata = serde_json::from_value(value).map_err(in_entry)?;
        } else {
            let info = serde_json::from_value(value).map_err(in_entry)?;
            tensors.push((name, info));
        }
    }
    Ok((tensors, metadata))
}

/// Sorts `tensors` by their offsets and checks that they fill the `size` bytes after the header
/// without gaps, each with as many bytes as its shape needs; `Err` says what is wrong.
fn check(tensors: &mut [(String, TensorInfo)], size: u64) -> std::result::Result<(), String> {
    tensors.sort_by(|a, b| (a.1.data_offsets, &a.0).cmp(&(b.1.data_offsets, &b.0)));
    let mut end = 0;
    for (name, info) in tensors {
        let (from, to) = info.data_offsets;
        let bits = info.shape.iter().try_fold(info.dtype.bitsize(), |n, side| n.checked_mul(*side));
        let (dtype, shape) = (info.dtype, &info.shape);
        if from != end || to < from {
            return Err(format!("tensor {name} is at bytes {from} to {to}, not from {end} on"));
        }
        if bits.is_none_or(|bits| bits % 8 != 0 || bits / 8 != to - from) {
            let len = to - from;
            return Err(format!("tensor {name}, {dtype:?} {shape:?}, has {len} bytes"));
        }
        if to as u64 > size {
            return Err(format!("tensor {name} ends at {to} of {size} bytes; it is cut off"));
        }
        end = to;
    }
    if end as u64 != size {
        return Err(format!("{size} bytes of data; its header says {end}"));
    }
    Ok(())
}

fn damaged(path: &Path, message: String, source: impl Into<Cause>) -> Error {
    Error::Damaged { path: path.to_owned(), message, source: Some(source.into()) }
}

fn malformed(path: &Path, message: String) -> Error {
    Error::Damaged { path: path.to_owned(), message, source: None }
}
