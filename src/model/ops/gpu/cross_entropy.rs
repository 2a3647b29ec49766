//! Cross-entropy over rows of logits: a cube per row.

use burn::backend::TensorMetadata;
use burn::tensor::DType;
use burn_cubecl::kernel::into_contiguous;
use burn_cubecl::tensor::CubeTensor;
use cubecl::prelude::*;

use kernels::gpu::{argument, cubes, element, empty, largest, owned, sum};

/// Units per row.
const LINE: usize = 256;

/// Replaces `logits` by the gradient if `backward` is set; see [`crate::model::ops::cross_entropy`].
#[cube(launch)]
fn kernel<F: Float>(
    logits: &mut [F], // [rows, vocab]
    targets: &[i32],
    weights: &[f32],
    stats: &mut [f32], // [rows, 4]
    vocab: usize,
    z: f32,
    #[comptime] backward: bool,
    #[define(F)] _element: ElemType,
) {
    let row = CUBE_POS;
    if row >= targets.len() {
        terminate!();
    }
    let start = row * vocab;
    let unit = UNIT_POS_X as usize;
    let target = targets[row] as usize;
    let at_target = f32::cast_from(logits[start + target]);
    let mut top = at_target;
    let mut column = unit;
    while column < vocab {
        top = max(top, f32::cast_from(logits[start + column]));
        column += LINE;
    }
    let top = largest(top, LINE);
    let mut exponentials = 0.0f32;
    let mut moment = 0.0f32;
    let mut column = unit;
    while column < vocab {
        let shifted = f32::cast_from(logits[start + column]) - top;
        let exponential = f32::exp(shifted);
        exponentials += exponential;
        moment += exponential * shifted;
        column += LINE;
    }
    let total = sum(exponentials, LINE, 1usize);
    let moment = sum(moment, LINE, 1usize);
    let log_sum = f32::ln(total);
    let log_sum_exp = top + log_sum;
    if unit == 0 {
        stats[row * 4] = at_target - log_sum_exp;
        stats[row * 4 + 1] = log_sum_exp;
        stats[row * 4 + 2] = log_sum - moment / total;
        stats[row * 4 + 3] = 0.0f32;
        if at_target >= top {
            stats[row * 4 + 3] = 1.0f32;
        }
    }
    if comptime!(backward) {
        let weight = weights[row];
        let scale = (weight + z * log_sum_exp) / total;
        let mut column = unit;
        while column < vocab {
            let mut gradient = f32::exp(f32::cast_from(logits[start + column]) - top) * scale;
            if column == target {
                gradient -= weight;
            }
            logits[start + column] = F::cast_from(gradient);
            column += LINE;
        }
    }
}

fn launch(
    logits: &CubeTensor,
    targets: CubeTensor,
    weights: CubeTensor,
    z: f32,
    backward: bool,
) -> CubeTensor {
    let [rows, vocab] = logits.shape().dims();
    let stats = empty(logits, [rows, 4], DType::F32);
    let (client, types, units) = (&logits.client, element(logits), CubeDim::new_1d(LINE as u32));
    let logits = argument(logits.clone());
    let [targets, weights] = [targets, weights].map(|x| argument(into_contiguous(x)));
    let to = argument(stats.clone());
    kernel::launch(
        client,
        cubes(rows),
        units,
        logits,
        targets,
        weights,
        to,
        vocab,
        z,
        backward,
        types,
    );
    stats
}

/// The gradient, in place if `logits` share their memory with no other tensor, and the statistics.
pub(super) fn backward(
    logits: CubeTensor,
    targets: CubeTensor,
    weights: CubeTensor,
    z: f32,
) -> [CubeTensor; 2] {
    let logits = owned(logits);
    let stats = launch(&logits, targets, weights, z, true);
    [logits, stats]
}

pub(super) fn forward(logits: CubeTensor, targets: CubeTensor) -> CubeTensor {
    let logits = into_contiguous(logits);
    let [rows, _] = logits.shape().dims();
    let unused = empty(&logits, [rows], DType::F32);
    launch(&logits, targets, unused, 0.0, false)
}
