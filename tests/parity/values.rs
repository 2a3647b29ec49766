//! Expected values: tensors by name, and deviations from them.

use std::path::Path;

use burn::tensor::TensorData;
use safetensors::{Dtype, SafeTensors};

/// A file of expected tensors.
pub struct Values(Vec<u8>);

impl Values {
    pub fn open(path: &Path) -> Self {
        Self(std::fs::read(path).unwrap())
    }

    pub fn names(&self) -> Vec<String> {
        let file = SafeTensors::deserialize(&self.0).unwrap();
        let mut names: Vec<String> = file.names().into_iter().map(ToString::to_string).collect();
        names.sort();
        names
    }

    pub fn has(&self, name: &str) -> bool {
        SafeTensors::deserialize(&self.0).unwrap().tensor(name).is_ok()
    }

    pub fn floats(&self, name: &str) -> TensorData {
        let file = SafeTensors::deserialize(&self.0).unwrap();
        let view = file.tensor(name).unwrap();
        assert_eq!(view.dtype(), Dtype::F32, "{name}");
        let bytes = view.data().chunks_exact(4);
        let values: Vec<f32> = bytes.map(|b| f32::from_le_bytes(b.try_into().unwrap())).collect();
        TensorData::new(values, view.shape().to_vec())
    }

    /// Rows of integers along the last axis.
    pub fn rows(&self, name: &str) -> Vec<Vec<i64>> {
        let file = SafeTensors::deserialize(&self.0).unwrap();
        let view = file.tensor(name).unwrap();
        let values: Vec<i64> = match view.dtype() {
            Dtype::I32 => {
                let bytes = view.data().chunks_exact(4);
                bytes.map(|b| i32::from_le_bytes(b.try_into().unwrap()).into()).collect()
            }
            dtype => {
                assert_eq!(dtype, Dtype::I64, "{name}");
                let bytes = view.data().chunks_exact(8);
                bytes.map(|b| i64::from_le_bytes(b.try_into().unwrap())).collect()
            }
        };
        values.chunks(*view.shape().last().unwrap()).map(<[i64]>::to_vec).collect()
    }

    /// As [`rows`](Self::rows), as ids.
    pub fn ids(&self, name: &str) -> Vec<Vec<u32>> {
        let id = |id: i64| u32::try_from(id).unwrap();
        self.rows(name).into_iter().map(|row| row.into_iter().map(id).collect()).collect()
    }

    pub fn bytes(&self, name: &str) -> Vec<u8> {
        SafeTensors::deserialize(&self.0).unwrap().tensor(name).unwrap().data().to_vec()
    }
}

pub fn flat(data: &TensorData) -> Vec<f32> {
    data.iter::<f32>().collect()
}
