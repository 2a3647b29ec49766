//! The transformer's and the image tokenizer's tensors among those of Hugging Face's files.

use burn::tensor::{FloatDType, TensorData};
use vq_tokenizer::weights::{StoredTensor, TensorSource, WeightFiles};

use crate::model::ModelConfig;

/// What the names of the image tokenizer's tensors begin with.
pub const VQ_PREFIX: &str = "model.vqmodel.";

/// The image tokenizer's tensors among those of `files`, under its own names.
pub fn of_image_tokenizer(files: WeightFiles) -> WeightFiles {
    files.renamed(|name| name.strip_prefix(VQ_PREFIX).map(str::to_owned))
}

/// Whether the transformer has the tensor called `name`: the image tokenizer's and the rotary
/// frequencies that older files hold, which follow from the sizes, it has not.
pub fn is_of_transformer(name: &str) -> bool {
    !name.starts_with(VQ_PREFIX) && !name.ends_with("rotary_emb.inv_freq")
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
        let ours = |name: &str| is_of_transformer(name).then(|| name.to_owned());
        Self { files: files.renamed(ours), config }
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
        match heads_of(name, self.config) {
            Some(heads) if self.files.contains(name) => {
                let mut tensor = self.files.stored(name)?;
                row_per_head(&mut tensor, heads);
                tensor.to_data(dtype).map(Some)
            }
            _ => self.files.tensor(name, dtype),
        }
    }
}

/// The heads that the tensor called `name` has a row for; `None` where it is no head norm.
pub fn heads_of(name: &str, config: &ModelConfig) -> Option<usize> {
    let (rest, _) = name.rsplit_once('.')?;
    if rest.ends_with(".q_norm") {
        Some(config.num_attention_heads)
    } else if rest.ends_with(".k_norm") {
        Some(config.num_key_value_heads)
    } else {
        None
    }
}

/// The shape `[heads, d]` for a norm of shape `[d]` or `[rows, d]`; another shape as it is.
pub fn head_norm_shape(shape: &[usize], heads: usize) -> Vec<usize> {
    match *shape {
        [head_dim] => vec![heads, head_dim],
        [rows, head_dim] if rows > 0 && heads.is_multiple_of(rows) => vec![heads, head_dim],
        _ => shape.to_vec(),
    }
}

/// Turns `tensor` of shape `[d]` or `[rows, d]` into `[heads, d]`, each row for as many heads as the
/// next; one of another shape stays.
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
    fn norm_rows_serve_neighbouring_heads() {
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
        assert_eq!(rows(&[3, 2]).0, [3, 2], "left to the check of shapes");
    }
}
