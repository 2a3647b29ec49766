//! Attention in blocks of queries: scores, softmax and weighted sum of a block stay in the cache,
//! and blocks of keys that no query of the block sees are never touched.
//!
//! The forward pass keeps the logarithm of the softmax's denominator, from which the backward pass
//! computes the weights again (arXiv 2205.14135).

use std::ops::Range;

use rayon::prelude::*;

use super::math::{dot, exp_shifted, largest};
use super::product::{Into, Matrix, small};
use super::simd::wide;
use crate::model::spans::Spans;

/// Queries of one block.
const BLOCK: usize = 64;

/// Up to this many queries are worked off key by key, without matrix products.
const FEW: usize = 4;

/// Products of numbers below which a second thread costs more than it brings.
const PARALLEL: usize = 1 << 18;

/// A tensor of four axes whose last one is contiguous.
#[derive(Clone, Copy, Debug)]
pub(crate) struct View<'a> {
    /// From the first element on.
    pub data: &'a [f32],
    /// Sizes.
    pub dims: [usize; 4],
    /// Distances along the first three axes.
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

/// What both passes read.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Inputs<'a> {
    /// `[batch, heads, seq, head_dim]`, scaled.
    pub q: View<'a>,
    /// `[batch, kv_heads, keys, head_dim]`.
    pub k: View<'a>,
    /// `[batch, kv_heads, keys, head_dim]`.
    pub v: View<'a>,
    /// `None` shows every key.
    pub spans: Option<&'a Spans>,
}

impl Inputs<'_> {
    fn visible(&self, row: usize, query: usize) -> Range<usize> {
        self.spans.map_or(0..self.k.dims[2], |spans| spans.range(row, query))
    }

    /// The keys that at least one of the queries sees.
    fn visible_to_any(&self, row: usize, queries: Range<usize>) -> Range<usize> {
        let ranges = queries.map(|query| self.visible(row, query));
        let all = ranges.reduce(|a, b| a.start.min(b.start)..a.end.max(b.end));
        all.unwrap_or(0..0)
    }

    fn padding(&self, row: usize) -> Option<&[bool]> {
        self.spans.and_then(|spans| spans.padding(row))
    }

    fn group(&self) -> usize {
        self.q.dims[1] / self.k.dims[1]
    }
}

/// Writes the weighted values to `y` `[batch, seq, heads, head_dim]` and the logarithms of the
/// denominators to `lse` `[batch, seq, heads]`; `infinity` and zeros where nothing is visible.
pub(crate) fn forward(inputs: Inputs<'_>, y: &mut [f32], lse: &mut [f32]) {
    let [_, heads, seq, head_dim] = inputs.q.dims;
    let width = heads * head_dim;
    if seq <= FEW {
        let task = |(row, (y, lse)): (usize, (&mut [f32], &mut [f32]))| few(&inputs, row, y, lse);
        let work = seq * width * inputs.k.dims[2];
        if work < PARALLEL {
            let rows = y.chunks_mut(seq * width).zip(lse.chunks_mut(seq * heads));
            rows.enumerate().for_each(task);
        } else {
            let rows = y.par_chunks_mut(seq * width).zip(lse.par_chunks_mut(seq * heads));
            rows.enumerate().for_each(task);
        }
        return;
    }
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
    let [_, heads, _, head_dim] = inputs.q.dims;
    let width = heads * head_dim;
    let queries = start..start + y.len() / width;
    let seen = inputs.visible_to_any(row, queries.clone());
    let (count, keys) = (queries.len(), seen.len());
    let mut weights = vec![0.0; count * keys]; // [queries, keys]
    for head in 0..heads {
        let kv_head = head / inputs.group();
        let q = inputs.q.matrix(row, head, start);
        let k = inputs.k.matrix(row, kv_head, seen.start);
        let v = inputs.v.matrix(row, kv_head, seen.start);
        small(Into::Fresh, (&mut weights, keys), q, k.transposed(), [count, keys, head_dim]);
        for (i, weights) in weights.chunks_exact_mut(keys).enumerate() {
            let visible = inputs.visible(row, start + i);
            let (from, to) = (visible.start - seen.start, visible.end - seen.start);
            let padding = inputs.padding(row).map(|padding| &padding[visible]);
            lse[i * heads + head] = softmax(weights, from, to, padding);
        }
        let y = &mut y[head * head_dim..];
        small(Into::Fresh, (y, width), Matrix::rows(&weights, keys), v, [count, head_dim, keys]);
    }
}

