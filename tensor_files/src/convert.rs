//! Conversion of floats between number formats, piece by piece.

use std::io::Read;

use burn::tensor::{DType, Element, FloatDType, TensorData};
use half::{bf16, f16};
use safetensors::Dtype;

/// Values converted at a time.
const CHUNK_LEN: usize = 1 << 18;

/// A float that weight files hold.
pub(crate) trait StoredFloat: bytemuck::Pod + Element + Copy {
    /// The value in f32.
    fn widen(self) -> f32;
}

impl StoredFloat for f32 {
    fn widen(self) -> f32 {
        self
    }
}

impl StoredFloat for f64 {
    /// Rounded to nearest, as PyTorch does when it loads into a module of f32.
    fn widen(self) -> f32 {
        self as f32
    }
}

impl StoredFloat for bf16 {
    fn widen(self) -> f32 {
        bf16::to_f32(self)
    }
}

impl StoredFloat for f16 {
    fn widen(self) -> f32 {
        f16::to_f32(self)
    }
}

/// The tensor of `shape` whose values `from` gives in `stored`, converted to `dtype`.
///
/// `None` if `stored` is no float of 16 to 64 bits.
pub(crate) fn read_as(
    from: impl Read,
    stored: Dtype,
    shape: &[usize],
    dtype: FloatDType,
) -> Option<std::io::Result<TensorData>> {
    Some(match (stored, dtype) {
        (Dtype::F32, FloatDType::F32) => unchanged::<f32>(from, shape),
        (Dtype::BF16, FloatDType::BF16) => unchanged::<bf16>(from, shape),
        (Dtype::F16, FloatDType::F16) => unchanged::<f16>(from, shape),
        (Dtype::F64, _) => converted::<f64>(from, shape, dtype),
        (Dtype::F32, _) => converted::<f32>(from, shape, dtype),
        (Dtype::BF16, _) => converted::<bf16>(from, shape, dtype),
        (Dtype::F16, _) => converted::<f16>(from, shape, dtype),
        _ => return None,
    })
}

fn unchanged<T: StoredFloat>(mut from: impl Read, shape: &[usize]) -> std::io::Result<TensorData> {
    let mut values = vec![T::zeroed(); shape.iter().product()];
    from.read_exact(bytemuck::cast_slice_mut(&mut values))?;
    values.iter_mut().for_each(from_little_endian);
    Ok(TensorData::new(values, shape.to_vec()))
}

fn converted<T: StoredFloat>(
    from: impl Read,
    shape: &[usize],
    dtype: FloatDType,
) -> std::io::Result<TensorData> {
    let (count, shape) = (shape.iter().product(), shape.to_vec());
    Ok(match dtype {
        FloatDType::BF16 => {
            let values = read_map(from, count, |value: T| bf16::from_f32(value.widen()))?;
            TensorData::new(values, shape)
        }
        FloatDType::F16 => {
            let values = read_map(from, count, |value: T| f16::from_f32(value.widen()))?;
            TensorData::new(values, shape)
        }
        FloatDType::F32 => TensorData::new(read_map(from, count, T::widen)?, shape),
        _ => TensorData::new(read_map(from, count, T::widen)?, shape)
            .convert_dtype(DType::from(dtype)),
    })
}

/// `count` values of `from`, each through `convert`; only one chunk exists in both formats at a time.
fn read_map<T: StoredFloat, U>(
    mut from: impl Read,
    count: usize,
    convert: impl Fn(T) -> U,
) -> std::io::Result<Vec<U>> {
    let mut chunk = vec![T::zeroed(); CHUNK_LEN.min(count)];
    let mut values = Vec::with_capacity(count);
    while values.len() < count {
        let chunk = &mut chunk[..CHUNK_LEN.min(count - values.len())];
        from.read_exact(bytemuck::cast_slice_mut(chunk))?;
        chunk.iter_mut().for_each(from_little_endian);
        values.extend(chunk.iter().map(|value| convert(*value)));
    }
    Ok(values)
}

/// Swaps the bytes of a value of a file on a big-endian machine.
fn from_little_endian<T: StoredFloat>(value: &mut T) {
    if cfg!(target_endian = "big") {
        bytemuck::bytes_of_mut(value).reverse();
    }
}
