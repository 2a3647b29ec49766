//! A large matrix product in tiles, for processors with AVX-512: packing, blocks and threads.
//!
//! A *tile* is 8 rows by 48 columns of the result, whose sums stay in registers while both factors
//! pass by once; see `tile.rs`. So that the factors are read in memory order, they are first packed
//! into *panels*: 8 rows of the left factor or 48 columns of the right one, in each the first
//! elements of all lines, then the second ones, and so on. Sums longer than 512 are cut into
//! sections, so that a panel of rows fits the first-level cache. The sums may run over several pairs of
//! factors; a short one, such as a low-rank change of a weight, joins the last section of the pair before it
//! and costs no further pass over the result.
//!
//! The factor with fewer lines is shared: packed once, by all threads. The lines of the other one are
//! split into *blocks*: a task packs its block, which fits the second-level cache, multiplies it with
//! every panel of the shared factor and writes to lines of the destination that no other task has.
//!
//! Every element is summed in the same order, whatever its place in a tile and the number of threads.

#![allow(unsafe_code, reason = "tasks write to parts of one slice")]

use std::ops::Range;

use rayon::prelude::*;

use super::buffer::Buffer;
use super::matrix::{Store, Term};
use super::tile::{self, COLUMNS, Lines, ROWS, Target, panel_stride};

/// The longest section of the sums over one pair of factors.
const DEPTH: usize = 512;

/// The longest sum that joins the section before it.
const SHORT: usize = 64;

/// Minimum and maximum number of lines of a block.
const BLOCK: [usize; 2] = [32, 3 * COLUMNS];

/// Blocks per thread, if there are enough lines: a thread that is held up takes fewer.
const BLOCKS: usize = 8;

/// Elements of the shared factor that one task packs.
const BAND: usize = 1 << 15;

/// A pair of factors, by the one that is packed once and the one that is split into blocks.
struct Pair<'a> {
    shared: Lines<'a>,
    split: Lines<'a>,
    /// Length of the sums.
    k: usize,
}

/// A sum of products.
struct Job<'a> {
    parallel: bool,
    store: Store,
    dst: Target,
    pairs: Vec<Pair<'a>>,
}

/// A part of the sums over one pair of factors.
struct Part<'a> {
    pair: &'a Pair<'a>,
    range: Range<usize>,
}

