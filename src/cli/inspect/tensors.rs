//! Tensors of safetensors files, by their headers alone.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};

use calumma::{Error, Result};
use safetensors::tensor::Metadata;
use serde::Serialize;
use serde_json::{Value, json};

use crate::cli::session::{Session, name};
use crate::cli::sizes::{self, Parts, part_of};

/// No header is longer (the format's own limit).
const LONGEST_HEADER: u64 = 100_000_000;

/// A tensor of a file.
#[derive(Debug, Serialize)]
pub struct Tensor {
    /// Its name.
    pub name: String,
    /// Its number format, such as `F32`.
    pub dtype: String,
    /// Its shape.
    pub shape: Vec<usize>,
}

impl Tensor {
    /// The number of values.
    pub fn len(&self) -> usize {
        self.shape.iter().product()
    }
}

/// The tensors of `path` in the order of their names, and the header's notes.
///
/// # Errors
/// When the file is missing, truncated or no safetensors file.
pub fn read(path: &Path) -> Result<(Vec<Tensor>, BTreeMap<String, String>)> {
    let mut file = File::open(path).map_err(Error::io(path))?;
    let size = file.metadata().map_err(Error::io(path))?.len();
    let damaged =
        |what: String| Error::file(path, format!("not a readable safetensors file: {what}"));
    let mut prefix = [0; 8];
    file.read_exact(&mut prefix).map_err(|_| damaged(format!("it has only {size} bytes")))?;
    let length = u64::from_le_bytes(prefix);
    if length > LONGEST_HEADER.min(size.saturating_sub(8)) {
        return Err(damaged(format!("a header of {length} bytes in a file of {size}")));
    }
    let mut header = Vec::new();
    file.take(length).read_to_end(&mut header).map_err(Error::io(path))?;
    let metadata: Metadata = serde_json::from_slice(&header).map_err(|e| damaged(e.to_string()))?;
    let expected = 8 + length + metadata.data_len() as u64;
    if expected != size {
        return Err(damaged(format!("{size} bytes; its header says {expected}")));
    }
    let notes = metadata.metadata().clone().unwrap_or_default();
    Ok((tensors(&metadata), notes.into_iter().collect()))
}

fn tensors(metadata: &Metadata) -> Vec<Tensor> {
    let mut tensors: Vec<Tensor> = metadata
        .tensors()
        .into_iter()
        .map(|(name, info)| Tensor {
            name,
            dtype: format!("{:?}", info.dtype),
            shape: info.shape.clone(),
        })
        .collect();
    tensors.sort_by(|a, b| a.name.cmp(&b.name));
    tensors
}

/// The tensors of a checkpoint's `model.safetensors` or of its shards.
///
/// # Errors
/// As [`read`], and those of the index.
pub fn read_model(dir: &Path) -> Result<Vec<Tensor>> {
    let index = dir.join("model.safetensors.index.json");
    let single = dir.join("model.safetensors");
    if single.exists() || !index.exists() {
        return Ok(read(&single)?.0);
    }
    let text = std::fs::read_to_string(&index).map_err(Error::io(&index))?;
    let json: Value =
        serde_json::from_str(&text).map_err(|e| Error::file(&index, e.to_string()))?;
    let map = json["weight_map"].as_object();
    let map = map.ok_or_else(|| Error::file(&index, "weight_map is missing or no object"))?;
    let mut shards: Vec<PathBuf> =
        map.values().filter_map(Value::as_str).map(|name| dir.join(name)).collect();
    shards.sort();
    shards.dedup();
    let mut tensors = Vec::new();
    for shard in shards {
        tensors.extend(read(&shard)?.0);
    }
    Ok(tensors)
}

/// Numbers of values by part.
pub fn parts(tensors: &[Tensor]) -> Parts {
    let mut parts = Parts::new();
    for tensor in tensors {
        *parts.entry(part_of(&tensor.name)).or_insert(0) += tensor.len();
    }
    parts
}

/// The number formats that occur, joined.
pub fn dtypes(tensors: &[Tensor]) -> String {
    let mut names: Vec<&str> = tensors.iter().map(|tensor| tensor.dtype.as_str()).collect();
    names.sort_unstable();
    names.dedup();
    names.join(", ")
}

/// Prints every tensor of one file.
///
/// # Errors
/// As [`read`].
pub fn show(path: &Path, session: &Session) -> Result<()> {
    let (tensors, notes) = read(path)?;
    let total: usize = tensors.iter().map(Tensor::len).sum();
    let (number, amount) = (tensors.len(), sizes::count(total as f64));
    session.line(format_args!("{}: {number} tensors, {amount} values", path.display()))?;
    for (key, value) in &notes {
        session.line(format_args!("  note {key}: {value}"))?;
    }
    for Tensor { name, dtype, shape } in &tensors {
        session.line(format_args!("  {name} {dtype} {shape:?}"))?;
    }
    session.object(&json!({
        "kind": "safetensors",
        "path": name(path),
        "values": total,
        "metadata": notes,
        "tensors": tensors,
    }))
}
