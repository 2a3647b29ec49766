//! Which tensor of the original release is which of Hugging Face's, and how the parts of a model that
//! was trained in parts join.
//!
//! The original release keeps a file for each part: matrices are cut along one side, query and key
//! norms have one row in each part, other norms are the same in all. Its rotary embedding turns
//! neighbouring channels, Hugging Face's turns channels half a head apart, so rows of queries and keys
//! and the entries of their norms lie in another order. Source: `convert_chameleon_weights_to_hf.py` of
//! transformers and `chameleon/inference/loader.py` of the original release.

use burn::tensor::FloatDType;
use safetensors::Dtype;
use vq_tokenizer::weights::{StoredDtype, StoredTensor};

use crate::error::{Error, Result};
use crate::model::ModelConfig;

/// How the parts of a tensor make the whole one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Join {
    /// The same in every part.
    Same,
    /// Rows after rows.
    Rows,
    /// Columns beside columns.
    Columns,
    /// Rows of so many heads, in rotary order.
    Rotary(usize),
    /// One row of a head norm in each part, for so many heads in all, in rotary order.
    HeadNorm(usize),
}

/// A tensor under both names.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pair {
    /// The original release's name.
    pub meta: String,
    /// Hugging Face's name.
    pub hf: String,
    /// How it is cut.
    pub join: Join,
}

/// Every tensor of a model of the sizes `config`.
pub fn pairs(config: &ModelConfig) -> Vec<Pair> {
    let (heads, kv_heads) = (config.num_attention_heads, config.num_key_value_heads);
    let pair = |meta: String, hf: String, join| Pair { meta, hf, join };
    let mut pairs = vec![
        pair("tok_embeddings.weight".into(), "model.embed_tokens.weight".into(), Join::Columns),
        pair("norm.weight".into(), "model.norm.weight".into(), Join::Same),
        pair("output.weight".into(), "lm_head.weight".into(), Join::Rows),
    ];
    let of_layer = [
        ("attention.wq.weight", "self_attn.q_proj.weight", Join::Rotary(heads)),
        ("attention.wk.weight", "self_attn.k_proj.weight", Join::Rotary(kv_heads)),
        ("attention.wv.weight", "self_attn.v_proj.weight", Join::Rows),
        ("attention.wo.weight", "self_attn.o_proj.weight", Join::Columns),
        ("attention.q_normalization.weight", "self_attn.q_norm.weight", Join::HeadNorm(heads)),
        ("attention.q_normalization.bias", "self_attn.q_norm.bias", Join::HeadNorm(heads)),
        ("attention.k_normalization.weight", "self_attn.k_norm.weight", Join::HeadNorm(kv_heads)),
        ("attention.k_normalization.bias", "self_attn.k_norm.bias", Join::HeadNorm(kv_heads)),
        ("feed_forward.w1.weight", "mlp.gate_proj.weight", Join::Rows),
        ("feed_forward.w3.weight", "mlp.up_proj.weight", Join::Rows),
        ("feed_forward.w2.weight", "mlp.down_proj.weight", Join::Columns),
        ("attention_norm.weight", "input_layernorm.weight", Join::Same),
        ("ffn_norm.weight", "post_attention_layernorm.weight", Join::Same),
    ];
    for layer in 0..config.num_hidden_layers {
        for (meta, hf, join) in of_layer {
            pairs.push(pair(
                format!("layers.{layer}.{meta}"),
                format!("model.layers.{layer}.{hf}"),
                join,
            ));
        }
    }
    pairs
}

/// `tensor` under Hugging Face's name `name`, but in the original release's rotary order, in Hugging
/// Face's.
///
/// # Errors
/// When its shape is none of its kind.
pub fn half_apart(tensor: StoredTensor, name: &str, config: &ModelConfig) -> Result<StoredTensor> {
    let pair = pairs(config).into_iter().find(|pair| pair.hf == name);
    match (pair.map(|pair| pair.join), tensor.shape.as_slice()) {
        (Some(join @ Join::Rotary(_)), _) => join.join(&[tensor]),
        // A row in all, for each part of a model trained in parts, or for each head.
        (Some(join @ Join::HeadNorm(_)), &[.., head_dim]) if head_dim > 0 => {
            let (dtype, row) = (tensor.dtype, head_dim * bytes_of(tensor.dtype)?);
            let rows = tensor.bytes.chunks_exact(row).map(<[u8]>::to_vec);
            let rows = rows.map(|bytes| StoredTensor { dtype, shape: vec![head_dim], bytes });
            join.join(&rows.collect::<Vec<_>>())
        }
        _ => Ok(tensor),
    }
}

