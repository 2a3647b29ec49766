//! The format of PyTorch before 1.6, which newer versions write on request: pickles and storages in a row.
//!
//! Source: `_legacy_save` in PyTorch's `torch/serialization.py`. Five pickles come first: a magic number,
//! the protocol version, properties of the machine, the object, and the list of the storages' keys. The
//! storages follow in that order: the number of elements in 8 bytes, then the elements.

use std::collections::HashMap;
use std::fs::File;
use std::io::Read;
use std::ops::Range;
use std::path::Path;

use super::archive::read_at;
use super::escape::escaped;
use super::pickle::Machine;
use super::tensor_info::element_len;
use super::value::Value;
use crate::error::{Error, Result};

/// The start of every such file: the pickle of the number 0x1950a86a20f9469cfc6c.
const MAGIC: &[u8] = b"\x80\x02\x8a\x0al\xfc\x9cF\xf9 j\xa8P\x19.";

/// The table of contents of such a file.
pub(super) struct Legacy {
    /// The object's pickle.
    pub(super) pickle: Vec<u8>,
    storages: HashMap<String, Range<u64>>,
}

impl Legacy {
    /// Reads the table of contents; `None` for a file of another format.
    ///
    /// The pickles must be within the first `max_len` bytes.
    pub(super) fn open(path: &Path, max_len: usize) -> Result<Option<Self>> {
        let mut file = File::open(path).map_err(Error::io(path))?;
        let file_len = file.metadata().map_err(Error::io(path))?.len();
        let mut head = Vec::new();
        let read = |file: &mut File, len: usize, head: &mut Vec<u8>| {
            file.take(len as u64).read_to_end(head).map_err(Error::io(path))
        };
        read(&mut file, MAGIC.len(), &mut head)?;
        if head != MAGIC {
            return Ok(None);
        }
        read(&mut file, max_len, &mut head)?;
        let (pickle, storages) =
            contents(&head, file_len, path).map_err(|message| Error::file(path, message))?;
        Ok(Some(Self { pickle: head[pickle].to_vec(), storages }))
    }

    /// The bytes of the storage `key` in the file; `None` without it.
    pub(super) fn storage(&self, key: &str) -> Option<Range<u64>> {
        self.storages.get(key).cloned()
    }
}

type Contents = (Range<usize>, HashMap<String, Range<u64>>);

/// The object's pickle as a range of `head`, the beginning of the file, and the storages as ranges
/// of the file.
fn contents(head: &[u8], file_len: u64, path: &Path) -> std::result::Result<Contents, String> {
    let mut rest = &head[MAGIC.len()..];
    let mut next = || -> std::result::Result<(Machine<'_>, Range<usize>), String> {
        let start = head.len() - rest.len();
        let machine = Machine::run(rest)?;
        rest = machine.input;
        Ok((machine, start..head.len() - rest.len()))
    };
    next()?;
    let (system, _) = next()?;
    if system.item("little_endian").is_some_and(|order| !matches!(order, Value::Bool(true))) {
        return Err("its numbers are not little-endian; save it on such a machine".to_owned());
    }
    let (object, pickle) = next()?;
    let (keys, Range { end, .. }) = next()?;
    let Value::List(list) = keys.root else {
        return Err(format!(
            "after the tensors comes {}, not the list of storages",
            keys.root.kind()
        ));
    };
    let (mut storages, mut at) = (HashMap::new(), end as u64);
    for key in &keys.lists[list] {
        let Value::Text(key) = key else {
            return Err(format!("a storage is named by {}, not by text", key.kind()));
        };
        let format = object.storages.get(key);
        let format =
            *format.ok_or_else(|| format!("no tensor names the storage {}", escaped(key)))?;
        let count = read_at(path, at, 8).map_err(|_| "truncated".to_owned())?;
        let count = u64::from_le_bytes(count.try_into().expect("8 bytes were read"));
        let start = at + 8;
        let past =
            count.checked_mul(element_len(format) as u64).and_then(|len| start.checked_add(len));
        at = past.filter(|past| *past <= file_len).ok_or_else(|| {
            format!("storage {} of {count} numbers goes beyond the file: truncated", escaped(key))
        })?;
        storages.insert((*key).to_owned(), start..at);
    }
    Ok((pickle, storages))
}
