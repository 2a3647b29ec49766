//! `silu(gate) * up`, element by element.

use rayon::prelude::*;

use super::math::sigmoid;
use super::simd::vectorized;

/// Elements per task.
const ELEMENTS: usize = 1 << 14;

/// Writes `silu(gate) * up` to `y`; all three have one length.
pub fn forward(gate: &[f32], up: &[f32], y: &mut [f32]) {
    if y.len() <= ELEMENTS {
        return vectorized(
            #[inline(always)]
            || forward_part(gate, up, y),
        );
    }
    let inputs = gate.par_chunks(ELEMENTS).zip(up.par_chunks(ELEMENTS));
    y.par_chunks_mut(ELEMENTS).zip(inputs).for_each(|(y, (gate, up))| {
        vectorized(
            #[inline(always)]
            || forward_part(gate, up, y),
        );
    });
}

/// Replaces `gate` and `up` by their gradients.
pub fn backward(gate: &mut [f32], up: &mut [f32], dy: &[f32]) {
    let arrays = gate.par_chunks_mut(ELEMENTS).zip(up.par_chunks_mut(ELEMENTS));
    arrays.zip(dy.par_chunks(ELEMENTS)).for_each(|((gate, up), dy)| {
        vectorized(
            #[inline(always)]
            || backward_part(gate, up, dy),
        );
    });
}

#[inline(always)]
fn forward_part(gate: &[f32], up: &[f32], y: &mut [f32]) {
    for ((y, gate), up) in y.iter_mut().zip(gate).zip(up) {
        *y = gate * sigmoid(*gate) * up;
    }
}

#[inline(always)]
fn backward_part(gate: &mut [f32], up: &mut [f32], dy: &[f32]) {
    for ((gate, up), dy) in gate.iter_mut().zip(up.iter_mut()).zip(dy) {
        let open = sigmoid(*gate);
        let silu = *gate * open;
        *gate = dy * *up * (open + silu * (1.0 - open));
        *up = dy * silu;
    }
}
