//! The number formats that weights are written in.

use burn::tensor::FloatDType;
use safetensors::Dtype;

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

    /// The format that safetensors files call `dtype`, if weights are written in it.
    pub fn of(dtype: Dtype) -> Option<Self> {
        [Self::F32, Self::Bf16, Self::F16].into_iter().find(|known| known.safetensors() == dtype)
    }

    /// The same format of a tensor in memory.
    pub(crate) fn in_memory(self) -> FloatDType {
        match self {
            Self::F32 => FloatDType::F32,
            Self::Bf16 => FloatDType::BF16,
            Self::F16 => FloatDType::F16,
        }
    }
}
