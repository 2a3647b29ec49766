//! Tensors under Hugging Face's names in either container, safetensors or PyTorch's.

use std::path::Path;

use tensor_files::{StoredTensor, TensorInfo, WeightFiles};

use super::torch_file::TorchFile;
use super::weight_files::{shards, weight_files};
use crate::error::{Error, Result};

/// The weight files of a directory, opened by their headers.
pub enum StoredTensors {
    /// `model.safetensors` or its shards.
    Safetensors(WeightFiles),
    /// `pytorch_model.bin` or its shards.
    Torch(Vec<TorchFile>),
}

impl StoredTensors {
    /// Opens the weight files in `dir`; safetensors if it has both kinds.
    ///
    /// # Errors
    /// Those of the files.
    pub fn open(dir: &Path) -> Result<Self> {
        let is_file = |name: &str| dir.join(name).is_file();
        if !is_file("model.safetensors") && !is_file("model.safetensors.index.json") {
            let (single, index) = ("pytorch_model.bin", "pytorch_model.bin.index.json");
            if is_file(single) {
                return Ok(Self::Torch(vec![torch_file(&dir.join(single))?]));
            }
            if is_file(index) {
                let shards = shards(&dir.join(index))?;
                let open = |name: &String| torch_file(&dir.join(name));
                return shards.keys().map(open).collect::<Result<_>>().map(Self::Torch);
            }
        }
        Ok(Self::Safetensors(weight_files(dir)?.1))
    }

    /// Name, number format and shape of every tensor.
    pub fn infos(&self) -> Vec<TensorInfo> {
        match self {
            Self::Safetensors(files) => files.infos(),
            Self::Torch(files) => {
                let tensors = files.iter().flat_map(|file| file.tensors());
                tensors.map(|(name, info)| (name.clone(), info.dtype, info.shape.clone())).collect()
            }
        }
    }

    /// The tensor called `name` as it is stored.
    ///
    /// # Errors
    /// If there is none or it cannot be read.
    pub fn stored(&self, name: &str) -> Result<StoredTensor> {
        match self {
            Self::Safetensors(files) => Ok(files.stored(name)?),
            Self::Torch(files) => {
                let file = files.iter().find(|file| file.tensors().contains_key(name));
                let file =
                    file.ok_or_else(|| Error::invalid(format!("there is no tensor {name}")))?;
                file.stored(name)
            }
        }
    }
}

/// The PyTorch file at `path`; an error if it holds something else in place of a weight.
fn torch_file(path: &Path) -> Result<TorchFile> {
    let file = TorchFile::open(path)?;
    let is_weight = |name: &&String| name.ends_with(".weight") || name.ends_with(".bias");
    match file.objects().keys().find(is_weight) {
        Some(name) => Err(file.missing(name)),
        None => Ok(file),
    }
}
