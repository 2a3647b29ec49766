//! The tensors of a checkpoint under conversion, in the form to be written.

use std::path::Path;

use burn::tensor::FloatDType;
use safetensors::Dtype;
use serde_json::Value;
use tensor_files::{StoredDtype, StoredTensor, TensorInfo, WeightFiles};
use vq_tokenizer::VqConfig;
use vq_tokenizer::preprocess::PreprocessorConfig;

use super::adapter::Merge;
use super::directory::require_directory;
use super::hugging_face::{nested_config, preprocessor};
use super::meta::half_apart;
use super::names::VQ_DIR;
use super::stored::StoredTensors;
use super::tensors::{
    SCORE, VQ_PREFIX, head_norm_shape, heads_of, is_of_transformer, row_per_head,
};
use super::weight_files::write_weights;
use crate::error::{Error, Result};
use crate::files::read_json;
use crate::model::ModelConfig;

/// Name of the image tokenizer's codebook.
pub(super) const CODEBOOK: &str = "quantize.embedding.weight";

/// The order of a head's channels in queries, keys and their norms.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum RotaryOrder {
    /// Rotated pairs are half a head apart, as in every Hugging Face checkpoint.
    #[default]
    HalfApart,
    /// Rotated pairs are adjacent: the original release's order under Hugging Face's names, as written by
    /// Anole's training code.
    SideBySide,
}

/// The number format of a tensor stored as `stored` after conversion to `dtype`; only floats change.
pub(super) fn format(stored: Dtype, dtype: Option<StoredDtype>) -> Dtype {
    match (stored, dtype) {
        (Dtype::F64 | Dtype::F32 | Dtype::BF16 | Dtype::F16, Some(dtype)) => dtype.safetensors(),
        _ => stored,
    }
}

/// `tensor` in the number format `dtype`, if it holds floats.
pub(super) fn converted(tensor: StoredTensor, dtype: Option<StoredDtype>) -> Result<StoredTensor> {
    match dtype {
        Some(dtype) if format(tensor.dtype, Some(dtype)) != tensor.dtype => {
            Ok(tensor.convert(dtype)?)
        }
        _ => Ok(tensor),
    }
}

/// The image tokenizer of a checkpoint: a separate directory, or tensors among the language
/// model's.
pub(super) struct ImageTokenizer {
    pub config: VqConfig,
    pub preprocessor: PreprocessorConfig,
    /// Its tensors without [`VQ_PREFIX`].
    pub tensors: Vec<TensorInfo>,
    /// The files of its directory; `None` if its tensors are among the language model's.
    own: Option<WeightFiles>,
}

impl ImageTokenizer {
    /// The image tokenizer of the checkpoint in `source` with the `config.json` `json`; `None` without one.
    pub fn find(source: &Path, json: &Value, files: &StoredTensors) -> Result<Option<Self>> {
        let dir = source.join(VQ_DIR);
        if dir.is_dir() {
            return Self::of_directory(&dir).map(Some);
        }
        let among = files.infos().into_iter().filter_map(|(name, dtype, shape)| {
            Some((name.strip_prefix(VQ_PREFIX)?.to_owned(), dtype, shape))
        });
        let tensors: Vec<TensorInfo> = among.collect();
        if tensors.is_empty() {
            return Ok(None);
        }
        let config = nested_config(source, json)?;
        let preprocessor = preprocessor(source, json, config.resolution)?;
        Ok(Some(Self { config, preprocessor, own: None, tensors }))
    }

    /// The image tokenizer in `dir`, of a checkpoint or on its own, and the files in `dir`.
    ///
    /// # Errors
    /// Those of the files; if there is none.
    pub fn open(dir: &Path) -> Result<(Self, StoredTensors)> {
        require_directory(dir)?;
        let files = StoredTensors::open(dir)?;
        if !dir.join("tokenizer.json").exists() {
            return Ok((Self::of_directory(dir)?, files));
        }
        match Self::find(dir, &read_json(&dir.join("config.json"))?, &files)? {
            Some(found) => Ok((found, files)),
            None => Err(Error::file(dir, "the checkpoint has no image tokenizer")),
        }
    }

    fn of_directory(dir: &Path) -> Result<Self> {
        let config = VqConfig::load(&dir.join("config.json"))?;
        let preprocessor = PreprocessorConfig::load(&dir.join("preprocessor_config.json"))?;
        let own = WeightFiles::open(&dir.join("model.safetensors"))?;
        let tensors = own.infos();
        Ok(Self { config, preprocessor, own: Some(own), tensors })
    }

