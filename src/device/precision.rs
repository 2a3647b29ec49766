//! Number formats of computations.

use std::fmt;
use std::str::FromStr;

use burn::tensor::FloatDType;
use serde::{Deserialize, Serialize};

use super::error::DeviceError;

/// The number format that matrix products and convolutions run in; parameters and statistics stay in f32.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Precision {
    /// 32-bit floats.
    #[default]
    F32,
    /// 16-bit floats with the exponent range of f32. On the CPU that is the format of the weights alone:
    /// they take half the memory, and the activations stay f32.
    Bf16,
}

impl Precision {
    /// The Burn type of the format.
    pub fn float_dtype(self) -> FloatDType {
        match self {
            Self::F32 => FloatDType::F32,
            Self::Bf16 => FloatDType::BF16,
        }
    }
}

impl fmt::Display for Precision {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::F32 => "f32",
            Self::Bf16 => "bf16",
        })
    }
}

impl FromStr for Precision {
    type Err = DeviceError;

    fn from_str(name: &str) -> Result<Self, DeviceError> {
        match name {
            "f32" => Ok(Self::F32),
            "bf16" => Ok(Self::Bf16),
            _ => Err(DeviceError::UnknownPrecision { name: name.to_string() }),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_precision_survives_its_own_text() {
        for precision in [Precision::F32, Precision::Bf16] {
            let text = precision.to_string();
            assert_eq!(text.parse(), Ok(precision));
            assert_eq!(serde_json::to_string(&precision).unwrap(), format!("{text:?}"));
        }
        assert_eq!(Precision::Bf16.float_dtype(), FloatDType::BF16);
        assert!("f16".parse::<Precision>().is_err());
    }
}
