//! `x W^T`, in one order of arithmetic whatever the number of rows; see `dots.rs`.
//!
//! A general product packs the weights first, which costs a decoding step more than the product
//! itself: here every weight is read in memory order, once for all rows that fit the cache. Weights in
//! bfloat16 are widened as they are read, so they take half the memory and, where memory bandwidth is
//! the limit, half the time; everything else is f32.

#[cfg(test)]
mod tests;

use half::bf16;
use rayon::prelude::*;

use super::buffer::Buffer;
use super::dots::{Groups, Lines, Rows, Target, products};
use super::lanes::{Portable, Simd};
use super::matrix::Element;
use super::memory::unspecified;
use super::simd::LANES;

/// Multiplications below which a second thread costs more than it saves.
const PARALLEL: usize = 1 << 15;

/// Elements of the rows of one task, which stay in the second-level cache.
const BLOCK: usize = 1 << 17;

/// Minimum and maximum number of rows of one task, if there are as many.
const ROWS: [usize; 2] = [32, 256];

/// Minimum number of outputs of one task, if there are as many.
const OUTPUTS: usize = 48;

/// Tasks per thread, if there are enough rows and outputs: a thread that is held up takes fewer.
const TASKS: usize = 4;

/// Rows up to which this operation is faster than a product in tiles, and packing rows costs more than it saves.
pub const FEW: usize = 16;

/// A number format of weights.
pub trait Weight: Element {
    /// [`forward`] for this format. Not generic, so that it is compiled in this crate.
    fn forward(x: &[f32], w: &[Self], inputs: usize) -> Vec<f32>;
}

impl Weight for f32 {
    fn forward(x: &[f32], w: &[Self], inputs: usize) -> Vec<f32> {
        dispatch(x, w, inputs, x.len() * (w.len() / inputs) >= PARALLEL)
    }
}

impl Weight for bf16 {
    fn forward(x: &[f32], w: &[Self], inputs: usize) -> Vec<f32> {
        dispatch(x, w, inputs, x.len() * (w.len() / inputs) >= PARALLEL)
    }
}

/// `x w^T`.
///
/// # Shapes
/// `x` `[rows, inputs]`, `w` `[outputs, inputs]`; returns `[rows, outputs]`.
pub fn forward<E: Weight>(x: &[f32], w: &[E], inputs: usize) -> Vec<f32> {
    E::forward(x, w, inputs)
}

/// [`forward`] on the calling thread.
pub(crate) fn forward_here(x: &[f32], w: &[f32], inputs: usize) -> Vec<f32> {
    dispatch(x, w, inputs, false)
}

fn dispatch<E: Element>(x: &[f32], w: &[E], inputs: usize, parallel: bool) -> Vec<f32> {
    #[cfg(target_arch = "x86_64")]
    {
        if let Some(simd) = pulp::x86::V4::try_new() {
            return match x.len() / inputs {
                1 => forward_by::<_, E, 1, 8>(simd, x, w, inputs, parallel),
                2 => forward_by::<_, E, 2, 8>(simd, x, w, inputs, parallel),
                3 => forward_by::<_, E, 3, 8>(simd, x, w, inputs, parallel),
                _ => forward_by::<_, E, 4, 6>(simd, x, w, inputs, parallel),
            };
        }
        if let Some(simd) = pulp::x86::V3::try_new() {
            return forward_by::<_, E, 2, 3>(simd, x, w, inputs, parallel);
        }
    }
    forward_by::<_, E, 2, 3>(Portable, x, w, inputs, parallel)
}

/// Some rows of `x`, some of `w`, and where their products go: one slice for each row of `x`.
struct Task<'a, E> {
    x: Rows<'a, f32>,
    w: Rows<'a, E>,
    y: Vec<&'a mut [f32]>,
}