impl Join {
    /// The shape in Hugging Face's layout of a tensor whose parts, `parts` of them, have the shape
    /// `part` each; `None` where such a part cannot be.
    pub fn whole_shape(self, part: &[usize], parts: usize) -> Option<Vec<usize>> {
        match (self, part) {
            (Self::Same, _) => Some(part.to_vec()),
            (Self::Rows | Self::Rotary(_), &[rows, columns]) => Some(vec![rows * parts, columns]),
            (Self::Columns, &[rows, columns]) => Some(vec![rows, columns * parts]),
            (Self::HeadNorm(heads), &[head_dim]) if heads % parts == 0 => {
                Some(vec![heads, head_dim])
            }
            _ => None,
        }
    }

    /// The shape of each of `parts` parts of a tensor of the shape `whole` in Hugging Face's layout;
    /// `None` where it cannot be cut so.
    pub fn part_shape(self, whole: &[usize], parts: usize) -> Option<Vec<usize>> {
        match (self, whole) {
            (Self::Same, _) => Some(whole.to_vec()),
            (Self::Rows | Self::Rotary(_), &[rows, columns]) if rows % parts == 0 => {
                Some(vec![rows / parts, columns])
            }
            (Self::Columns, &[rows, columns]) if columns % parts == 0 => {
                Some(vec![rows, columns / parts])
            }
            (Self::HeadNorm(heads), &[rows, head_dim]) if rows == heads && heads % parts == 0 => {
                Some(vec![head_dim])
            }
            _ => None,
        }
    }

    /// The whole tensor in Hugging Face's layout. Of a norm that should be the same in every part, but is
    /// not, the mean is taken, as transformers does.
    ///
    /// # Errors
    /// When the parts differ in format or shape, or their shape is none for this kind of tensor.
    pub fn join(self, parts: &[StoredTensor]) -> Result<StoredTensor> {
        let first = parts.first().ok_or_else(|| Error::invalid("no part".to_owned()))?;
        if parts.iter().any(|part| (part.dtype, &part.shape) != (first.dtype, &first.shape)) {
            return Err(Error::invalid("its parts differ in format or shape".to_owned()));
        }
        let shape = self.whole_shape(&first.shape, parts.len()).ok_or_else(|| {
            let (shape, parts) = (&first.shape, parts.len());
            Error::invalid(format!("its shape {shape:?} in {parts} parts is none of this kind"))
        })?;
        let bytes = match self {
            Self::Same => mean(parts)?,
            Self::Rows => parts.iter().flat_map(|part| part.bytes.iter().copied()).collect(),
            Self::Columns => {
                let row = first.bytes.len() / first.shape[0].max(1);
                let rows = (0..first.shape[0]).flat_map(|r| {
                    parts.iter().flat_map(move |part| part.bytes[r * row..(r + 1) * row].iter())
                });
                rows.copied().collect()
            }
            Self::Rotary(heads) => {
                let joined: Vec<u8> = parts.iter().flat_map(|p| p.bytes.iter().copied()).collect();
                rotary(&joined, shape[0] / heads.max(1), shape[1] * bytes_of(first.dtype)?, true)
            }
            Self::HeadNorm(heads) => {
                let (size, copies) = (bytes_of(first.dtype)?, heads / parts.len());
                let turned = parts.iter().map(|part| rotary(&part.bytes, shape[1], size, true));
                turned.flat_map(|row| row.repeat(copies)).collect()
            }
        };
        Ok(StoredTensor { dtype: first.dtype, shape, bytes })
    }

