//! A large matrix product in tiles, for processors with AVX-512: packing, blocks and threads.
//!
//! A *tile* is 8 rows by 48 columns of the result, whose sums stay in registers while both factors
//! pass by once; see `tile.rs`. So that the factors are read in memory order, they are first packed
//! into *panels*: 8 rows of the left factor or 48 columns of the right one, in each the first
//! elements of all lines, then the second ones, and so on. Sums longer than 512 are cut into
//! sections, so that a panel of rows fits the first-level cache.
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
use super::matrix::{Matrix, Store};
use super::tile::{self, COLUMNS, Lines, ROWS, Target, panel_stride};

/// The longest section of the sums.
const DEPTH: usize = 512;

/// Minimum and maximum number of lines of a block.
const BLOCK: [usize; 2] = [32, 3 * COLUMNS];

/// Blocks per thread, if there are enough lines: a thread that is held up takes fewer.
const BLOCKS: usize = 8;

/// Elements of the shared factor that one task packs.
const BAND: usize = 1 << 15;

/// A product, by the factor that is packed once and the one that is split into blocks.
struct Job<'a> {
    parallel: bool,
    store: Store,
    dst: Target,
    shared: Lines<'a>,
    split: Lines<'a>,
    /// Length of the sums.
    k: usize,
}

/// `dst = lhs rhs` or `dst += lhs rhs`, on all threads if `parallel`.
///
/// # Shapes
/// With `[m, n, k]`: `lhs` is `[m, k]`, `rhs` `[k, n]` and `dst` `[m, n]`.
///
/// # Safety
/// The processor has AVX-512; the factors and `dst` cover the sizes, none of which is 0; nothing else
/// uses `dst`, and its rows do not overlap.
pub(crate) unsafe fn product(
    parallel: bool,
    store: Store,
    dst: Target,
    lhs: Matrix<'_>,
    rhs: Matrix<'_>,
    [m, n, k]: [usize; 3],
) {
    let left = Lines { data: lhs.data, count: m, line: lhs.row, step: lhs.column };
    let right = Lines { data: rhs.data, count: n, line: rhs.column, step: rhs.row };
    // SAFETY: by this function's contract.
    let run = || unsafe {
        if m < n {
            Job { parallel, store, dst, shared: left, split: right, k }.run::<ROWS, COLUMNS>();
        } else {
            Job { parallel, store, dst, shared: right, split: left, k }.run::<COLUMNS, ROWS>();
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
    /// factor and `SPLIT` lines of the other.
    ///
    /// # Safety
    /// As for [`product`].
    unsafe fn run<const SHARED: usize, const SPLIT: usize>(&self) {
        let depth = self.k.div_ceil(self.k.div_ceil(DEPTH));
        let stride = panel_stride(SHARED, depth);
        let threads = if self.parallel { rayon::current_num_threads() } else { 1 };
        let [fewest, most] = BLOCK;
        let block = self.split.count.div_ceil(threads * BLOCKS).clamp(fewest, most);
        let block = block.next_multiple_of(SPLIT);
        let mut panels = Buffer::take(self.shared.count.div_ceil(SHARED) * stride);
        for start in (0..self.k).step_by(depth) {
            let section = start..self.k.min(start + depth);
            // SAFETY: by this function's contract.
            unsafe { self.pack_shared::<SHARED>(&mut panels, stride, section.clone()) };
            let panels = &*panels;
            let blocks = (0..self.split.count).step_by(block).collect();
            each(self.parallel, blocks, |first: usize| {
                let lines = first..self.split.count.min(first + block);
                // SAFETY: by this function's contract; blocks have different lines, and so
                // different places of the destination.
                unsafe {
                    self.block::<SHARED, SPLIT>(panels, stride, lines, section.clone());
                }
            });
        }
    }

    /// Packs a section of the shared factor into `panels`, `stride` apart.
    ///
    /// # Safety
    /// As for [`product`].
    unsafe fn pack_shared<const SHARED: usize>(
        &self,
        panels: &mut [f32],
        stride: usize,
        section: Range<usize>,
    ) {
        let in_band = BAND.div_ceil(stride);
        let bands: Vec<_> = panels.chunks_mut(in_band * stride).enumerate().collect();
        each(self.parallel, bands, |(i, panels)| {
            let first = i * in_band * SHARED;
            let count = (in_band * SHARED).min(self.shared.count - first);
            let lines = self.shared.part(first, count, section.start);
            // SAFETY: by this function's contract.
            unsafe { tile::pack::<SHARED>(panels, stride, lines, section.len()) };
        });
    }

    /// Adds a section of the sums of some `lines` of the split factor with all lines of the shared
    /// one, whose `panels` are `shared_stride` apart.
    ///
    /// # Safety
    /// As for [`product`], and no one else is writing to these lines' part of the destination.
    unsafe fn block<const SHARED: usize, const SPLIT: usize>(
        &self,
        panels: &[f32],
        shared_stride: usize,
        lines: Range<usize>,
        section: Range<usize>,
    ) {
        let depth = section.len();
        let add = self.store == Store::Add || section.start > 0;
        let stride = panel_stride(SPLIT, depth);
        let mut packed = Buffer::take(lines.len().div_ceil(SPLIT) * stride);
        let from = self.split.part(lines.start, lines.len(), section.start);
        // SAFETY: by this function's contract.
        unsafe { tile::pack::<SPLIT>(&mut packed, stride, from, depth) };
        for (i, shared) in panels.chunks_exact(shared_stride).enumerate() {
            let s = i * SHARED;
            for (j, split) in packed.chunks_exact(stride).enumerate() {
                let o = lines.start + j * SPLIT;
                let ends = [SHARED.min(self.shared.count - s), SPLIT.min(lines.end - o)];
                let factors = left_first::<SHARED, _>([shared, split]);
                let place = left_first::<SHARED, _>([s, o]);
                let size = left_first::<SHARED, _>(ends);
                // SAFETY: by this function's contract; `size` ends where the matrices do.
                unsafe { tile::tile(add, self.dst, place, size, factors, depth) };
            }
        }
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