/// [`forward`] in tiles of `R` rows and `N` outputs.
fn forward_by<S: Simd, E: Element, const R: usize, const N: usize>(
    simd: S,
    x: &[f32],
    w: &[E],
    inputs: usize,
    parallel: bool,
) -> Vec<f32> {
    let (rows, outputs) = (x.len() / inputs, w.len() / inputs);
    let mut y = unspecified(rows * outputs);
    if y.is_empty() {
        return y;
    }
    let [fewest, most] = ROWS;
    let block = (BLOCK / inputs).clamp(fewest, most).next_multiple_of(R);
    let parts = (TASKS * rayon::current_num_threads()).div_ceil(rows.div_ceil(block).max(1));
    let at_once = outputs.div_ceil(parts).max(OUTPUTS).next_multiple_of(N);
    let mut tasks = Vec::new();
    for (x, y) in x.chunks(block * inputs).zip(y.chunks_mut(block * outputs)) {
        let first = tasks.len();
        let x = Rows { data: x, len: inputs };
        for w in w.chunks(at_once * inputs) {
            let w = Rows { data: w, len: inputs };
            tasks.push(Task { x, w, y: Vec::with_capacity(block.min(rows)) });
        }
        for y in y.chunks_exact_mut(outputs) {
            for (task, y) in tasks[first..].iter_mut().zip(y.chunks_mut(at_once)) {
                task.y.push(y);
            }
        }
    }
    let run = |task: Task<'_, E>| {
        simd.run(
            #[inline(always)]
            || run::<S, E, R, N>(simd, task),
        );
    };
    if parallel {
        tasks.into_par_iter().with_max_len(1).for_each(run);
    } else {
        tasks.into_iter().for_each(run);
    }
    y
}

/// From some rows on both factors are packed, and weights in bfloat16 are widened once for all rows; the
/// order of the sums does not depend on that.
#[inline(always)]
fn run<S: Simd, E: Element, const R: usize, const N: usize>(simd: S, task: Task<'_, E>) {
    let Task { x, w, mut y } = task;
    let (rows, outputs, stride) = (y.len(), y[0].len(), x.len - x.len % LANES);
    let packs_x = rows > FEW;
    let narrow = size_of::<E>() < size_of::<f32>();
    let packs_w = if narrow { rows > R } else { packs_x && !starts_on_lines(w) };
    let full = rows.next_multiple_of(R);
    let lens = [full * stride * usize::from(packs_x), N * stride * usize::from(packs_w)];
    let mut buffer = Buffer::take(lens[0] + lens[1] + full * N * LANES);
    let (x_memory, buffer) = buffer.split_at_mut(lens[0]);
    let (w_memory, sums) = buffer.split_at_mut(lens[1]);
    let panels = x.packed::<R>(x_memory);
    let mut first = 0;
    while first + N <= outputs {
        let w = w.from(first);
        let target = Target { y: &mut y, first, sums };
        match (packs_x, packs_w) {
            (true, true) => {
                let tile = w.first(N).packed::<N>(w_memory).group(0);
                products(simd, (x, panels), (w, tile), target);
            }
            (true, false) => {
                let tile: [_; N] = w.group(0);
                products(simd, (x, panels), (w, tile), target);
            }
            (false, true) => {
                let tile = w.first(N).packed::<N>(w_memory).group(0);
                in_place::<S, E, _, R, N>(simd, x, (w, tile), target);
            }
            (false, false) => {
                let tile: [_; N] = w.group(0);
                in_place::<S, E, _, R, N>(simd, x, (w, tile), target);
            }
        }
        first += N;
    }
    for first in first..outputs {
        let w = w.from(first);
        let target = Target { y: &mut y, first, sums };
        let tile: [_; 1] = w.group(0);
        in_place::<S, E, _, R, 1>(simd, x, (w, tile), target);
    }
}

/// The products of all rows of `x`, read where they are.
#[inline(always)]
fn in_place<S: Simd, E: Element, W: Lines<N>, const R: usize, const N: usize>(
    simd: S,
    x: Rows<'_, f32>,
    w: (Rows<'_, E>, W),
    target: Target<'_, '_>,
) {
    let Target { y, first, sums } = target;
    let whole = y.len() - y.len() % R;
    let (y, rest) = y.split_at_mut(whole);
    let target = Target { y, first, sums: &mut *sums };
    products::<S, E, R, N>(simd, (x, x), w, target);
    let x = x.from(whole);
    products::<S, E, 1, N>(simd, (x, x), w, Target { y: rest, first, sums });
}

/// Whether every row starts on a cache line.
fn starts_on_lines<E>(rows: Rows<'_, E>) -> bool {
    let line = LANES * size_of::<f32>();
    rows.data.as_ptr().addr().is_multiple_of(line)
        && (rows.len * size_of::<E>()).is_multiple_of(line)
}
