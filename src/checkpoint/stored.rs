//! Tensors under Hugging Face's names in either container, safetensors or PyTorch's.

use std::path::Path;

use vq_tokenizer::weights::{StoredTensor, TensorInfo, WeightFiles};

use super::torch_file::TorchFile;
use super::weight_files::{shards, weight_files};
use crate::error::Result;

/// The weight files of a folder, opened by their headers.
pub enum StoredTensors {
    /// `model.safetensors` or its shards.
    Safetensors(WeightFiles),
    /// `pytorch_model.bin` or its shards.
    Torch(Vec<TorchFile>),
}

impl StoredTensors {
    /// Opens those of `dir`; of both kinds, safetensors.
    ///
    /// # Errors
    /// Those of the files.
    pub fn open(dir: &Path) -> Result<Self> {
        let is_file = |name: &str| dir.join(name).is_file();
        if !is_file("model.safetensors") && !is_file("model.safetensors.index.json") {
            let (single, index) = ("pytorch_model.bin", "pytorch_model.bin.index.json");
            if is_file(single) {
                return Ok(Self::Torch(vec![TorchFile::open(&dir.join(single))?]));
            }
            if is_file(index) {
                let shards = shards(&dir.join(index))?;
                let open = |name: &String| TorchFile::open(&dir.join(name));
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
    /// When there is none or it cannot be read.
    pub fn stored(&self, name: &str) -> vq_tokenizer::Result<StoredTensor> {
        let invalid = |message: String| vq_tokenizer::Error::invalid(message);
        match self {
            Self::Safetensors(files) => files.stored(name),
            Self::Torch(files) => {
                let found = files.iter().find_map(|file| Some((file, file.tensors().get(name)?)));
                let (file, info) =
                    found.ok_or_else(|| invalid(format!("there is no tensor {name}")))?;
                let bytes = file.read(name).map_err(|e| invalid(e.to_string()))?;
                Ok(StoredTensor { dtype: info.dtype, shape: info.shape.clone(), bytes })
            }
        }
    }
}
