//! The position of a tensor's values in a file.

use std::ops::Range;

use super::contents::PickledTensor;
use super::escape::escaped;
use super::tensor_info::{TensorInfo, element_len};

/// A tensor's bytes in a file: runs of equal length, repeated along the outer axes.
#[derive(Debug)]
pub(super) struct Place {
    /// Byte of the file at which the first run begins.
    pub start: u64,
    /// Bytes of a run; all bytes of a contiguous tensor.
    pub run: usize,
    /// Count and distance in bytes of the runs, outermost axis first; empty for a contiguous tensor.
    outer: Vec<(usize, usize)>,
}

impl Place {
    /// The place of `tensor`, which is checked to be within its `storage`; `Err` says what is wrong.
    pub(super) fn of(
        tensor: &PickledTensor<'_>,
        storage: Option<Range<u64>>,
    ) -> Result<Self, String> {
        let PickledTensor { dtype, offset, shape, strides, .. } = tensor;
        let Some(range) = storage else {
            return Err(format!("its storage data/{} is missing", escaped(tensor.storage)));
        };
        let element = element_len(*dtype);
        let len = TensorInfo { dtype: *dtype, shape: shape.clone() }.bytes_len();
        let stored = range.end - range.start;
        let past = last_index(*offset, shape, strides)
            .and_then(|last| last.checked_add(1)?.checked_mul(element as u64));
        match (len, past) {
            (Some(0), _) => Ok(Self::new(range.start, element, shape, strides)),
            (Some(len), Some(past)) if past <= stored && len as u64 <= stored => {
                Ok(Self::new(range.start + offset * element as u64, element, shape, strides))
            }
            (_, Some(past)) if past <= stored => Err(format!(
                "{shape:?} repeats values of a storage of {stored} bytes; save a clone"
            )),
            _ => Err(format!(
                "{shape:?} of {dtype:?} with strides {strides:?} from {offset} is more than its \
                 storage of {stored} bytes"
            )),
        }
    }

    fn new(start: u64, element: usize, shape: &[usize], strides: &[usize]) -> Self {
        if shape.contains(&0) {
            return Self { start, run: 0, outer: Vec::new() };
        }
        let (mut run, mut outer) = (element, Vec::new());
        // The stride of an axis of size 1 is meaningless.
        let axes = shape.iter().zip(strides).rev().filter(|(size, _)| **size > 1);
        for (&size, &stride) in axes {
            let step = stride * element;
            if outer.is_empty() && step == run {
                run *= size;
            } else {
                outer.push((size, step));
            }
        }
        outer.reverse();
        Self { start, run, outer }
    }

    /// Whether all values are one run.
    pub(super) fn is_contiguous(&self) -> bool {
        self.outer.is_empty()
    }

    /// Bytes from the first value to the end of the last one.
    pub(super) fn span(&self) -> usize {
        self.outer.iter().map(|&(count, step)| (count - 1) * step).sum::<usize>() + self.run
    }

    /// The values in row-major order, out of the [`span`](Self::span) of the file.
    pub(super) fn gather(&self, span: &[u8]) -> Vec<u8> {
        let runs: usize = self.outer.iter().map(|(count, _)| count).product();
        let mut bytes = Vec::with_capacity(runs * self.run);
        let mut index = vec![0; self.outer.len()];
        let mut at = 0;
        for _ in 0..runs {
            bytes.extend_from_slice(&span[at..at + self.run]);
            for (index, &(count, step)) in index.iter_mut().zip(&self.outer).rev() {
                *index += 1;
                at += step;
                if *index < count {
                    break;
                }
                *index = 0;
                at -= count * step;
            }
        }
        bytes
    }
}

/// Index in the storage of the last value of a tensor without empty axes; `None` on overflow.
fn last_index(offset: u64, shape: &[usize], strides: &[usize]) -> Option<u64> {
    shape.iter().zip(strides).try_fold(offset, |last, (&size, &stride)| {
        last.checked_add((size as u64).saturating_sub(1).checked_mul(stride as u64)?)
    })
}