wide! {
    /// Softmax over `from..to` of a row of scores, zeros elsewhere. Returns the logarithm of the
    /// denominator, or infinity when everything is hidden.
    fn softmax(row: &mut [f32], from: usize, to: usize, padding: Option<&[bool]>) -> f32 {
        row[..from].fill(0.0);
        row[to..].fill(0.0);
        normalise(&mut row[from..to], padding)
    }

    /// `exp(score - lse)` over `from..to`, zeros elsewhere.
    fn weights_again(row: &mut [f32], from: usize, to: usize, padding: Option<&[bool]>, lse: f32) {
        row[..from].fill(0.0);
        row[to..].fill(0.0);
        hide(&mut row[from..to], padding);
        exp_shifted(&mut row[from..to], lse);
    }

    /// `weight * (gradient - dot(dy, y))` into the row of gradients.
    fn softmax_backward(d_row: &mut [f32], weights: &[f32], dy: &[f32], y: &[f32]) {
        let mean = dot(dy, y);
        for (d, weight) in d_row.iter_mut().zip(weights) {
            *d = weight * (*d - mean);
        }
    }

    /// Attention of a few queries of one row, `y` `[seq, heads, head_dim]`, `lse` `[seq, heads]`.
    fn few(inputs: &Inputs<'_>, row: usize, y: &mut [f32], lse: &mut [f32]) {
        let [_, heads, _, head_dim] = inputs.q.dims;
        let mut weights = Vec::new();
        for (place, (y, lse)) in y.chunks_exact_mut(head_dim).zip(lse).enumerate() {
            let (query, head) = (place / heads, place % heads);
            let kv_head = head / inputs.group();
            let visible = inputs.visible(row, query);
            let q = inputs.q.row(row, head, query);
            weights.clear();
            weights.extend(visible.clone().map(|key| dot(q, inputs.k.row(row, kv_head, key))));
            let padding = inputs.padding(row).map(|padding| &padding[visible.clone()]);
            *lse = normalise(&mut weights, padding);
            y.fill(0.0);
            for (key, weight) in visible.zip(&weights) {
                for (y, v) in y.iter_mut().zip(inputs.v.row(row, kv_head, key)) {
                    *y += weight * v;
                }
            }
        }
    }
}

#[inline(always)]
fn hide(scores: &mut [f32], padding: Option<&[bool]>) {
    for (score, pad) in scores.iter_mut().zip(padding.into_iter().flatten()) {
        *score = if *pad { f32::NEG_INFINITY } else { *score };
    }
}

#[inline(always)]
fn normalise(scores: &mut [f32], padding: Option<&[bool]>) -> f32 {
    hide(scores, padding);
    let top = largest(scores);
    if top == f32::NEG_INFINITY {
        scores.fill(0.0);
        return f32::INFINITY;
    }
    let sum = exp_shifted(scores, top);
    let scale = 1.0 / sum;
    for score in scores {
        *score *= scale;
    }
    top + sum.ln()
}

/// What the backward pass reads beside the inputs, and the gradients it fills.
pub(crate) struct Backward<'a> {
    /// `[batch, heads, seq, head_dim]`.
    pub y: View<'a>,
    /// `[batch, heads, seq, head_dim]`.
    pub dy: View<'a>,
    /// `[batch, seq, heads]`.
    pub lse: &'a [f32],
    /// `[batch, heads, seq, head_dim]`.
    pub dq: &'a mut [f32],
    /// `[batch, kv_heads, keys, head_dim]`, zeros.
    pub dk: &'a mut [f32],
    /// `[batch, kv_heads, keys, head_dim]`, zeros.
    pub dv: &'a mut [f32],
}

