//! Writing of safetensors files, one tensor at a time.

use std::fs::File;
use std::io::{BufWriter, Write};
use std::path::Path;

use burn::tensor::TensorData;
use safetensors::Dtype;
use serde_json::{Map, Value, json};

use crate::dtype::StoredDtype;
use crate::error::{Error, Result};
use crate::named::{DeviceTensor, DeviceTensors};

/// Headers end at a multiple of this many bytes, so that values are aligned.
const ALIGNMENT: usize = 8;

/// Name, number format and shape of a tensor to write.
pub type TensorInfo = (String, Dtype, Vec<usize>);

/// Writes `tensors` to the safetensors file `path` in their order.
///
/// `bytes` returns the values of a tensor by its name, row-major and little-endian; they are
/// written and dropped before the next tensor is requested.
///
/// # Errors
/// [`Error::Io`] if the file cannot be written; [`Error::Invalid`] if `bytes` returns another length
/// than format and shape need; those of `bytes`. The file may be incomplete then.
pub fn write_file<E: From<Error>>(
    path: &Path,
    tensors: &[TensorInfo],
    mut bytes: impl FnMut(&str) -> std::result::Result<Vec<u8>, E>,
) -> std::result::Result<(), E> {
    let file = File::create(path).map_err(Error::io(path))?;
    let mut file = BufWriter::new(file);
    let mut put = |bytes: &[u8]| file.write_all(bytes).map_err(Error::io(path));
    let header = header(tensors);
    put(&(header.len() as u64).to_le_bytes())?;
    put(header.as_bytes())?;
    for (name, dtype, shape) in tensors {
        let (bytes, wanted) = (bytes(name)?, len(*dtype, shape));
        if bytes.len() != wanted {
            let message = format!("tensor {name} has {} bytes of {wanted}", bytes.len());
            return Err(Error::invalid(message).into());
        }
        put(&bytes)?;
    }
    file.flush().map_err(Error::io(path))?;
    Ok(())
}

/// The header, with its padding, of a file of `tensors`.
fn header(tensors: &[TensorInfo]) -> String {
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
    header
}

/// Bytes of a tensor.
fn len(dtype: Dtype, shape: &[usize]) -> usize {
    shape.iter().product::<usize>() * dtype.bitsize() / 8
}

/// Writes `tensors` to the safetensors file `path` in `dtype`; of their values one is on the host at a time.
///
/// # Errors
/// [`Error::Io`] if the file cannot be written. It may be incomplete then.
pub fn write(path: &Path, tensors: &DeviceTensors, dtype: StoredDtype) -> Result<()> {
    let info = |(name, tensor): (&String, &DeviceTensor)| {
        (name.clone(), dtype.safetensors(), tensor.shape.clone())
    };
    let infos: Vec<TensorInfo> = tensors.iter().map(info).collect();
    write_file(path, &infos, |name| Ok(encoded(&tensors[name].to_data(), dtype)))
}

/// The values as they are stored.
fn encoded(data: &TensorData, dtype: StoredDtype) -> Vec<u8> {
    let values = data.iter::<f32>();
    match dtype {
        StoredDtype::F32 => values.flat_map(f32::to_le_bytes).collect(),
        StoredDtype::Bf16 => values.flat_map(|v| half::bf16::from_f32(v).to_le_bytes()).collect(),
        StoredDtype::F16 => values.flat_map(|v| half::f16::from_f32(v).to_le_bytes()).collect(),
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;

    #[test]
    fn a_tensor_of_another_length_is_refused_by_name() {
        let dir = tempfile::tempdir().unwrap();
        let tensors = [("a".to_owned(), Dtype::F32, vec![3])];
        let path = dir.path().join("w.safetensors");
        let error = write_file(&path, &tensors, |_| Ok::<_, Error>(vec![0; 5])).unwrap_err();
        assert_eq!(error.to_string(), "tensor a has 5 bytes of 12");
    }
}
