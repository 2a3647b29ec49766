//! Tensors to safetensors files: all at once in a format of choice, or one by one as they are.

use std::collections::HashMap;
use std::fs::File;
use std::io::{BufWriter, Write};
use std::path::Path;

use burn::tensor::FloatDType;
use safetensors::Dtype;
use safetensors::tensor::TensorView;
use serde_json::{Map, Value, json};

use super::NamedTensors;
use crate::error::{Error, Result};

/// Headers end at a multiple of this many bytes, so that values are aligned.
const ALIGNMENT: usize = 8;

/// Name, number format and shape of a tensor to write.
pub type TensorInfo = (String, Dtype, Vec<usize>);

/// Writes `tensors` to the safetensors file `path` in their order. `bytes` gives the values of a tensor
/// by its name, row-major and little-endian; each answer is dropped before the next question.
///
/// # Errors
/// [`Error::Io`] when the file cannot be written; [`Error::Invalid`] when `bytes` gives another length
/// than format and shape; those of `bytes`. The file may be incomplete then.
pub fn write_file(
    path: &Path,
    tensors: &[TensorInfo],
    mut bytes: impl FnMut(&str) -> Result<Vec<u8>>,
) -> Result<()> {
    let mut header = Map::new();
    header.insert("__metadata__".to_owned(), json!({ "format": "pt" }));
    let mut end = 0;
    for (name, dtype, shape) in tensors {
        let start = end;
        end += len(*dtype, shape);
        let place = json!({ "dtype": dtype, "shape": shape, "data_offsets": [start, end] });
        header.insert(name.clone(), place);
    }
    let mut header = Value::Object(header).to_string();
    while !header.len().is_multiple_of(ALIGNMENT) {
        header.push(' ');
    }
    let file = File::create(path).map_err(Error::io(path))?;
    let mut file = BufWriter::new(file);
    let mut put = |bytes: &[u8]| file.write_all(bytes).map_err(Error::io(path));
    put(&(header.len() as u64).to_le_bytes())?;
    put(header.as_bytes())?;
    for (name, dtype, shape) in tensors {
        let (bytes, wanted) = (bytes(name)?, len(*dtype, shape));
        if bytes.len() != wanted {
            let found = bytes.len();
            return Err(Error::invalid(format!("tensor {name} has {found} bytes of {wanted}")));
        }
        put(&bytes)?;
    }
    file.flush().map_err(Error::io(path))
}

fn len(dtype: Dtype, shape: &[usize]) -> usize {
    shape.iter().product::<usize>() * dtype.bitsize() / 8
}

/// The number format of a written weight file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StoredDtype {
    /// 32-bit floats: exact.
    F32,
    /// bfloat16, rounded to nearest even: half the size, 8 significant bits.
    Bf16,
    /// IEEE half precision, rounded to nearest even: half the size, 11 significant bits, range 65504.
    F16,
}

impl StoredDtype {
    /// Its name in safetensors files.
    pub fn safetensors(self) -> Dtype {
        match self {
            Self::F32 => Dtype::F32,
            Self::Bf16 => Dtype::BF16,
            Self::F16 => Dtype::F16,
        }
    }

    pub(super) fn in_memory(self) -> FloatDType {
        match self {
            Self::F32 => FloatDType::F32,
            Self::Bf16 => FloatDType::BF16,
            Self::F16 => FloatDType::F16,
        }
    }
}

/// The bytes of a safetensors file that holds `tensors`, with `metadata` in its header.
///
/// # Errors
/// [`Error::Invalid`] when the container cannot hold the tensors.
pub fn to_bytes(
    tensors: &NamedTensors,
    dtype: StoredDtype,
    metadata: Option<HashMap<String, String>>,
) -> Result<Vec<u8>> {
    let mut encoded = Vec::with_capacity(tensors.len());
    for (name, data) in tensors {
        let values = data.iter::<f32>();
        let (kind, bytes): (_, Vec<u8>) = match dtype {
            StoredDtype::F32 => (Dtype::F32, values.flat_map(f32::to_le_bytes).collect()),
            StoredDtype::Bf16 => {
                (Dtype::BF16, values.flat_map(|v| half::bf16::from_f32(v).to_le_bytes()).collect())
            }
            StoredDtype::F16 => {
                (Dtype::F16, values.flat_map(|v| half::f16::from_f32(v).to_le_bytes()).collect())
            }
        };
        encoded.push((name.clone(), kind, data.shape().to_vec(), bytes));
    }
    let mut views = Vec::with_capacity(encoded.len());
    for (name, kind, shape, bytes) in &encoded {
        let view = TensorView::new(*kind, shape.clone(), bytes)
            .map_err(|e| Error::invalid(format!("tensor {name} cannot be stored: {e}")))?;
        views.push((name.as_str(), view));
    }
    safetensors::serialize(views, metadata)
        .map_err(|e| Error::invalid(format!("weights cannot be stored: {e}")))
}
