//! The scores of attention in memory, for [`attention_products`](super::attention_products): to weights, and the weights
//! to gradients of the scores, in place.
//!
//! Scores are matrices `[queries * group, keys]` of a chunk of queries and keys, one for every key head of every row of
//! the batch; the `group` query heads of a key head follow each other, place by place.

use std::ops::Range;

use burn::backend::TensorMetadata;
use burn::tensor::{DType, Shape};
use burn_cubecl::tensor::CubeTensor;
use cubecl::prelude::*;

use super::tile::{HIDDEN, Sizes};
use kernels::gpu::{argument, count, cubes, element, elementwise, empty, largest, sum};

/// Units per row of scores whose log-sum-exp is to be found.
const WHOLE: usize = 128;
/// Units per row of scores whose log-sum-exp is known.
const LINE: usize = 32;
/// Rows per cube of those.
const LINES: usize = 8;

/// The log-sum-exp of `scores[from..end]` over the units of the cube.
#[cube]
fn log_sum_exp(scores: &[f32], from: usize, end: usize) -> f32 {
    let mut top = f32::new(HIDDEN);
    let mut at = from + UNIT_POS_X as usize;
    while at < end {
        top = max(top, scores[at]);
        at += WHOLE;
    }
    let top = largest(top, WHOLE);
    let mut total = 0.0f32;
    let mut at = from + UNIT_POS_X as usize;
    while at < end {
        total += f32::exp(scores[at] - top);
        at += WHOLE;
    }
    top + f32::ln(sum(total, WHOLE, 1usize))
}

/// The weights of the scores, zeros for hidden keys; a line of units per row.
#[cube(launch)]
fn weights_kernel<F: Float>(
    scores: &[f32],
    first: &[i32],
    lse: &mut [f32], // [batch, heads, seq]
    weights: &mut [F],
    all: usize,  // rows of all matrices
    rows: usize, // of a matrix
    keys: usize,
    first_query: usize,
    first_key: usize,
    seq: usize,
    group: usize,
    kv_heads: usize,
    #[comptime] known: bool,
    #[define(F)] _element: ElemType,
) {
    let line = comptime!(if known { LINE } else { WHOLE });
    let lines = comptime!(if known { LINES } else { 1 });
    let at = CUBE_POS * lines + UNIT_POS_Y as usize;
    if at >= all {
        terminate!();
    }
    let (matrix, row) = (at / rows, at % rows);
    let query = first_query + row / group;
    let from = first[(matrix / kv_heads * seq + query) % first.len()] as usize;
    let from = min(max(from, first_key) - first_key, keys); // among the keys of the chunk
    let end = min(query + 1 - first_key, keys);
    let of_query = (matrix * group + row % group) * seq + query;
    let start = at * keys;
    let log_sum = if comptime!(known) {
        lse[of_query]
    } else {
        log_sum_exp(scores, start + from, start + end)
    };
    if comptime!(!known) && UNIT_POS_X == 0 {
        lse[of_query] = log_sum;
    }
    let mut key = UNIT_POS_X as usize;
    while key < keys {
        let mut weight = 0.0f32;
        if key >= from && key < end {
            weight = f32::exp(scores[start + key] - log_sum);
        }
        weights[start + key] = F::cast_from(weight);
        key += line;
    }
}

/// The gradients of the scores in place of the weights; those of hidden keys are zero as their weights are.
#[cube(launch)]
fn gradients_kernel<F: Float>(
    d_weights: &[f32],
    products: &[f32], // sum(y * dy) of every query, [batch, heads, seq]
    weights: &mut [F],
    all: usize,
    rows: usize,
    keys: usize,
    first_query: usize,
    seq: usize,
    group: usize,
    #[define(F)] _element: ElemType,
) {
    let at = CUBE_POS * LINES + UNIT_POS_Y as usize;
    if at >= all {
        terminate!();
    }
    let (matrix, row) = (at / rows, at % rows);
    let product = products[(matrix * group + row % group) * seq + first_query + row / group];
    let mut i = at * keys + UNIT_POS_X as usize;
    let end = (at + 1) * keys;
    while i < end {
        weights[i] = F::cast_from(f32::cast_from(weights[i]) * (d_weights[i] - product));
        i += LINE;
    }
}

/// Memory for the scores of one chunk after another.
pub(super) struct Scratch {
    sizes: Sizes,
    values: CubeTensor,
    weights: CubeTensor,
}

impl Scratch {
    /// Memory for `scores` scores of every query head of every row of the batch, on the device of `q` and with weights
    /// in its number format.
    pub(super) fn new(q: &CubeTensor, sizes: Sizes, scores: usize) -> Self {
        let [values, weights] = [DType::F32, q.dtype]
            .map(|dtype| empty(q, [sizes.batch * sizes.heads * scores], dtype));
        Self { sizes, values, weights }
    }

    /// The scores of a chunk, in place of those of the last one.
    pub(super) fn chunk(&self, queries: Range<usize>, keys: Range<usize>) -> Scores {
        let Sizes { batch, kv_heads, .. } = self.sizes;
        let shape = [batch * kv_heads, queries.len() * self.sizes.group(), keys.len()];
        let [values, weights] =
            [&self.values, &self.weights].map(|scratch| beginning(scratch, shape));
        Scores { sizes: self.sizes, queries, keys, values, weights }
    }

