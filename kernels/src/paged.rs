//! Attention over a paged cache: keys and values in blocks of 64 tokens, for many lanes in one pass.
//!
//! Every query has one order of arithmetic, whatever else a pass computes: a score is one chain of
//! multiply-adds along the head, the softmax runs over the query's own keys, and an element of the result is
//! one chain of multiply-adds along the keys. Vectors hold 16, 8 or 4 neighbouring keys or elements, each with
//! a chain of its own, so neither their width nor the number of queries that share a load changes a result.
//! For the scores to be computed so, keys are stored transposed.

pub mod heads;
pub mod latent;
#[cfg(test)]
mod tests;
mod vectors;

use std::mem;
use std::ops::Range;

use pulp::{Arch, Simd, WithSimd};
use rayon::prelude::*;

use super::memory::unspecified;
use super::prefetch;
use vectors::{score, weigh};

/// Tokens per block.
pub const BLOCK: usize = 64;

/// Maximum number of lines per task; a line is one head of one query. Their scores and the block that they are
/// computed from stay in the cache.
const LINES: usize = 32;

/// Maximum number of lines that share loads.
const TILE: usize = 4;

/// Multiplications below which a second thread costs more than it saves.
const PARALLEL: usize = 1 << 15;

/// Elements of the new keys below which it costs more to write them on two threads.
const PARALLEL_WRITE: usize = 1 << 12;

/// The new tokens of one sequence in a pass, and where its keys and values are.
#[derive(Clone, Copy, Debug)]
pub struct Lane<'a> {
    /// The sequence's blocks in order: token `t` is in block `blocks[t / BLOCK]` at `t % BLOCK`.
    pub blocks: &'a [u32],
    /// Tokens before the new ones.
    pub start: usize,
    /// New tokens, one row of the pass each.
    pub rows: usize,
}

/// The rows of a pass: the new tokens of all lanes, one lane after the other.
#[derive(Clone, Copy, Debug)]
pub struct Rows<'a> {
    /// `[heads, rows, head_dim]`, scaled.
    pub q: &'a [f32],
    /// `[kv_heads, rows, head_dim]`.
    pub k: &'a [f32],
    /// `[rows, kv_heads, head_dim]`.
    pub v: &'a [f32],
    /// Their rows add up to `rows`.
    pub lanes: &'a [Lane<'a>],
    /// Query heads, each key and value head's after one another.
    pub heads: usize,
    /// Key and value heads.
    pub kv_heads: usize,
    /// Elements per head.
    pub head_dim: usize,
}

impl Rows<'_> {
    fn len(&self) -> usize {
        self.lanes.iter().map(|lane| lane.rows).sum()
    }

    /// Query heads per key and value head.
    fn group(&self) -> usize {
        self.heads / self.kv_heads
    }

    /// Elements of one block of one key or value head.
    fn page_len(&self) -> usize {
        BLOCK * self.head_dim
    }

    fn page<'a>(&self, pages: &'a [f32], block: u32, kv_head: usize) -> &'a [f32] {
        let start = (block as usize * self.kv_heads + kv_head) * self.page_len();
        &pages[start..start + self.page_len()]
    }
}

/// Writes the keys and values of the new tokens to their places.
///
/// # Shapes
/// `keys` `[blocks, kv_heads, head_dim, BLOCK]`, `values` `[blocks, kv_heads, BLOCK, head_dim]`.
///
/// # Panics
/// If a lane has a block that the cache lacks, or too few blocks, or if two lanes write to one block.
pub fn write(rows: &Rows<'_>, mut keys: &mut [f32], mut values: &mut [f32]) {
    let mut parts = parts(rows.lanes);
    parts.sort_unstable_by_key(|part| part.block);
    let (len, mut first) = (rows.kv_heads * rows.page_len(), 0);
    let mut tasks = Vec::with_capacity(parts.len());
    for part in parts {
        let from = (part.block - first) * len;
        tasks.push((part, take(&mut keys, from, len), take(&mut values, from, len)));
        first = part.block + 1;
    }
    let run = |(part, keys, values): (Part, &mut [f32], &mut [f32])| part.write(rows, keys, values);
    if rows.v.len() < PARALLEL_WRITE {
        tasks.into_iter().for_each(run);
    } else {
        tasks.into_par_iter().for_each(run);
    }
}