/// The gradients of [`forward`]; every key and value head is summed by one thread in one order.
pub(crate) fn backward(inputs: Inputs<'_>, arrays: Backward<'_>) {
    let [_, _, seq, head_dim] = inputs.q.dims;
    let [_, kv_heads, keys, _] = inputs.k.dims;
    let Backward { y, dy, lse, dq, dk, dv } = arrays;
    let dq = dq.par_chunks_mut(inputs.group() * seq * head_dim);
    let d_kv = dk.par_chunks_mut(keys * head_dim).zip(dv.par_chunks_mut(keys * head_dim));
    dq.zip(d_kv).enumerate().for_each(|(place, (dq, (dk, dv)))| {
        let arrays = Backward { y, dy, lse, dq, dk, dv };
        backward_head(&inputs, place / kv_heads, place % kv_heads, arrays);
    });
}

/// One key and value head: `dq` `[group, seq, head_dim]`, `dk` and `dv` `[keys, head_dim]`.
fn backward_head(inputs: &Inputs<'_>, row: usize, kv_head: usize, arrays: Backward<'_>) {
    let [_, heads, seq, head_dim] = inputs.q.dims;
    let Backward { y, dy, lse, dq, dk, dv } = arrays;
    let (mut weights, mut d_scores) = (Vec::new(), Vec::new());
    for (in_group, dq) in dq.chunks_exact_mut(seq * head_dim).enumerate() {
        let head = kv_head * inputs.group() + in_group;
        for (block, dq) in dq.chunks_mut(BLOCK * head_dim).enumerate() {
            let start = block * BLOCK;
            let count = dq.len() / head_dim;
            let seen = inputs.visible_to_any(row, start..start + count);
            let keys = seen.len();
            weights.resize(count * keys, 0.0); // [queries, keys]
            d_scores.resize(count * keys, 0.0);
            let q = inputs.q.matrix(row, head, start);
            let k = inputs.k.matrix(row, kv_head, seen.start);
            let v = inputs.v.matrix(row, kv_head, seen.start);
            let dy_block = dy.matrix(row, head, start);
            let sizes = [count, keys, head_dim];
            small(Into::Fresh, (&mut weights, keys), q, k.transposed(), sizes);
            small(Into::Fresh, (&mut d_scores, keys), dy_block, v.transposed(), sizes);
            let rows = weights.chunks_exact_mut(keys).zip(d_scores.chunks_exact_mut(keys));
            for (i, (weights, d_row)) in rows.enumerate() {
                let query = start + i;
                let visible = inputs.visible(row, query);
                let (from, to) = (visible.start - seen.start, visible.end - seen.start);
                let padding = inputs.padding(row).map(|padding| &padding[visible]);
                let lse = lse[(row * seq + query) * heads + head];
                weights_again(weights, from, to, padding, lse);
                let (dy, y) = (dy.row(row, head, query), y.row(row, head, query));
                softmax_backward(d_row, weights, dy, y);
            }
            let (weights, d_scores) = (Matrix::rows(&weights, keys), Matrix::rows(&d_scores, keys));
            let d_seen = seen.start * head_dim..seen.end * head_dim;
            let transposed = [keys, head_dim, count];
            let dv = (&mut dv[d_seen.clone()], head_dim);
            small(Into::Sum, dv, weights.transposed(), dy_block, transposed);
            let dk = (&mut dk[d_seen], head_dim);
            small(Into::Sum, dk, d_scores.transposed(), q, transposed);
            small(Into::Fresh, (dq, head_dim), d_scores, k, [count, head_dim, keys]);
        }
    }
}