    /// Writes it to the new directory `dir`, its floats in `dtype` if there is one; `files` are the language model's.
    ///
    /// # Errors
    /// Those of the file system and of its tensors.
    pub fn write(
        &self,
        dir: &Path,
        files: &StoredTensors,
        dtype: Option<StoredDtype>,
    ) -> Result<()> {
        std::fs::create_dir_all(dir).map_err(Error::io(dir))?;
        self.config.save(&dir.join("config.json"))?;
        self.preprocessor.save(&dir.join("preprocessor_config.json"))?;
        let infos = self.tensors.iter();
        let infos = infos
            .map(|(name, stored, shape)| (name.clone(), format(*stored, dtype), shape.clone()));
        let infos: Vec<TensorInfo> = infos.collect();
        write_weights(dir, &infos, u64::MAX, |name| {
            Ok(converted(self.stored(name, files)?, dtype)?.bytes)
        })
    }

    /// The vectors of its codes; `files` are the language model's.
    ///
    /// # Errors
    /// If its codes have none, or they cannot be read.
    pub fn codebook(&self, files: &StoredTensors) -> Result<StoredTensor> {
        match self.tensors.iter().any(|(name, ..)| name == CODEBOOK) {
            true => self.stored(CODEBOOK, files),
            false => Err(Error::invalid("the codes of its quantizer have no vectors to project")),
        }
    }

    /// The tensor called `name`; `files` are the language model's.
    pub fn stored(&self, name: &str, files: &StoredTensors) -> Result<StoredTensor> {
        match &self.own {
            Some(own) => Ok(own.stored(name)?),
            None => files.stored(&format!("{VQ_PREFIX}{name}")),
        }
    }
}

/// The language model's tensors in Hugging Face's rotary order and with a norm row per head.
pub(super) struct LanguageModel<'a> {
    pub files: &'a StoredTensors,
    pub config: &'a ModelConfig,
    /// The order in `files`.
    pub order: RotaryOrder,
    /// The adapters to merge into them.
    pub merge: &'a Merge,
}

impl LanguageModel<'_> {
    /// Name, number format and shape of every tensor after conversion to `dtype`.
    pub fn infos(&self, dtype: Option<StoredDtype>) -> Vec<TensorInfo> {
        let mut infos = self.files.infos();
        infos.retain(|(name, ..)| is_of_transformer(name));
        for (name, stored, shape) in &mut infos {
            *stored = format(*stored, dtype);
            if let Some(heads) = heads_of(name, self.config) {
                *shape = head_norm_shape(shape, heads);
            }
        }
        if self.config.num_labels > 0 && infos.iter().all(|(name, ..)| name != SCORE) {
            let shape = vec![self.config.num_labels, self.config.hidden_size];
            infos.push((SCORE.to_owned(), format(Dtype::F32, dtype), shape));
        }
        infos
    }

    /// The tensor called `name`, in the number format of the file.
    pub fn stored(&self, name: &str) -> Result<StoredTensor> {
        let is_stored = || self.files.infos().iter().any(|(stored, ..)| stored == name);
        if name == SCORE
            && !is_stored()
            && let Some(head) = self.merge.whole(name)?
        {
            let (shape, bytes) = (head.shape().to_vec(), head.into_bytes().to_vec());
            return Ok(StoredTensor { dtype: Dtype::F32, shape, bytes });
        }
        let mut tensor = self.files.stored(name)?;
        if self.order == RotaryOrder::SideBySide {
            tensor = half_apart(tensor, name, self.config)
                .map_err(Error::because(format_args!("tensor {name}")))?;
        }
        if let Some(heads) = heads_of(name, self.config) {
            row_per_head(&mut tensor, heads);
        }
        if self.merge.changes(name) {
            let dtype = StoredDtype::of(tensor.dtype).unwrap_or(StoredDtype::F32);
            let merged = self.merge.merge(name, tensor.to_data(FloatDType::F32)?)?;
            let bytes = merged.iter::<f32>().flat_map(f32::to_le_bytes).collect();
            tensor = StoredTensor { dtype: Dtype::F32, bytes, ..tensor }.convert(dtype)?;
        }
        Ok(tensor)
    }
}
