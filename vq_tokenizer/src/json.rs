//! Reading of configuration files.

use std::path::Path;

use serde::de::DeserializeOwned;
use tensor_files::{LFS_POINTER, is_lfs_pointer};

use crate::error::{Error, Result};

/// The value in the JSON file at `path`.
///
/// # Errors
/// [`Error::Io`] if the file cannot be read; [`Error::File`] if it is not JSON, or a key, which is named, has a
/// wrong value; `what` says what the file is not then.
pub(crate) fn read_json<T: DeserializeOwned>(path: &Path, what: &str) -> Result<T> {
    let text = std::fs::read(path).map_err(Error::io(path))?;
    if is_lfs_pointer(&text) {
        return Err(Error::file(path, LFS_POINTER));
    }
    let mut json = serde_json::Deserializer::from_slice(&text);
    let value = serde_path_to_error::deserialize(&mut json);
    let value = value.map_err(Error::in_file_because(path, what))?;
    json.end().map_err(Error::in_file_because(path, what))?;
    Ok(value)
}
