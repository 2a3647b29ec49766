//! A tensor in memory with the bytes of its file.

use burn::tensor::{FloatDType, TensorData};
use safetensors::Dtype;

use crate::convert::read_as;
use crate::dtype::StoredDtype;
use crate::error::{Error, Result};

/// A tensor as it is stored: little-endian values in row-major order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StoredTensor {
    /// The number format.
    pub dtype: Dtype,
    /// The shape.
    pub shape: Vec<usize>,
    /// The values.
    pub bytes: Vec<u8>,
}

impl StoredTensor {
    /// The values in `dtype`.
    ///
    /// # Errors
    /// [`Error::Invalid`] if they are no floats of 16 to 64 bits, or too few for the shape.
    pub fn to_data(&self, dtype: FloatDType) -> Result<TensorData> {
        let bytes = self.bytes.as_slice();
        match read_as(bytes, self.dtype, &self.shape, dtype) {
            Some(data) => data.map_err(Error::because(format_args!(
                "{} bytes for a tensor {:?} of {:?}",
                bytes.len(),
                self.shape,
                self.dtype
            ))),
            None => Err(Error::invalid(format!("{:?}; allowed: F64, F32, BF16, F16", self.dtype))),
        }
    }

    /// The same values in the number format `dtype`.
    ///
    /// # Errors
    /// As [`to_data`](Self::to_data).
    pub fn convert(&self, dtype: StoredDtype) -> Result<Self> {
        let bytes = self.to_data(dtype.in_memory())?.bytes().to_vec();
        let mut converted = Self { dtype: dtype.safetensors(), shape: self.shape.clone(), bytes };
        if cfg!(target_endian = "big") {
            let size = converted.dtype.bitsize() / 8;
            converted.bytes.chunks_exact_mut(size).for_each(<[u8]>::reverse);
        }
        Ok(converted)
    }
}
