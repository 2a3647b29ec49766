//! Number formats and shapes of PyTorch's tensors.

use safetensors::Dtype;

/// Number format and shape of a tensor.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TensorInfo {
    /// Format of one element.
    pub dtype: Dtype,
    /// Elements per axis; empty for a scalar.
    pub shape: Vec<usize>,
}

impl TensorInfo {
    /// Bytes of all elements; `None` if they exceed the address space.
    pub fn bytes_len(&self) -> Option<usize> {
        if self.shape.contains(&0) {
            return Some(0);
        }
        self.shape.iter().try_fold(element_len(self.dtype), |len, &size| len.checked_mul(size))
    }
}

/// The storage classes of `torch` and the number formats of their elements.
pub(super) const STORAGES: [(&str, Dtype); 10] = [
    ("FloatStorage", Dtype::F32),
    ("BFloat16Storage", Dtype::BF16),
    ("HalfStorage", Dtype::F16),
    ("DoubleStorage", Dtype::F64),
    ("LongStorage", Dtype::I64),
    ("IntStorage", Dtype::I32),
    ("ShortStorage", Dtype::I16),
    ("CharStorage", Dtype::I8),
    ("ByteStorage", Dtype::U8),
    ("BoolStorage", Dtype::BOOL),
];

/// The number format of the elements of a storage class.
pub(super) fn storage_dtype(class: &str) -> Option<Dtype> {
    STORAGES.iter().find(|(name, _)| *name == class).map(|(_, dtype)| *dtype)
}

/// Bytes of one element; every format of [`STORAGES`] has whole bytes.
pub(super) fn element_len(dtype: Dtype) -> usize {
    dtype.bitsize() / 8
}
