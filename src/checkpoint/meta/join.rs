//! Joining and cutting the tensors of a model that was trained in parts.
//!
//! The original release has a file for each part: matrices are cut along one axis, query and key norms
//! have one row in each part, other norms are the same in all. Its rotary embedding rotates adjacent
//! channels, Hugging Face's channels half a head apart, so the rows of queries and keys and the entries
//! of their norms are in another order.

use burn::tensor::FloatDType;
use safetensors::Dtype;
use tensor_files::{StoredDtype, StoredTensor};

use crate::error::{Error, Result};

/// How the parts of a tensor join.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Join {
    /// The same in every part.
    Same,
    /// Rows after rows.
    Rows,
    /// Columns after columns.
    Columns,
    /// Rows of this many heads, in rotary order.
    Rotary(usize),
    /// A head norm of this many heads with one row in each part, in rotary order.
    HeadNorm(usize),
}

impl Join {
    /// The shape in Hugging Face's layout of a tensor of `parts` parts of shape `part`.
    ///
    /// `None` if a part cannot have this shape.
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

    /// The shape of each of `parts` parts of a tensor of shape `whole` in Hugging Face's layout.
    ///
    /// `None` if it cannot be cut into this many.
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

    /// The whole tensor in Hugging Face's layout.
    ///
    /// Norms that should be the same in every part but differ are averaged, as in transformers.
    ///
    /// # Errors
    /// If the parts differ in format or shape, or cannot have this shape.
    pub fn join(self, parts: &[StoredTensor]) -> Result<StoredTensor> {
        let first = parts.first().ok_or_else(|| Error::invalid("no part"))?;
        if parts.iter().any(|part| (part.dtype, &part.shape) != (first.dtype, &first.shape)) {
            return Err(Error::invalid("its parts differ in format or shape"));
        }
        let shape = self.whole_shape(&first.shape, parts.len()).ok_or_else(|| {
            let (shape, parts) = (&first.shape, parts.len());
            Error::invalid(format!("{parts} parts of shape {shape:?} do not join"))
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
                rotary(&joined, shape[0] / heads.max(1), shape[1] * element_len(first.dtype)?, true)
            }
            Self::HeadNorm(heads) => {
                let (size, copies) = (element_len(first.dtype)?, heads / parts.len());
                let rows = parts.iter().map(|part| rotary(&part.bytes, shape[1], size, true));
                rows.flat_map(|row| row.repeat(copies)).collect()
            }
        };
        Ok(StoredTensor { dtype: first.dtype, shape, bytes })
    }

    /// The parts of a whole tensor, from which [`join`](Self::join) restores it.
    ///
    /// # Errors
    /// If it cannot be cut into this many parts, or the rows of a head norm differ within a part.
    pub fn split(self, whole: &StoredTensor, parts: usize) -> Result<Vec<StoredTensor>> {
        let (dtype, shape) = (whole.dtype, &whole.shape);
        let size = element_len(dtype)?;
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
                            "its rows differ within one of {parts} parts, which have one row each in the \
                             original layout"
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

/// The mean of `parts` of the same format and shape; the bytes of equal ones.
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

/// `bytes` in `parts` parts of equal length.
fn chunks(bytes: &[u8], parts: usize) -> impl Iterator<Item = &[u8]> {
    bytes.chunks_exact((bytes.len() / parts).max(1))
}

/// Rows of `row` bytes in the other rotary order, for each head of `head_dim` rows.
///
/// The channels of pair `i` are at `2 i` and `2 i + 1` in the original release, at `i` and half a head
/// later in Hugging Face's layout.
fn rotary(bytes: &[u8], head_dim: usize, row: usize, to_hugging_face: bool) -> Vec<u8> {
    let half = head_dim / 2;
    let mut reordered = Vec::with_capacity(bytes.len());
    for head in bytes.chunks_exact((head_dim * row).max(1)) {
        for at in 0..head_dim {
            let from = match to_hugging_face {
                true => 2 * (at % half) + at / half,
                false => at % 2 * half + at / 2,
            };
            reordered.extend_from_slice(&head[from * row..(from + 1) * row]);
        }
    }
    reordered
}

/// Bytes of an element.
///
/// # Errors
/// If it is smaller than a byte.
pub fn element_len(dtype: Dtype) -> Result<usize> {
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
    fn columns_of_parts_are_side_by_side() {
        let parts = [tensor(&[2, 2]), tensor(&[2, 2])];
        assert_eq!(values(&Join::Columns.join(&parts).unwrap()), [0, 1, 0, 1, 2, 3, 2, 3]);
    }

    #[test]
    fn norms_that_differ_between_parts_are_averaged() {
        let part = |values: [f32; 2]| {
            let bytes = values.iter().flat_map(|v| v.to_le_bytes()).collect();
            StoredTensor { dtype: Dtype::F32, shape: vec![2], bytes }
        };
        let joined = Join::Same.join(&[part([1.0, 2.0]), part([2.0, 2.0])]).unwrap();
        assert_eq!(joined, part([1.5, 2.0]));
    }

    #[test]
    fn tensors_that_do_not_fit_are_refused() {
        assert!(Join::Rows.split(&tensor(&[3, 2]), 2).is_err());
        assert!(Join::Columns.split(&tensor(&[2, 3]), 2).is_err());
        let uneven = Join::HeadNorm(2).split(&tensor(&[2, 4]), 1).unwrap_err();
        assert!(uneven.to_string().contains("rows differ"));
        assert!(Join::Rows.join(&[tensor(&[2, 2]), tensor(&[3, 2])]).is_err());
    }
}
