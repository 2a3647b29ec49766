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

/// Writes `silu(gate) * up` to `y` for rows of `x` that are a gate and an up of `inner` elements each.
///
/// # Shapes
/// `x` `[rows, 2 * inner]`, `y` `[rows, inner]`.
pub fn halves_forward(x: &[f32], inner: usize, y: &mut [f32]) {
    let rows = (ELEMENTS / inner).max(1);
    let part = |(y, x): (&mut [f32], &[f32])| {
        vectorized(
            #[inline(always)]
            || {
                for (y, x) in y.chunks_exact_mut(inner).zip(x.chunks_exact(2 * inner)) {
                    let (gate, up) = x.split_at(inner);
                    forward_part(gate, up, y);
                }
            },
        );
    };
    if y.len() <= ELEMENTS {
        return part((y, x));
    }
    y.par_chunks_mut(rows * inner).zip(x.par_chunks(2 * rows * inner)).for_each(part);
}

/// Replaces the rows of `x` of [`halves_forward`] by their gradients.
pub fn halves_backward(x: &mut [f32], inner: usize, dy: &[f32]) {
    let rows = (ELEMENTS / inner).max(1);
    let blocks = x.par_chunks_mut(2 * rows * inner).zip(dy.par_chunks(rows * inner));
    blocks.for_each(|(x, dy)| {
        vectorized(
            #[inline(always)]
            || {
                for (x, dy) in x.chunks_exact_mut(2 * inner).zip(dy.chunks_exact(inner)) {
                    let (gate, up) = x.split_at_mut(inner);
                    backward_part(gate, up, dy);
                }
            },
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