    /// What [`join`](Self::join) joins, from the whole tensor.
    ///
    /// # Errors
    /// When it cannot be cut into so many parts, or the rows of a head norm differ within a part.
    pub fn split(self, whole: &StoredTensor, parts: usize) -> Result<Vec<StoredTensor>> {
        let (dtype, shape) = (whole.dtype, &whole.shape);
        let size = bytes_of(dtype)?;
        let uneven = || Error::invalid(format!("shape {shape:?} cannot be cut into {parts} parts"));
        let part = |shape: Vec<usize>, bytes: Vec<u8>| StoredTensor { dtype, shape, bytes };
        match (self, shape.as_slice()) {
            (Self::Same, _) => Ok(vec![whole.clone(); parts]),
            (Self::Rows | Self::Rotary(_), &[rows, columns]) => {
                let bytes = match self {
                    Self::Rotary(heads) if rows.is_multiple_of(heads.max(1)) => {
                        rotary(&whole.bytes, rows / heads.max(1), columns * size, false)
                    }
                    Self::Rotary(_) => return Err(uneven()),
                    _ => whole.bytes.clone(),
                };
                if !rows.is_multiple_of(parts) {
                    return Err(uneven());
                }
                let shape = vec![rows / parts, columns];
                Ok(chunks(&bytes, parts).map(|bytes| part(shape.clone(), bytes.to_vec())).collect())
            }
            (Self::Columns, &[rows, columns]) => {
                if !columns.is_multiple_of(parts) {
                    return Err(uneven());
                }
                let row = columns / parts * size;
                let of_part = |index: usize| {
                    let rows_of_part = whole.bytes.chunks_exact(row).skip(index).step_by(parts);
                    part(vec![rows, columns / parts], rows_of_part.flatten().copied().collect())
                };
                Ok((0..parts).map(of_part).collect())
            }
            (Self::HeadNorm(heads), &[rows, head_dim]) if rows == heads => {
                if !heads.is_multiple_of(parts) {
                    return Err(uneven());
                }
                let of_part = |group: &[u8]| {
                    let row = &group[..head_dim * size];
                    if group.chunks_exact(row.len()).any(|other| other != row) {
                        return Err(Error::invalid(format!(
                            "its rows differ within one of {parts} parts; the original layout has one row in each"
                        )));
                    }
                    Ok(part(vec![head_dim], rotary(row, head_dim, size, false)))
                };
                chunks(&whole.bytes, parts).map(of_part).collect()
            }
            _ => Err(uneven()),
        }
    }
}

/// The mean of `parts` of one format and shape; of equal ones their bytes.
fn mean(parts: &[StoredTensor]) -> Result<Vec<u8>> {
    let first = &parts[0];
    if parts.iter().all(|part| part.bytes == first.bytes) {
        return Ok(first.bytes.clone());
    }
    let dtype = match first.dtype {
        Dtype::F32 => StoredDtype::F32,
        Dtype::BF16 => StoredDtype::Bf16,
        Dtype::F16 => StoredDtype::F16,
        other => {
            return Err(Error::invalid(format!("its parts differ, and {other:?} has no mean")));
        }
    };
    let mut sums = vec![0.0_f32; first.shape.iter().product()];
    for part in parts {
        let values = part.to_data(FloatDType::F32)?;
        sums.iter_mut().zip(values.iter::<f32>()).for_each(|(sum, value)| *sum += value);
    }
    let mean = sums.iter().map(|sum| sum / parts.len() as f32);
    let bytes = mean.flat_map(f32::to_le_bytes).collect();
    let mean = StoredTensor { dtype: Dtype::F32, shape: first.shape.clone(), bytes };
    Ok(mean.convert(dtype)?.bytes)
}

fn chunks(bytes: &[u8], parts: usize) -> impl Iterator<Item = &[u8]> {
    bytes.chunks_exact((bytes.len() / parts).max(1))
}