/// Takes `len` elements from `from` on out of `rest`, which keeps those behind them.
fn take<'a>(rest: &mut &'a mut [f32], from: usize, len: usize) -> &'a mut [f32] {
    let (taken, behind) = mem::take(rest)[from..].split_at_mut(len);
    *rest = behind;
    taken
}

/// New tokens of one lane that lie in one block.
#[derive(Clone, Copy)]
struct Part {
    block: usize,
    /// The first one's place in the block.
    at: usize,
    /// The first one's row in the pass.
    row: usize,
    count: usize,
}

fn parts(lanes: &[Lane<'_>]) -> Vec<Part> {
    let (mut parts, mut row) = (Vec::with_capacity(lanes.len()), 0);
    for lane in lanes {
        let (mut token, end) = (lane.start, lane.start + lane.rows);
        while token < end {
            let (block, at) = (lane.blocks[token / BLOCK] as usize, token % BLOCK);
            let count = (BLOCK - at).min(end - token);
            parts.push(Part { block, at, row, count });
            (row, token) = (row + count, token + count);
        }
    }
    parts
}

impl Part {
    /// Writes to the pages of the block's heads.
    fn write(self, rows: &Rows<'_>, keys: &mut [f32], values: &mut [f32]) {
        let Self { at, row, count, .. } = self;
        let (len, head_dim) = (rows.len(), rows.head_dim);
        let pages = keys.chunks_exact_mut(rows.page_len());
        for (kv_head, (keys, values)) in
            pages.zip(values.chunks_exact_mut(rows.page_len())).enumerate()
        {
            let k = &rows.k[(kv_head * len + row) * head_dim..][..count * head_dim];
            for (d, line) in keys.chunks_exact_mut(BLOCK).enumerate() {
                for (to, k) in line[at..at + count].iter_mut().zip(k.chunks_exact(head_dim)) {
                    *to = k[d];
                }
            }
            let values = values[at * head_dim..].chunks_exact_mut(head_dim);
            for (to, row) in values.zip(row..row + count) {
                let start = (row * rows.kv_heads + kv_head) * head_dim;
                to.copy_from_slice(&rows.v[start..start + head_dim]);
            }
        }
    }
}

/// `softmax(q k^T) v` of every row, over its lane's tokens up to its own.
///
/// # Shapes
/// `keys` and `values` as for [`write()`], which has written the new tokens; `y` `[rows, heads, head_dim]`.
///
/// # Panics
/// As for [`write()`].
pub fn forward(rows: &Rows<'_>, keys: &[f32], values: &[f32], y: &mut [f32]) {
    let tasks = tasks(rows, y);
    let tokens: usize = rows.lanes.iter().map(|lane| lane.rows * (lane.start + lane.rows)).sum();
    let run = |task| Arch::new().dispatch(Run { rows, keys, values, task });
    if tokens * rows.heads * rows.head_dim < PARALLEL {
        tasks.into_iter().for_each(run);
    } else {
        tasks.into_par_iter().for_each(run);
    }
}

/// Some queries of one lane, for one key and value head.
struct Task<'a> {
    lane: Lane<'a>,
    kv_head: usize,
    /// The first query's row in the pass.
    row: usize,
    /// The number of keys that the first query sees.
    keys: usize,
    /// The results, `[queries, heads of the key head]`: the task's lines.
    y: Vec<&'a mut [f32]>,
}

