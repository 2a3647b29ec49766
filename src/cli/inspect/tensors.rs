//! Describes the tensors of safetensors files by their headers.

use std::path::Path;

use calumma::Result;
use calumma::checkpoint::weight_files;
use safetensors::Dtype;
use serde::Serialize;
use serde_json::json;
use tensor_files::WeightFiles;

use crate::cli::session::{Session, name};
use crate::cli::sizes::{self, Parts, part_of};

/// Name, number format and shape of a tensor.
#[derive(Debug, Serialize)]
pub struct Tensor {
    /// The name.
    pub name: String,
    /// The number format, such as `F32`.
    pub dtype: String,
    /// The shape.
    pub shape: Vec<usize>,
}

impl Tensor {
    /// The number of values.
    pub fn len(&self) -> usize {
        self.shape.iter().product()
    }
}

fn tensors(files: &WeightFiles) -> Vec<Tensor> {
    let tensor = |(name, dtype, shape): (&str, Dtype, &[usize])| Tensor {
        name: name.to_owned(),
        dtype: format!("{dtype:?}"),
        shape: shape.to_vec(),
    };
    files.tensors().map(tensor).collect()
}

/// The tensors of a checkpoint's `model.safetensors` or of its shards.
///
/// # Errors
/// As [`weight_files`].
pub fn read_model(dir: &Path) -> Result<Vec<Tensor>> {
    Ok(tensors(&weight_files(dir)?.1))
}

/// The numbers of values by part.
pub fn parts(tensors: &[Tensor]) -> Parts {
    let mut parts = Parts::new();
    for tensor in tensors {
        *parts.entry(part_of(&tensor.name)).or_insert(0) += tensor.len();
    }
    parts
}

/// The number formats that occur, joined by commas.
pub fn dtypes(tensors: &[Tensor]) -> String {
    let mut names: Vec<&str> = tensors.iter().map(|tensor| tensor.dtype.as_str()).collect();
    names.sort_unstable();
    names.dedup();
    names.join(", ")
}

/// Prints every tensor of the file at `path`.
///
/// # Errors
/// As [`WeightFiles::open`].
pub fn show(path: &Path, session: &Session) -> Result<()> {
    let files = WeightFiles::open(path)?;
    let (tensors, notes) = (tensors(&files), files.metadata());
    let total: usize = tensors.iter().map(Tensor::len).sum();
    let (number, amount) = (tensors.len(), sizes::count(total as f64));
    session.line(format_args!("{}: {number} tensors, {amount} values", path.display()))?;
    for (key, value) in notes {
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

/// Prints the number of parameters in total and by part.
///
/// # Errors
/// Those of the output.
pub fn show_parameters(tensors: &[Tensor], session: &Session) -> Result<()> {
    let total: usize = tensors.iter().map(Tensor::len).sum();
    let (amount, dtypes) = (sizes::count(total as f64), dtypes(tensors));
    session.line(format_args!("  parameters {total} ({amount}), stored as {dtypes}"))?;
    for (part, number) in parts(tensors) {
        session.line(format_args!("    {part:<15} {number:>12}"))?;
    }
    Ok(())
}