    /// Memory in f32 that is free between the last use of the scores of a chunk and the next chunk.
    pub(super) fn free(&self, shape: [usize; 3]) -> CubeTensor {
        beginning(&self.values, shape)
    }
}

/// The beginning of a flat tensor.
fn beginning(scratch: &CubeTensor, shape: [usize; 3]) -> CubeTensor {
    let CubeTensor { client, device, handle, dtype, .. } = scratch.clone();
    CubeTensor::new_contiguous(client, device, Shape::from(shape), handle, dtype)
}

/// The scores of a chunk, and their weights or gradients.
pub(super) struct Scores {
    sizes: Sizes,
    queries: Range<usize>,
    keys: Range<usize>,
    /// In f32 `[batch * kv_heads, queries * group, keys]`: scores, later the gradients of the weights.
    pub(super) values: CubeTensor,
    /// The same shape: weights, later the gradients of the scores.
    pub(super) weights: CubeTensor,
}

impl Scores {
    /// Writes the weights of the scores, with log-sum-exps that are `known` or written to `lse`, for which all keys
    /// of the queries have to be in the chunk.
    pub(super) fn weigh(&self, first: &CubeTensor, lse: &CubeTensor, known: bool) {
        let Sizes { kv_heads, seq, .. } = self.sizes;
        let (all, rows) = self.rows();
        let units = if known { [LINE, LINES] } else { [WHOLE, 1] };
        let [x, y] = units.map(|units| units as u32);
        let inputs = [&self.values, first, lse, &self.weights];
        let [scores, first, lse, weights] = inputs.map(|x| argument(x.clone()));
        weights_kernel::launch(
            &self.values.client,
            cubes(all.div_ceil(units[1])),
            CubeDim::new_2d(x, y),
            scores,
            first,
            lse,
            weights,
            all,
            rows,
            self.keys.len(),
            self.queries.start,
            self.keys.start,
            seq,
            self.sizes.group(),
            kv_heads,
            known,
            element(&self.weights),
        );
    }

    /// Replaces the weights by the gradients of the scores; `values` are those of the weights.
    pub(super) fn differentiate(&self, products: &CubeTensor) {
        let (all, rows) = self.rows();
        let inputs = [&self.values, products, &self.weights];
        let [d_weights, products, weights] = inputs.map(|x| argument(x.clone()));
        gradients_kernel::launch(
            &self.values.client,
            cubes(all.div_ceil(LINES)),
            CubeDim::new_2d(LINE as u32, LINES as u32),
            d_weights,
            products,
            weights,
            all,
            rows,
            self.keys.len(),
            self.queries.start,
            self.sizes.seq,
            self.sizes.group(),
            element(&self.weights),
        );
    }

    /// Rows of all matrices and of one.
    fn rows(&self) -> (usize, usize) {
        let [matrices, rows, _] = self.values.shape().dims();
        (matrices * rows, rows)
    }
}

/// Adds matrices to rows of others, of which those from `done` on, counted in elements, hold nothing yet.
#[cube(launch)]
fn add_kernel(
    part: &[f32],
    total: &mut [f32],
    len: usize, // of a matrix
    total_len: usize,
    start: usize,
    done: usize,
) {
    if ABSOLUTE_POS < part.len() {
        let (matrix, at) = (ABSOLUTE_POS / len, start + ABSOLUTE_POS % len);
        let mut value = part[ABSOLUTE_POS];
        if at < done {
            value += total[matrix * total_len + at];
        }
        total[matrix * total_len + at] = value;
    }
}

/// Adds `part` `[matrices, rows, width]` to the rows from `start` on of `total`, whose rows from `done` on hold nothing
/// yet.
pub(super) fn add_rows(part: CubeTensor, total: &CubeTensor, start: usize, done: usize) {
    let [matrices, rows, width] = part.shape().dims();
    let (cubes, units) = elementwise(count(&part));
    let (client, part) = (part.client.clone(), argument(part));
    let (len, total_len) = (rows * width, count(total) / matrices);
    let (start, done) = (start * width, done * width);
    let total = argument(total.clone());
    add_kernel::launch(&client, cubes, units, part, total, len, total_len, start, done);
}

#[cube(launch)]
fn split_kernel<F: Float>(
    from: &[f32],
    to: &mut [F], // [batch, heads, seq, width]
    seq: usize,
    group: usize,
    width: usize,
    #[define(F)] _element: ElemType,
) {
    if ABSOLUTE_POS < to.len() {
        let (row, column) = (ABSOLUTE_POS / width, ABSOLUTE_POS % width);
        let (head, place) = (row / seq, row % seq); // of all heads of the batch
        let row = (head / group * seq + place) * group + head % group;
        to[ABSOLUTE_POS] = F::cast_from(from[row * width + column]);
    }
}

/// Sums `[batch * kv_heads, seq * group, width]` in `dtype` as `[batch, heads, seq, width]`.
pub(super) fn split_groups(sums: CubeTensor, sizes: Sizes, dtype: DType) -> CubeTensor {
    let Sizes { batch, heads, seq, width, .. } = sizes;
    let y = empty(&sums, [batch, heads, seq, width], dtype);
    let (client, types) = (sums.client.clone(), element(&y));
    let (cubes, units) = elementwise(count(&y));
    let (from, to) = (argument(sums), argument(y.clone()));
    split_kernel::launch(&client, cubes, units, from, to, seq, sizes.group(), width, types);
    y
}
