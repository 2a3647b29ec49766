//! Attention in blocks of queries: scores, softmax and weighted sum of a block stay in the cache, and
//! keys that no query of the block sees are not read.
//!
//! The forward pass keeps the logarithm of the softmax's denominator, from which the backward pass
//! recomputes the weights (arXiv 2205.14135).

use std::ops::Range;

use rayon::prelude::*;

use super::math::{dot, exp_shifted, largest};
use super::matrix::{Matrix, Store};
use super::memory::unspecified;
use super::product::small;
use super::simd::vectorized;
use super::spans::Spans;

/// Queries per block.
const BLOCK: usize = 64;

/// A tensor of four axes, the last of them contiguous.
#[derive(Clone, Copy, Debug)]
pub struct View<'a> {
    /// The elements, starting with the first.
    pub data: &'a [f32],
    /// Sizes.
    pub dims: [usize; 4],
    /// Strides of the first three axes.
    pub strides: [usize; 3],
}

impl<'a> View<'a> {
    /// The rows of the third axis from `from` on.
    fn matrix(&self, first: usize, second: usize, from: usize) -> Matrix<'a> {
        let [a, b, c] = self.strides;
        Matrix::rows(&self.data[first * a + second * b + from * c..], c)
    }

    #[inline(always)]
    fn row(&self, first: usize, second: usize, third: usize) -> &'a [f32] {
        let [a, b, c] = self.strides;
        let start = first * a + second * b + third * c;
        &self.data[start..start + self.dims[3]]
    }
}

/// Inputs of both passes.
#[derive(Clone, Copy, Debug)]
pub struct Inputs<'a> {
    /// `[batch, heads, seq, head_dim]`, scaled.
    pub q: View<'a>,
    /// `[batch, kv_heads, seq, head_dim]`.
    pub k: View<'a>,
    /// `[batch, kv_heads, seq, value_dim]`.
    pub v: View<'a>,
    /// The visible keys.
    pub spans: Spans<'a>,
}

impl Inputs<'_> {
    fn visible(&self, row: usize, query: usize) -> Range<usize> {
        self.spans.range(row, query)
    }

    /// An interval with all keys that any of the queries sees.
    fn visible_to_any(&self, row: usize, queries: Range<usize>) -> Range<usize> {
        let ranges = queries.map(|query| self.visible(row, query));
        let all = ranges.reduce(|a, b| a.start.min(b.start)..a.end.max(b.end));
        all.unwrap_or(0..0)
    }

    fn group(&self) -> usize {
        self.q.dims[1] / self.k.dims[1]
    }

    /// Elements of a value, and of a result.
    fn value_dim(&self) -> usize {
        self.v.dims[3]
    }
}

/// Writes the weighted values to `y` and the logarithms of the denominators to `lse`.
///
/// # Shapes
/// `y` `[batch, seq, heads, value_dim]`, `lse` `[batch, seq, heads]`.
pub fn forward(inputs: Inputs<'_>, y: &mut [f32], lse: &mut [f32]) {
    let [_, heads, seq, _] = inputs.q.dims;
    let width = heads * inputs.value_dim();
    let blocks: Vec<_> = y
        .chunks_mut(seq * width)
        .zip(lse.chunks_mut(seq * heads))
        .enumerate()
        .flat_map(|(row, (y, lse))| {
            let parts = y.chunks_mut(BLOCK * width).zip(lse.chunks_mut(BLOCK * heads));
            parts.enumerate().map(move |(block, part)| (row, block * BLOCK, part))
        })
        .collect();
    blocks.into_par_iter().for_each(|(row, start, (y, lse))| {
        forward_block(&inputs, row, start, y, lse);
    });
}

/// All heads of the queries from `start` on, as many as `y` has rows.
fn forward_block(inputs: &Inputs<'_>, row: usize, start: usize, y: &mut [f32], lse: &mut [f32]) {
    let ([_, heads, _, head_dim], value_dim) = (inputs.q.dims, inputs.value_dim());
    let width = heads * value_dim;
    let queries = start..start + y.len() / width;
    let seen = inputs.visible_to_any(row, queries.clone());
    let (count, keys) = (queries.len(), seen.len());
    let mut weights = unspecified(count * keys); // [queries, keys]
    for head in 0..heads {
        let kv_head = head / inputs.group();
        let q = inputs.q.matrix(row, head, start);
        let k = inputs.k.matrix(row, kv_head, seen.start);
        let v = inputs.v.matrix(row, kv_head, seen.start);
        small(Store::Overwrite, (&mut weights, keys), q, k.transposed(), [count, keys, head_dim]);
        for (i, weights) in weights.chunks_exact_mut(keys).enumerate() {
            let visible = inputs.visible(row, start + i);
            let (from, to) = (visible.start - seen.start, visible.end - seen.start);
            lse[i * heads + head] = vectorized(
                #[inline(always)]
                || softmax(weights, from, to),
            );
        }
        let y = &mut y[head * value_dim..];
        small(
            Store::Overwrite,
            (y, width),
            Matrix::rows(&weights, keys),
            v,
            [count, value_dim, keys],
        );
    }
}

/// Softmax over `from..to` of a row of scores, zeros elsewhere. Returns the logarithm of the denominator.
#[inline(always)]
fn softmax(row: &mut [f32], from: usize, to: usize) -> f32 {
    row[..from].fill(0.0);
    row[to..].fill(0.0);
    let scores = &mut row[from..to];
    let top = largest(scores);
    let sum = exp_shifted(scores, top);
    let scale = 1.0 / sum;
    for score in scores {
        *score *= scale;
    }
    top + sum.ln()
}

