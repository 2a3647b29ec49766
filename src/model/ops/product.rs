//! Matrix products: large ones on all threads, small ones on the calling thread.
//!
//! [`large`] is written for processors with AVX-512. Its sums are worked off in *tiles* of 8 rows and 48
//! columns, which stay in registers while both factors pass by once; see `tile.rs`. So that what passes
//! lies in the order it is read in, *panels* are copied together before: 8 rows of the left factor or
//! 48 columns of the right one, in each all lines' first elements, then their second, and so on. Sums
//! longer than 512 are cut into sections, so that a panel of rows fits the first cache.
//!
//! The factor with fewer lines is laid out once for all, by all threads. The lines of the other one are
//! shared out in *blocks*: a task lays out its block, which fits the second cache, multiplies it with
//! every panel of the shared factor and writes to lines of the destination that are its own.
//!
//! Every element is summed in the same order, whatever its place in a tile and the number of threads.
//! Other processors take the `gemm` crate, and so does [`small`], where laying out costs too much.

#![allow(unsafe_code, reason = "gemm takes raw pointers; tasks write to parts of one slice")]

#[cfg(test)]
mod tests;

use std::borrow::Cow;

use burn::tensor::bf16;

/// Products of numbers below which a second thread costs more than it brings.
const PARALLEL: usize = 1 << 21;

/// A number format of a factor; the arithmetic is that of f32.
pub(crate) trait Element: Copy + Send + Sync {
    /// The same number.
    fn wide(self) -> f32;

    /// The same numbers.
    fn all_wide(data: &[Self]) -> Cow<'_, [f32]>;
}

impl Element for f32 {
    #[inline(always)]
    fn wide(self) -> f32 {
        self
    }

    fn all_wide(data: &[Self]) -> Cow<'_, [f32]> {
        Cow::Borrowed(data)
    }
}

impl Element for bf16 {
    /// Its bits are the upper ones of the f32.
    #[inline(always)]
    fn wide(self) -> f32 {
        f32::from_bits(u32::from(self.to_bits()) << 16)
    }

    fn all_wide(data: &[Self]) -> Cow<'_, [f32]> {
        data.iter().map(|x| x.wide()).collect()
    }
}

/// A matrix within a slice: element `(i, j)` is `data[i * row + j * column]`.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Matrix<'a, E = f32> {
    /// The elements, the first of them at `(0, 0)`.
    pub data: &'a [E],
    /// Distance of two rows.
    pub row: usize,
    /// Distance of two columns.
    pub column: usize,
}

impl<'a, E> Matrix<'a, E> {
    /// Rows of consecutive elements, `row` apart.
    pub fn rows(data: &'a [E], row: usize) -> Self {
        Self { data, row, column: 1 }
    }

    /// The transposed matrix.
    pub fn transposed(self) -> Self {
        Self { data: self.data, row: self.column, column: self.row }
    }

    /// Whether it has the elements of a matrix of this size.
    fn has(&self, rows: usize, columns: usize) -> bool {
        rows == 0
            || columns == 0
            || (rows - 1) * self.row + (columns - 1) * self.column < self.data.len()
    }
}

/// What a product does with the destination's former content.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Into {
    /// It is overwritten.
    Fresh,
    /// The product is added to it.
    Sum,
}

/// `dst = lhs rhs` or `dst += lhs rhs` on all threads; `dst` has rows of consecutive elements,
/// `dst_row` apart, and `[m, n, k]` are its rows, its columns and the length of the sums.
///
/// # Panics
/// When a slice is too short for its matrix, or rows of `dst` overlap.
pub(crate) fn large<E: Element>(
    into: Into,
    (dst, dst_row): (&mut [f32], usize),
    lhs: Matrix<'_>,
    rhs: Matrix<'_, E>,
    [m, n, k]: [usize; 3],
) {
    let parallel = m.saturating_mul(n).saturating_mul(k) >= PARALLEL;
    #[cfg(target_arch = "x86_64")]
    if m > 0 && n > 0 && k > 0 && super::simd::has_avx512() {
        check((dst, dst_row), lhs, rhs, [m, n, k]);
        let dst = tiled::Target { start: dst.as_mut_ptr(), row: dst_row };
        // SAFETY: the processor has AVX-512; `check` has seen every element that is read or written,
        // the borrow of `dst` is exclusive, and its rows do not overlap.
        return unsafe { tiled::product(parallel, into, dst, lhs, rhs, [m, n, k]) };
    }
    let wide = E::all_wide(rhs.data);
    let rhs = Matrix { data: &wide, row: rhs.row, column: rhs.column };
    general(parallel, into, (dst, dst_row), lhs, rhs, [m, n, k]);
}