/// `dst = lhs rhs` or `dst += lhs rhs`, summed over the `terms`, on all threads if `parallel`.
///
/// # Shapes
/// With `[m, n]`: in each term `lhs` is `[m, k]` and `rhs` `[k, n]`; `dst` is `[m, n]`.
///
/// # Safety
/// The processor has AVX-512; the factors and `dst` cover the sizes, none of which is 0; nothing else
/// uses `dst`, and its rows do not overlap.
pub(crate) unsafe fn product(
    parallel: bool,
    store: Store,
    dst: Target,
    terms: &[Term<'_>],
    [m, n]: [usize; 2],
) {
    let pairs = terms.iter().map(|Term { lhs, rhs, k }| {
        let left = Lines { data: lhs.data, count: m, line: lhs.row, step: lhs.column };
        let right = Lines { data: rhs.data, count: n, line: rhs.column, step: rhs.row };
        let [shared, split] = if m < n { [left, right] } else { [right, left] };
        Pair { shared, split, k: *k }
    });
    let job = Job { parallel, store, dst, pairs: pairs.collect() };
    // SAFETY: by this function's contract.
    let run = || unsafe {
        if m < n {
            job.run::<ROWS, COLUMNS>([m, n]);
        } else {
            job.run::<COLUMNS, ROWS>([n, m]);
        }
    };
    if parallel {
        // Entering the pool once is faster than for every loop.
        rayon::scope(|_| run());
    } else {
        run();
    }
}

impl Job<'_> {
    /// The whole product, section by section of the sums, in panels of `SHARED` lines of the shared
    /// factors and `SPLIT` lines of the others; `counts` are the numbers of lines.
    ///
    /// # Safety
    /// As for [`product`].
    unsafe fn run<const SHARED: usize, const SPLIT: usize>(&self, counts: [usize; 2]) {
        let sections = self.sections();
        let deepest = sections.iter().map(|parts| depth(parts)).max().unwrap_or_default();
        let stride = panel_stride(SHARED, deepest);
        let threads = if self.parallel { rayon::current_num_threads() } else { 1 };
        let [fewest, most] = BLOCK;
        let block = counts[1].div_ceil(threads * BLOCKS).clamp(fewest, most);
        let block = block.next_multiple_of(SPLIT);
        let mut panels = Buffer::take(counts[0].div_ceil(SHARED) * stride);
        for (number, parts) in sections.iter().enumerate() {
            let add = self.store == Store::Add || number > 0;
            // SAFETY: by this function's contract.
            unsafe { self.pack_shared::<SHARED>(&mut panels, stride, parts, counts[0]) };
            let panels = &*panels;
            let blocks = (0..counts[1]).step_by(block).collect();
            each(self.parallel, blocks, |first: usize| {
                let lines = first..counts[1].min(first + block);
                // SAFETY: by this function's contract; blocks have different lines, and so
                // different places of the destination.
                unsafe {
                    self.block::<SHARED, SPLIT>(add, (panels, stride), lines, parts, counts[0]);
                }
            });
        }
    }

    /// The sums in sections.
    fn sections(&self) -> Vec<Vec<Part<'_>>> {
        let mut sections: Vec<Vec<Part<'_>>> = Vec::new();
        for pair in &self.pairs {
            if let (..=SHORT, Some(last)) = (pair.k, sections.last_mut()) {
                last.push(Part { pair, range: 0..pair.k });
                continue;
            }
            let depth = pair.k.div_ceil(pair.k.div_ceil(DEPTH));
            let starts = (0..pair.k).step_by(depth);
            let ranges = starts.map(|start| start..pair.k.min(start + depth));
            sections.extend(ranges.map(|range| vec![Part { pair, range }]));
        }
        sections
    }

    /// Packs a section of the shared factors, of `count` lines, into `panels`, `stride` apart.
    ///
    /// # Safety
    /// As for [`product`].
    unsafe fn pack_shared<const SHARED: usize>(
        &self,
        panels: &mut [f32],
        stride: usize,
        parts: &[Part<'_>],
        count: usize,
    ) {
        let in_band = BAND.div_ceil(stride);
        let bands: Vec<_> = panels.chunks_mut(in_band * stride).enumerate().collect();
        each(self.parallel, bands, |(i, panels)| {
            let first = i * in_band * SHARED;
            let lines = first..count.min(first + in_band * SHARED);
            // SAFETY: by this function's contract.
            unsafe { pack::<SHARED>(panels, stride, parts, |pair| pair.shared, lines) };
        });
    }

    /// Adds a section of the sums of some `lines` of the split factors with all lines of the shared
    /// ones, `count` of them, whose `panels` are `shared_stride` apart.
    ///
    /// # Safety
    /// As for [`product`], and no one else is writing to these lines' part of the destination.
    unsafe fn block<const SHARED: usize, const SPLIT: usize>(
        &self,
        add: bool,
        (panels, shared_stride): (&[f32], usize),
        lines: Range<usize>,
        parts: &[Part<'_>],
        count: usize,
    ) {
        let depth = depth(parts);
        let stride = panel_stride(SPLIT, depth);
        let mut packed = Buffer::take(lines.len().div_ceil(SPLIT) * stride);
        // SAFETY: by this function's contract.
        unsafe { pack::<SPLIT>(&mut packed, stride, parts, |pair| pair.split, lines.clone()) };
        for (i, shared) in panels.chunks_exact(shared_stride).enumerate() {
            let s = i * SHARED;
            for (j, split) in packed.chunks_exact(stride).enumerate() {
                let o = lines.start + j * SPLIT;
                let ends = [SHARED.min(count - s), SPLIT.min(lines.end - o)];
                let factors = left_first::<SHARED, _>([shared, split]);
                let place = left_first::<SHARED, _>([s, o]);
                let size = left_first::<SHARED, _>(ends);
                // SAFETY: by this function's contract; `size` ends where the matrices do.
                unsafe { tile::tile(add, self.dst, place, size, factors, depth) };
            }
        }
    }
}

/// The length of a section.
fn depth(parts: &[Part<'_>]) -> usize {
    parts.iter().map(|part| part.range.len()).sum()
}

/// Packs a section of some `lines` of one factor of each pair, one part after the other.
///
/// # Safety
/// As for [`product`].
unsafe fn pack<const W: usize>(
    panels: &mut [f32],
    stride: usize,
    parts: &[Part<'_>],
    factor: impl for<'a> Fn(&Pair<'a>) -> Lines<'a>,
    lines: Range<usize>,
) {
    let mut at = 0;
    for Part { pair, range } in parts {
        let lines = factor(pair).part(lines.start, lines.len(), range.start);
        // SAFETY: by this function's contract.
        unsafe { tile::pack::<W>(panels, (stride, at), lines, range.len()) };
        at += range.len();
    }
}

/// The same pair in the order left, right.
fn left_first<const SHARED: usize, T>([shared, split]: [T; 2]) -> [T; 2] {
    if SHARED == ROWS { [shared, split] } else { [split, shared] }
}

/// Runs the task on all items, on all threads or one after the other.
fn each<T: Send>(parallel: bool, items: Vec<T>, task: impl Fn(T) + Send + Sync) {
    if parallel && items.len() > 1 {
        items.into_par_iter().with_max_len(1).for_each(task);
    } else {
        items.into_iter().for_each(task);
    }
}