/// `exp(score - lse)` over `from..to`, zeros elsewhere.
#[inline(always)]
fn recomputed_weights(row: &mut [f32], from: usize, to: usize, lse: f32) {
    row[..from].fill(0.0);
    row[to..].fill(0.0);
    exp_shifted(&mut row[from..to], lse);
}

/// Turns a row of gradients of the weights into those of the scores: `weight * (d - dot(dy, y))`.
#[inline(always)]
fn softmax_backward(d_row: &mut [f32], weights: &[f32], dy: &[f32], y: &[f32]) {
    let mean = dot(dy, y);
    for (d, weight) in d_row.iter_mut().zip(weights) {
        *d = weight * (*d - mean);
    }
}

/// What the backward pass reads besides the inputs, and the gradients it writes.
pub struct Backward<'a> {
    /// `[batch, heads, seq, value_dim]`.
    pub y: View<'a>,
    /// `[batch, heads, seq, value_dim]`.
    pub dy: View<'a>,
    /// `[batch, seq, heads]`.
    pub lse: &'a [f32],
    /// `[batch, heads, seq, head_dim]`.
    pub dq: &'a mut [f32],
    /// `[batch, kv_heads, seq, head_dim]`, zeros.
    pub dk: &'a mut [f32],
    /// `[batch, kv_heads, seq, value_dim]`, zeros.
    pub dv: &'a mut [f32],
}

/// Writes the gradients of [`forward`]; every key and value head is summed by one thread in one order.
pub fn backward(inputs: Inputs<'_>, arrays: Backward<'_>) {
    let [_, _, seq, head_dim] = inputs.q.dims;
    let [_, kv_heads, keys, _] = inputs.k.dims;
    let Backward { y, dy, lse, dq, dk, dv } = arrays;
    let dq = dq.par_chunks_mut(inputs.group() * seq * head_dim);
    let dv = dv.par_chunks_mut(keys * inputs.value_dim());
    let d_kv = dk.par_chunks_mut(keys * head_dim).zip(dv);
    dq.zip(d_kv).enumerate().for_each(|(place, (dq, (dk, dv)))| {
        let arrays = Backward { y, dy, lse, dq, dk, dv };
        backward_head(&inputs, place / kv_heads, place % kv_heads, arrays);
    });
}

/// One key and value head.
///
/// # Shapes
/// `dq` `[group, seq, head_dim]`, `dk` `[keys, head_dim]`, `dv` `[keys, value_dim]`.
fn backward_head(inputs: &Inputs<'_>, row: usize, kv_head: usize, arrays: Backward<'_>) {
    let [_, _, seq, head_dim] = inputs.q.dims;
    let Backward { y, dy, lse, dq, dk, dv } = arrays;
    let mut buffers = [Vec::new(), Vec::new()];
    for (in_group, dq) in dq.chunks_exact_mut(seq * head_dim).enumerate() {
        let head = kv_head * inputs.group() + in_group;
        for (block, dq) in dq.chunks_mut(BLOCK * head_dim).enumerate() {
            let arrays = Backward { y, dy, lse, dq, dk: &mut *dk, dv: &mut *dv };
            backward_block(inputs, [row, kv_head, head], block * BLOCK, arrays, &mut buffers);
        }
    }
}

/// One head's queries from `start` on, as many as `dq` has rows; `dk` and `dv` are added to.
fn backward_block(
    inputs: &Inputs<'_>,
    [row, kv_head, head]: [usize; 3],
    start: usize,
    arrays: Backward<'_>,
    [weights, d_scores]: &mut [Vec<f32>; 2],
) {
    let ([_, heads, seq, head_dim], value_dim) = (inputs.q.dims, inputs.value_dim());
    let Backward { y, dy, lse, dq, dk, dv } = arrays;
    let count = dq.len() / head_dim;
    let seen = inputs.visible_to_any(row, start..start + count);
    let keys = seen.len();
    weights.resize(count * keys, 0.0); // [queries, keys]
    d_scores.resize(count * keys, 0.0); // [queries, keys]
    let q = inputs.q.matrix(row, head, start);
    let k = inputs.k.matrix(row, kv_head, seen.start);
    let v = inputs.v.matrix(row, kv_head, seen.start);
    let dy_block = dy.matrix(row, head, start);
    let [of_keys, of_values] = [head_dim, value_dim].map(|width| [count, keys, width]);
    small(Store::Overwrite, (weights.as_mut_slice(), keys), q, k.transposed(), of_keys);
    small(Store::Overwrite, (d_scores.as_mut_slice(), keys), dy_block, v.transposed(), of_values);
    let rows = weights.chunks_exact_mut(keys).zip(d_scores.chunks_exact_mut(keys));
    for (i, (weights, d_row)) in rows.enumerate() {
        let query = start + i;
        let visible = inputs.visible(row, query);
        let (from, to) = (visible.start - seen.start, visible.end - seen.start);
        let lse = lse[(row * seq + query) * heads + head];
        let (dy, y) = (dy.row(row, head, query), y.row(row, head, query));
        vectorized(
            #[inline(always)]
            || {
                recomputed_weights(weights, from, to, lse);
                softmax_backward(d_row, weights, dy, y);
            },
        );
    }
    let (weights, d_scores) = (Matrix::rows(weights, keys), Matrix::rows(d_scores, keys));
    let [of_keys, of_values] = [head_dim, value_dim].map(|width| [keys, width, count]);
    let dv = (&mut dv[seen.start * value_dim..seen.end * value_dim], value_dim);
    small(Store::Add, dv, weights.transposed(), dy_block, of_values);
    let dk = (&mut dk[seen.start * head_dim..seen.end * head_dim], head_dim);
    small(Store::Add, dk, d_scores.transposed(), q, of_keys);
    small(Store::Overwrite, (dq, head_dim), d_scores, k, [count, head_dim, keys]);
}