/// As [`large`], on one thread and by the `gemm` crate.
pub(crate) fn small(
    into: Into,
    dst: (&mut [f32], usize),
    lhs: Matrix<'_>,
    rhs: Matrix<'_>,
    sizes: [usize; 3],
) {
    general(false, into, dst, lhs, rhs, sizes);
}

fn general(
    parallel: bool,
    into: Into,
    (dst, dst_row): (&mut [f32], usize),
    lhs: Matrix<'_>,
    rhs: Matrix<'_>,
    [m, n, k]: [usize; 3],
) {
    if m == 0 || n == 0 {
        return;
    }
    check((dst, dst_row), lhs, rhs, [m, n, k]);
    let parallelism = if parallel { gemm::Parallelism::Rayon(0) } else { gemm::Parallelism::None };
    // SAFETY: `check` keeps every element that is read or written within its slice, the borrow of
    // `dst` is exclusive, and its rows do not overlap.
    unsafe {
        gemm::gemm(
            m,
            n,
            k,
            dst.as_mut_ptr(),
            1,
            dst_row as isize,
            into == Into::Sum,
            lhs.data.as_ptr(),
            lhs.column as isize,
            lhs.row as isize,
            rhs.data.as_ptr(),
            rhs.column as isize,
            rhs.row as isize,
            1.0,
            1.0,
            false,
            false,
            false,
            parallelism,
        );
    }
}

fn check<E>(
    (dst, dst_row): (&[f32], usize),
    lhs: Matrix<'_>,
    rhs: Matrix<'_, E>,
    [m, n, k]: [usize; 3],
) {
    let long_enough = Matrix::rows(dst, dst_row).has(m, n);
    assert!(dst_row >= n && long_enough, "the destination is too short");
    assert!(lhs.has(m, k), "the left matrix is too short");
    assert!(rhs.has(k, n), "the right matrix is too short");
}

/// Blocks and threads.
#[cfg(target_arch = "x86_64")]
mod tiled {
    use std::cell::RefCell;
    use std::ops::Range;

    use rayon::prelude::*;

    use super::super::simd::LANES;
    pub(super) use super::super::tile::Target;
    use super::super::tile::{self, COLUMNS, Lines, ROWS, room};
    use super::{Element, Into, Matrix};

    /// The longest section of the sums.
    const DEPTH: usize = 512;

    /// The least and the most lines of a block.
    const BLOCK: [usize; 2] = [32, 3 * COLUMNS];

    /// Blocks for each thread, if there are lines enough: threads that are held up do less.
    const BLOCKS: usize = 8;

    /// Elements of the shared factor laid out by one task.
    const BAND: usize = 1 << 15;