fn tasks<'a>(rows: &Rows<'a>, y: &'a mut [f32]) -> Vec<Task<'a>> {
    let group = rows.group();
    let at_once = (LINES / group).max(1);
    let mut tasks: Vec<Task<'a>> = Vec::new();
    let mut lines = y.chunks_exact_mut(rows.head_dim);
    let mut row = 0;
    for &lane in rows.lanes {
        for query in (0..lane.rows).step_by(at_once) {
            let queries = at_once.min(lane.rows - query);
            let first = tasks.len();
            tasks.extend((0..rows.kv_heads).map(|kv_head| {
                let y = Vec::with_capacity(queries * group);
                Task { lane, kv_head, row, keys: lane.start + query + 1, y }
            }));
            for place in 0..queries * rows.heads {
                let task = &mut tasks[first + place % rows.heads / group];
                task.y.extend(lines.next());
            }
            row += queries;
        }
    }
    tasks
}

struct Run<'a, 'b> {
    rows: &'b Rows<'a>,
    keys: &'b [f32],
    values: &'b [f32],
    task: Task<'b>,
}

impl WithSimd for Run<'_, '_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(mut self, simd: S) {
        let mut y = mem::take(&mut self.task.y);
        let blocks = self.seen(y.len() - 1).div_ceil(BLOCK);
        let blocks = &self.task.lane.blocks[..blocks];
        let stride = blocks.len() * BLOCK;
        let mut scores = unspecified(y.len() * stride); // [lines, keys]
        let q = self.queries(y.len());
        for (place, &block) in blocks.iter().enumerate() {
            let page = self.rows.page(self.keys, block, self.task.kv_head);
            let seen = self.seen(y.len() - 1) - place * BLOCK;
            let values = self.rows.page(self.values, block, self.task.kv_head);
            prefetch::lines(&values[..seen.min(BLOCK) * self.rows.head_dim]);
            for tile in tiles(y.len()) {
                let keys = self.seen(tile.end - 1).saturating_sub(place * BLOCK);
                if keys > 0 {
                    let to = (&mut scores[tile.start * stride + place * BLOCK..], stride);
                    let q = &q[tile.start * self.rows.head_dim..tile.end * self.rows.head_dim];
                    match tile.len() {
                        1 => score::<S, 1>(simd, q, page, keys, to),
                        2 => score::<S, 2>(simd, q, page, keys, to),
                        _ => score::<S, TILE>(simd, q, page, keys, to),
                    }
                }
            }
        }
        let page = |block: &u32| self.rows.page(self.values, *block, self.task.kv_head);
        let seen = |line| self.seen(line);
        weigh(simd, (&mut scores, stride), seen, blocks.iter().map(page), &mut y);
    }
}

impl Run<'_, '_> {
    /// The number of keys that a line sees.
    #[inline(always)]
    fn seen(&self, line: usize) -> usize {
        self.task.keys + line / self.rows.group()
    }

    /// The queries of the lines, `[head_dim, lines]` for each tile.
    #[inline(always)]
    fn queries(&self, lines: usize) -> Vec<f32> {
        let Self { rows, task, .. } = self;
        let (group, len, head_dim) = (rows.group(), rows.len(), rows.head_dim);
        let mut q = unspecified(lines * head_dim);
        for tile in tiles(lines) {
            let to = &mut q[tile.start * head_dim..tile.end * head_dim];
            for (place, line) in tile.clone().enumerate() {
                let head = task.kv_head * group + line % group;
                let from = &rows.q[(head * len + task.row + line / group) * head_dim..];
                for (to, from) in to.chunks_exact_mut(tile.len()).zip(from) {
                    to[place] = *from;
                }
            }
        }
        q
    }
}

/// The lines that share loads: of [`TILE`] lines, then of 2, then of 1.
#[inline(always)]
fn tiles(lines: usize) -> impl Iterator<Item = Range<usize>> {
    let mut first = 0;
    std::iter::from_fn(move || {
        let count = match lines - first {
            0 => return None,
            1 => 1,
            2 | 3 => 2,
            _ => TILE,
        };
        first += count;
        Some(first - count..first)
    })
}
