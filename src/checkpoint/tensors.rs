//! The transformer's and the image tokenizer's tensors in Hugging Face's files.

use burn::tensor::{FloatDType, TensorData};
use tensor_files::{StoredTensor, TensorSource, WeightFiles};

use super::experts::ExpertStacks;
use crate::error::{Error, Result};
use crate::model::{ModelConfig, QkNorm};

/// Name of the output head.
pub(super) const HEAD: &str = "lm_head.weight";
/// Name of the score head.
pub(super) const SCORE: &str = "score.weight";
/// Name of the input embedding.
pub(super) const EMBEDDING: &str = "model.embed_tokens.weight";
/// Prefix of the image tokenizer's tensors.
pub const VQ_PREFIX: &str = "model.vqmodel.";

/// The image tokenizer's tensors in `files`, without [`VQ_PREFIX`].
pub fn of_image_tokenizer(files: WeightFiles) -> WeightFiles {
    files.renamed(|name| name.strip_prefix(VQ_PREFIX).map(str::to_owned))
}

/// Whether `name` is a tensor of the transformer: neither the image tokenizer's, nor the rotary
/// frequencies in older files, which follow from the configuration.
pub fn is_of_transformer(name: &str) -> bool {
    !name.starts_with(VQ_PREFIX) && !name.ends_with("rotary_emb.inv_freq")
}

/// The transformer's tensors in weight files, with a row of the query and key norms for each head.
///
/// Files may have one row for all heads, or one for each part of a model trained in parts.
pub struct TransformerTensors<'a> {
    stacks: ExpertStacks,
    config: &'a ModelConfig,
}

impl<'a> TransformerTensors<'a> {
    /// A view of `files` for a model of the configuration `config`. A head that is the tied embedding once
    /// more is left out, as by transformers, and so is a score head if `config` has none.
    ///
    /// # Errors
    /// If the files cannot be read, or have a head of their own although the embedding is tied.
    pub fn new(files: WeightFiles, config: &'a ModelConfig) -> Result<Self> {
        let is_copy = config.tie_word_embeddings && holds_copy(&files)?;
        let is_left_out = |name: &str| match name {
            HEAD => is_copy,
            SCORE => config.num_labels == 0,
            _ => !is_of_transformer(name) || is_of_later_token(name, config),
        };
        let ours = |name: &str| !is_left_out(name);
        let files = files.renamed(|name| ours(name).then(|| name.to_owned()));
        let experts = config.experts.as_ref().map(|experts| experts.num_experts);
        Ok(Self { stacks: ExpertStacks::new(files, experts), config })
    }
}

/// Whether `name` is a tensor of the layers behind the last that predict later tokens (DeepSeek-V3); transformers skips
/// them too.
fn is_of_later_token(name: &str, config: &ModelConfig) -> bool {
    let layer = name.strip_prefix("model.layers.").and_then(|rest| rest.split('.').next());
    let layer = layer.and_then(|layer| layer.parse::<usize>().ok());
    config.latent.is_some() && layer.is_some_and(|layer| layer >= config.num_hidden_layers)
}

/// Whether `files` hold the tied embedding once more as the head.
fn holds_copy(files: &WeightFiles) -> Result<bool> {
    if !files.contains(HEAD) || !files.contains(EMBEDDING) {
        return Ok(false);
    }
    match files.stored(HEAD)? == files.stored(EMBEDDING)? {
        true => Ok(true),
        false => Err(Error::invalid(format!(
            "{HEAD} is not {EMBEDDING}, although tie_word_embeddings in config.json is true"
        ))),
    }
}

impl TensorSource for TransformerTensors<'_> {
    fn names(&self) -> Vec<String> {
        self.stacks.names()
    }

    fn tensor(
        &mut self,
        name: &str,
        dtype: FloatDType,
    ) -> tensor_files::Result<Option<TensorData>> {
        match heads_of(name, self.config) {
            Some(heads) if self.stacks.files.contains(name) => {
                let mut tensor = self.stacks.files.stored(name)?;
                row_per_head(&mut tensor, heads);
                tensor.to_data(dtype).map(Some)
            }
            _ => self.stacks.tensor(name, dtype),
        }
    }

    fn missing(&self, name: &str) -> Vec<String> {
        self.stacks.missing(name)
    }
}

/// The number of heads that the norm called `name` has rows for; `None` if it is no norm with rows for heads.
pub fn heads_of(name: &str, config: &ModelConfig) -> Option<usize> {
    if config.qk_norm != QkNorm::LayerNorm {
        return None;
    }
    let (rest, _) = name.rsplit_once('.')?;
    if rest.ends_with(".q_norm") {
        Some(config.num_attention_heads)
    } else if rest.ends_with(".k_norm") {
        Some(config.num_key_value_heads)
    } else {
        None
    }
}

/// The shape with a row per head of a norm of shape `[d]` or `[rows, d]`; other shapes unchanged.
pub fn head_norm_shape(shape: &[usize], heads: usize) -> Vec<usize> {
    match *shape {
        [head_dim] => vec![heads, head_dim],
        [rows, head_dim] if rows > 0 && heads.is_multiple_of(rows) => vec![heads, head_dim],
        _ => shape.to_vec(),
    }
}

/// Repeats the rows of a norm of shape `[d]` or `[rows, d]` to `[heads, d]`, each for neighbouring heads;
/// tensors of other shapes are unchanged.
pub fn row_per_head(tensor: &mut StoredTensor, heads: usize) {
    let shape = head_norm_shape(&tensor.shape, heads);
    let (before, after) = (tensor.shape.iter().product::<usize>(), shape.iter().product::<usize>());
    if before > 0 && after > before {
        let copies = after / before;
        let row = tensor.bytes.len() * copies / heads;
        tensor.bytes = tensor.bytes.chunks_exact(row).flat_map(|row| row.repeat(copies)).collect();
    }
    tensor.shape = shape;
}

#[cfg(test)]
mod tests {
    use super::*;
    use safetensors::Dtype;

    #[test]
    fn norm_rows_are_repeated_for_neighbouring_heads() {
        let rows = |shape: &[usize]| {
            let bytes = (0..shape.iter().product::<usize>()).map(|v| v as u8).collect();
            let mut tensor = StoredTensor { dtype: Dtype::U8, shape: shape.to_vec(), bytes };
            row_per_head(&mut tensor, 4);
            (tensor.shape, tensor.bytes)
        };
        let shared = vec![0, 1, 0, 1, 0, 1, 0, 1];
        assert_eq!(rows(&[2]), (vec![4, 2], shared.clone()));
        assert_eq!(rows(&[1, 2]), (vec![4, 2], shared));
        assert_eq!(rows(&[2, 2]).1, [0, 1, 0, 1, 2, 3, 2, 3]);
        assert_eq!(rows(&[4, 1]), (vec![4, 1], vec![0, 1, 2, 3]));
        assert_eq!(rows(&[3, 2]).0, [3, 2], "left to the loader's check");
    }
}