    /// A product, the factor laid out for all and the one that is shared out.
    struct Job<'a, S, O> {
        parallel: bool,
        into: Into,
        dst: Target,
        shared: Lines<'a, S>,
        own: Lines<'a, O>,
        /// Length of the sums.
        k: usize,
    }

    /// # Safety
    /// The processor has AVX-512; the factors and `dst` have the elements that `[m, n, k]` name, none
    /// of which is 0; nothing else uses `dst`, and its rows do not overlap.
    pub(super) unsafe fn product<E: Element>(
        parallel: bool,
        into: Into,
        dst: Target,
        lhs: Matrix<'_>,
        rhs: Matrix<'_, E>,
        [m, n, k]: [usize; 3],
    ) {
        let left = Lines { data: lhs.data, count: m, line: lhs.row, step: lhs.column };
        let right = Lines { data: rhs.data, count: n, line: rhs.column, step: rhs.row };
        // SAFETY: by this function's contract.
        let run = || unsafe {
            if m < n {
                Job { parallel, into, dst, shared: left, own: right, k }.run::<ROWS, COLUMNS>();
            } else {
                Job { parallel, into, dst, shared: right, own: left, k }.run::<COLUMNS, ROWS>();
            }
        };
        if parallel {
            // Entering the pool once is faster than for every loop.
            rayon::scope(|_| run());
        } else {
            run();
        }
    }

    impl<S: Element, O: Element> Job<'_, S, O> {
        /// The whole product, section by section of the sums, in panels of `SHARED` lines of the shared
        /// factor and `OWN` lines of the other.
        ///
        /// # Safety
        /// As for [`product`].
        unsafe fn run<const SHARED: usize, const OWN: usize>(&self) {
            let depth = self.k.div_ceil(self.k.div_ceil(DEPTH));
            let room = room(SHARED, depth);
            let in_band = BAND.div_ceil(room);
            let threads = if self.parallel { rayon::current_num_threads() } else { 1 };
            let [least, most] = BLOCK;
            let block = self.own.count.div_ceil(threads * BLOCKS).clamp(least, most);
            let block = block.next_multiple_of(OWN);
            with_buffer(self.shared.count.div_ceil(SHARED) * room, |panels| {
                for start in (0..self.k).step_by(depth) {
                    let section = start..self.k.min(start + depth);
                    let bands: Vec<_> = panels.chunks_mut(in_band * room).enumerate().collect();
                    each(self.parallel, bands, |(i, panels)| {
                        let first = i * in_band * SHARED;
                        let count = (in_band * SHARED).min(self.shared.count - first);
                        let lines = self.shared.part(first, count, start);
                        // SAFETY: by this function's contract.
                        unsafe { tile::lay::<S, SHARED>(panels, room, lines, section.len()) };
                    });
                    let panels = &*panels;
                    let blocks = (0..self.own.count).step_by(block).collect();
                    each(self.parallel, blocks, |first: usize| {
                        let lines = first..self.own.count.min(first + block);
                        // SAFETY: by this function's contract; blocks have different lines, and so
                        // different places of the destination.
                        unsafe { self.block::<SHARED, OWN>(panels, room, lines, section.clone()) };
                    });
                }
            });
        }

        /// Adds a section of the sums of `lines` of the factor shared out with all lines of the other,
        /// whose `panels` are `shared_room` apart.
        ///
        /// # Safety
        /// As for [`product`], and no one else is writing to these lines' part of the destination.
        unsafe fn block<const SHARED: usize, const OWN: usize>(
            &self,
            panels: &[f32],
            shared_room: usize,
            lines: Range<usize>,
            section: Range<usize>,
        ) {
            let long = section.len();
            let add = self.into == Into::Sum || section.start > 0;
            let own_room = room(OWN, long);
            with_buffer(lines.len().div_ceil(OWN) * own_room, |mine| {
                let from = self.own.part(lines.start, lines.len(), section.start);
                // SAFETY: by this function's contract.
                unsafe { tile::lay::<O, OWN>(mine, own_room, from, long) };
                for (i, shared) in panels.chunks_exact(shared_room).enumerate() {
                    let s = i * SHARED;
                    for (j, own) in mine.chunks_exact(own_room).enumerate() {
                        let o = lines.start + j * OWN;
                        let ends = [SHARED.min(self.shared.count - s), OWN.min(lines.end - o)];
                        let [a, b] = left_first::<SHARED, _>([shared, own]);
                        let place = left_first::<SHARED, _>([s, o]);
                        let size = left_first::<SHARED, _>(ends);
                        // SAFETY: by this function's contract; `size` ends where the matrices do.
                        unsafe { tile::tile(add, self.dst, place, size, [a, b], long) };
                    }
                }
            });
        }
    }

    /// What belongs to the shared factor and to the other, as what belongs to the left and the right.
    fn left_first<const SHARED: usize, T>([shared, own]: [T; 2]) -> [T; 2] {
        if SHARED == ROWS { [shared, own] } else { [own, shared] }
    }

    /// Runs the task on all items, on all threads or in turn.
    fn each<T: Send>(parallel: bool, items: Vec<T>, task: impl Fn(T) + Send + Sync) {
        if parallel && items.len() > 1 {
            items.into_par_iter().with_max_len(1).for_each(task);
        } else {
            items.into_iter().for_each(task);
        }
    }

    /// Gives `work` a buffer that begins a cache line, with anything in it. Threads keep theirs, for
    /// fresh memory costs more than the copying.
    fn with_buffer(len: usize, work: impl FnOnce(&mut [f32])) {
        thread_local! {
            static SPARE: RefCell<Vec<Vec<f32>>> = const { RefCell::new(Vec::new()) };
        }
        let mut buffer = SPARE.with_borrow_mut(Vec::pop).unwrap_or_default();
        if buffer.len() < len + LANES {
            buffer = vec![0.0; len + LANES];
        }
        let start = buffer.as_ptr().align_offset(64).min(LANES);
        work(&mut buffer[start..start + len]);
        SPARE.with_borrow_mut(|spare| spare.push(buffer));
    }
}