/// Rows of `row` bytes in the other rotary order, head by head of `head_dim` rows: of a pair `i` the
/// original release keeps both channels side by side at `2 i`, Hugging Face half a head apart at `i`.
fn rotary(bytes: &[u8], head_dim: usize, row: usize, to_hugging_face: bool) -> Vec<u8> {
    let half = head_dim / 2;
    let mut turned = Vec::with_capacity(bytes.len());
    for head in bytes.chunks_exact((head_dim * row).max(1)) {
        for at in 0..head_dim {
            let from = match to_hugging_face {
                true => 2 * (at % half) + at / half,
                false => at % 2 * half + at / 2,
            };
            turned.extend_from_slice(&head[from * row..(from + 1) * row]);
        }
    }
    turned
}

fn bytes_of(dtype: Dtype) -> Result<usize> {
    match dtype.bitsize() {
        bits if bits % 8 == 0 => Ok(bits / 8),
        _ => Err(Error::invalid(format!("{dtype:?} values are smaller than a byte"))),
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;

    fn tensor(shape: &[usize]) -> StoredTensor {
        let bytes = (0..shape.iter().product::<usize>()).flat_map(|v| (v as u16).to_le_bytes());
        StoredTensor { dtype: Dtype::BF16, shape: shape.to_vec(), bytes: bytes.collect() }
    }

    fn values(tensor: &StoredTensor) -> Vec<u16> {
        tensor.bytes.chunks_exact(2).map(|b| u16::from_le_bytes([b[0], b[1]])).collect()
    }

    #[test]
    fn cutting_and_joining_give_the_same_bytes_back() {
        for (join, shape) in [
            (Join::Same, vec![6]),
            (Join::Rows, vec![8, 3]),
            (Join::Columns, vec![3, 8]),
            (Join::Rotary(4), vec![16, 3]),
        ] {
            for parts in [1, 2, 4] {
                let whole = tensor(&shape);
                let cut = join.split(&whole, parts).unwrap();
                assert_eq!(cut.len(), parts);
                assert_eq!(join.part_shape(&whole.shape, parts), Some(cut[0].shape.clone()));
                assert_eq!(join.join(&cut).unwrap(), whole, "{join:?} in {parts}");
            }
        }
        let rows = [tensor(&[4]), tensor(&[4])];
        let whole = Join::HeadNorm(6).join(&rows).unwrap();
        assert_eq!(Join::HeadNorm(6).split(&whole, 2).unwrap(), rows);
    }

    #[test]
    fn pairs_of_channels_move_half_a_head_apart() {
        let joined = Join::Rotary(1).join(&[tensor(&[6, 1])]).unwrap();
        assert_eq!(values(&joined), [0, 2, 4, 1, 3, 5]);
        let norm = Join::HeadNorm(2).join(&[tensor(&[4])]).unwrap();
        assert_eq!((values(&norm), norm.shape), (vec![0, 2, 1, 3, 0, 2, 1, 3], vec![2, 4]));
    }

    #[test]
    fn columns_of_the_parts_lie_side_by_side() {
        let parts = [tensor(&[2, 2]), tensor(&[2, 2])];
        assert_eq!(values(&Join::Columns.join(&parts).unwrap()), [0, 1, 0, 1, 2, 3, 2, 3]);
    }

    #[test]
    fn norms_that_differ_between_the_parts_are_averaged() {
        let part = |values: [f32; 2]| {
            let bytes = values.iter().flat_map(|v| v.to_le_bytes()).collect();
            StoredTensor { dtype: Dtype::F32, shape: vec![2], bytes }
        };
        let joined = Join::Same.join(&[part([1.0, 2.0]), part([2.0, 2.0])]).unwrap();
        assert_eq!(joined, part([1.5, 2.0]));
    }

    #[test]
    fn what_does_not_fit_is_refused() {
        assert!(Join::Rows.split(&tensor(&[3, 2]), 2).is_err());
        assert!(Join::Columns.split(&tensor(&[2, 3]), 2).is_err());
        let uneven = Join::HeadNorm(2).split(&tensor(&[2, 4]), 1).unwrap_err();
        assert!(uneven.to_string().contains("rows differ"));
        assert!(Join::Rows.join(&[tensor(&[2, 2]), tensor(&[3, 2])]).is_err());
    }
}
