//! The transformer's and the image tokenizer's tensors in Hugging Face's files.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use burn::tensor::{DType, FloatDType, TensorData};
use serde_json::Value;
use vq_tokenizer::weights::{TensorSource, WeightFiles};

use super::config::read_json;
use crate::error::{Error, Result};
use crate::model::ModelConfig;

/// What the names of the image tokenizer's tensors begin with.
const VQ_PREFIX: &str = "model.vqmodel.";

/// The weight files of `dir`, opened: `model.safetensors`, or the shards that the index lists. The
/// path is the one to name in messages about all of them.
///
/// # Errors
/// Those of the files; when the index is malformed or a shard lacks a tensor that it should hold.
pub fn weight_files(dir: &Path) -> Result<(PathBuf, WeightFiles)> {
    let single = dir.join("model.safetensors");
    let index = dir.join("model.safetensors.index.json");
    if single.exists() || !index.exists() {
        let files = WeightFiles::open(&single)?;
        return Ok((single, files));
    }
    let mut files = WeightFiles::default();
    for (shard, names) in shards(&index)? {
        let path = dir.join(&shard);
        files.add(&path)?;
        if let Some(name) = names.iter().find(|name| !files.contains(name)) {
            let message =
                format!("there is no tensor {name}, which {} says is here", index.display());
            return Err(Error::file(&path, message));
        }
    }
    Ok((index, files))
}

/// The names of the shards in `index`, and the tensors that each should hold.
fn shards(index: &Path) -> Result<BTreeMap<String, Vec<String>>> {
    let json = read_json(index)?;
    let map = json.get("weight_map").and_then(Value::as_object);
    let map = map.ok_or_else(|| Error::file(index, "weight_map is missing or no object"))?;
    let mut shards = BTreeMap::<String, Vec<String>>::new();
    for (name, shard) in map {
        // A name with a folder in it could lead anywhere.
        let plain = shard.as_str().filter(|shard| !shard.contains(['/', '\\']) && *shard != "..");
        let shard = plain.ok_or_else(|| {
            Error::file(index, format!("tensor {name} lies in {shard}; allowed: a plain file name"))
        })?;
        shards.entry(shard.to_owned()).or_default().push(name.clone());
    }
    if shards.is_empty() {
        return Err(Error::file(index, "weight_map is empty"));
    }
    Ok(shards)
}

/// The image tokenizer's tensors among those of `files`, under its own names.
pub fn of_image_tokenizer(files: WeightFiles) -> WeightFiles {
    files.renamed(|name| name.strip_prefix(VQ_PREFIX).map(str::to_owned))
}

/// The transformer's tensors among those of some files. Query and key norms may have one row, a row
/// for each part of a model that was trained in parts, or a row for each head.
pub struct OfTransformer<'a> {
    files: WeightFiles,
    config: &'a ModelConfig,
}

impl<'a> OfTransformer<'a> {
    /// A view of `files` for a model of the sizes `config`.
    pub fn new(files: WeightFiles, config: &'a ModelConfig) -> Self {
        let ours = |name: &str| (!name.starts_with(VQ_PREFIX)).then(|| name.to_owned());
        Self { files: files.renamed(ours), config }
    }

    /// The heads that the tensor called `name` has a row for; `None` where it is no head norm.
    fn heads(&self, name: &str) -> Option<usize> {
        let (rest, _) = name.rsplit_once('.')?;
        if rest.ends_with(".q_norm") {
            Some(self.config.num_attention_heads)
        } else if rest.ends_with(".k_norm") {
            Some(self.config.num_key_value_heads)
        } else {
            None
        }
    }
}

impl TensorSource for OfTransformer<'_> {
    fn names(&self) -> Vec<String> {
        self.files.names()
    }

    fn tensor(
        &mut self,
        name: &str,
        dtype: FloatDType,
    ) -> vq_tokenizer::Result<Option<TensorData>> {
        let data = self.files.tensor(name, dtype)?;
        Ok(match (data, self.heads(name)) {
            (Some(data), Some(heads)) => Some(row_per_head(data, heads)),
            (data, _) => data,
        })
    }
}

/// `data` of shape `[d]` or `[rows, d]` as `[heads, d]`, each row for as many heads as the next; data
/// of another shape as it is.
fn row_per_head(data: TensorData, heads: usize) -> TensorData {
    let (rows, head_dim) = match *data.shape().as_slice() {
        [head_dim] => (1, head_dim),
        [rows, head_dim] => (rows, head_dim),
        _ => return data,
    };
    if rows == 0 || head_dim == 0 || !heads.is_multiple_of(rows) {
        return data;
    }
    let (dtype, copies) = (data.dtype(), heads / rows);
    // Every 16-bit float is an f32, so nothing is rounded on the way there and back.
    let values: Vec<f32> = data.convert_dtype(DType::F32).iter().collect();
    let values = values.chunks_exact(head_dim).flat_map(|row| row.repeat(copies)).collect();
    TensorData::new::<f32, _>(values, [heads, head_dim]).convert_dtype(dtype)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn norm_rows_serve_neighbouring_heads() {
        let rows = |shape: &[usize]| {
            let values: Vec<f32> = (0..shape.iter().product()).map(|v: usize| v as f32).collect();
            let data = row_per_head(TensorData::new(values, shape.to_vec()), 4);
            (data.shape().to_vec(), data.iter::<f32>().collect::<Vec<_>>())
        };
        let shared = vec![0.0, 1.0, 0.0, 1.0, 0.0, 1.0, 0.0, 1.0];
        assert_eq!(rows(&[2]), (vec![4, 2], shared.clone()));
        assert_eq!(rows(&[1, 2]), (vec![4, 2], shared));
        assert_eq!(rows(&[2, 2]).1, [0.0, 1.0, 0.0, 1.0, 2.0, 3.0, 2.0, 3.0]);
        assert_eq!(rows(&[4, 1]), (vec![4, 1], vec![0.0, 1.0, 2.0, 3.0]));
        assert_eq!(rows(&[3, 2]).0, [3, 2], "left to the check of shapes");
    }
}
