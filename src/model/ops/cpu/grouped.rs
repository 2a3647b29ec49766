//! Products of groups of rows on the CPU.

use burn::backend::flex::FlexTensor;
use burn::backend::{Flex, TensorMetadata};
use burn::tensor::DType;
use half::bf16;
use kernels::grouped::{self, Groups};

use super::backend::{contiguous, floats, place, tensor};
use crate::model::ops::fused::GroupedKernels;

impl GroupedKernels for Flex {
    /// A row's result does not depend on the other rows.
    fn grouped_forward(x: FlexTensor, weights: FlexTensor, counts: &[usize]) -> FlexTensor {
        let (x, weights) = (contiguous(x), contiguous(weights));
        let groups = groups(&weights, counts);
        let y = match weights.dtype() {
            DType::BF16 => {
                grouped::forward(groups, floats(&x), &weights.storage::<bf16>()[place(&weights)])
            }
            _ => grouped::forward(groups, floats(&x), floats(&weights)),
        };
        tensor(y, &[x.shape()[0], groups.outputs])
    }

    fn grouped_on_tape(x: FlexTensor, weights: FlexTensor, counts: &[usize]) -> FlexTensor {
        let (x, weights) = (contiguous(x), contiguous(weights));
        let groups = groups(&weights, counts);
        let y = grouped::in_tiles(groups, floats(&x), floats(&weights));
        tensor(y, &[x.shape()[0], groups.outputs])
    }

    fn grouped_backward(
        x: Option<FlexTensor>,
        weights: FlexTensor,
        dy: FlexTensor,
        counts: &[usize],
        of_x: bool,
    ) -> [Option<FlexTensor>; 2] {
        let (weights, dy) = (contiguous(weights), contiguous(dy));
        let (groups, rows) = (groups(&weights, counts), dy.shape()[0]);
        let dx = of_x.then(|| grouped::backward_x(groups, floats(&dy), floats(&weights)));
        let d_weights = x.map(|x| {
            let dw = grouped::backward_w(groups, floats(&dy), floats(&contiguous(x)));
            tensor(dw, &[counts.len(), groups.outputs, groups.inputs])
        });
        [dx.map(|dx| tensor(dx, &[rows, groups.inputs])), d_weights]
    }
}

fn groups<'a>(weights: &FlexTensor, counts: &'a [usize]) -> Groups<'a> {
    let [_, outputs, inputs] = weights.shape().dims();
    Groups { counts, inputs, outputs }
}
