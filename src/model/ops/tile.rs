//! The parts of `product.rs` in AVX-512: panels laid out, and tiles of sums.

#![allow(unsafe_code, reason = "vector instructions, and a destination shared by tasks")]

use std::arch::x86_64::*;

use super::product::Element;
use super::simd::LANES;

/// Rows of a tile: with three registers to a row, 24 of the 32 registers are sums.
pub(crate) const ROWS: usize = LANES / 2;

/// Columns of a tile.
pub(crate) const COLUMNS: usize = 3 * LANES;

/// Rows that memory is asked for ahead of the copying.
const AHEAD: usize = 8;

/// What the columns of a tile have at one place of the sums.
type Columns = [[f32; LANES]; COLUMNS / LANES];

/// A product's destination, rows of consecutive elements. Tasks write to it at the same time, each to
/// places of its own.
#[derive(Clone, Copy)]
pub(crate) struct Target {
    /// Element `(0, 0)`.
    pub start: *mut f32,
    /// Distance of two rows.
    pub row: usize,
}

// SAFETY: it is only written to by `tile`, whose callers promise that no two threads take the same
// place at the same time.
unsafe impl Send for Target {}
// SAFETY: as above.
unsafe impl Sync for Target {}

/// A factor as `count` lines that the sums run along, the left matrix's rows or the right one's
/// columns: element `d` of line `l` is `data[l * line + d * step]`.
#[derive(Clone, Copy)]
pub(crate) struct Lines<'a, E> {
    /// From the first element of the first line on.
    pub data: &'a [E],
    /// How many there are.
    pub count: usize,
    /// Distance of two lines.
    pub line: usize,
    /// Distance of two elements of a line.
    pub step: usize,
}

impl<E> Lines<'_, E> {
    /// `count` lines from line `first` on, from element `start` on.
    pub fn part(self, first: usize, count: usize, start: usize) -> Self {
        let data = &self.data[first * self.line + start * self.step..];
        Self { data, count, ..self }
    }
}

/// Room of a panel. Panels begin a cache line; with one line between them, the places that are
/// written at the same time do not all fall into the same set of the cache.
pub(crate) const fn room(width: usize, depth: usize) -> usize {
    (depth * width).next_multiple_of(LANES) + LANES
}

/// Lays out the first `long` elements of the lines in panels of `W` lines, `room` apart, and of zeros
/// where the last panel lacks lines.
///
/// # Safety
/// The processor has AVX-512.
pub(crate) unsafe fn lay<E: Element, const W: usize>(
    to: &mut [f32],
    room: usize,
    lines: Lines<'_, E>,
    long: usize,
) {
    // SAFETY: by this function's contract.
    unsafe {
        if lines.line == 1 {
            copy::<E, W>(to, room, lines, long);
        } else {
            turn::<E, W>(to, room, lines, long);
        }
    }
}

/// [`lay`] for lines side by side: their elements are copied together.
#[target_feature(enable = "avx512f")]
fn copy<E: Element, const W: usize>(to: &mut [f32], room: usize, lines: Lines<'_, E>, long: usize) {
    for d in 0..long {
        let from = &lines.data[d * lines.step..][..lines.count];
        for i in (0..lines.count).step_by(LANES) {
            prefetch(from.as_ptr().wrapping_add(AHEAD * lines.step + i));
        }
        for (panel, from) in from.chunks(W).enumerate() {
            let to = &mut to[panel * room + d * W..][..W];
            if let Some(from) = from.first_chunk::<W>() {
                widen(to, from); // of a length known to the compiler
            } else {
                let (there, missing) = to.split_at_mut(from.len());
                widen(there, from);
                missing.fill(0.0);
            }
        }
    }
}

#[inline(always)]
fn widen<E: Element>(to: &mut [f32], from: &[E]) {
    for (to, from) in to.iter_mut().zip(from) {
        *to = from.wide();
    }
}

/// [`lay`] for lines of consecutive elements: squares of 8 x 8 are turned in registers. Lines of other
/// steps are gone through one element at a time.
#[target_feature(enable = "avx512f")]
fn turn<E: Element, const W: usize>(to: &mut [f32], room: usize, lines: Lines<'_, E>, long: usize) {
    let Lines { data, count, line, step } = lines;
    for first in (0..count.next_multiple_of(W)).step_by(ROWS) {
        let to = &mut to[first / W * room + first % W..(first / W + 1) * room];
        let count = count.saturating_sub(first).min(ROWS);
        let data = &data[(first * line).min(data.len())..];
        let squares = if count == ROWS && step == 1 { long / ROWS } else { 0 };
        for d in (0..squares * ROWS).step_by(ROWS) {
            let mut square = [_mm256_setzero_ps(); ROWS];
            for (i, value) in square.iter_mut().enumerate() {
                let from: &[E; ROWS] = data[i * line + d..].first_chunk().expect("a whole square");
                prefetch(from.as_ptr().wrapping_add(ROWS * line));
                let wide = from.map(E::wide);
                // SAFETY: the elements are there.
                *value = unsafe { _mm256_loadu_ps(wide.as_ptr()) };
            }
            for (i, value) in turned(square).into_iter().enumerate() {
                let to = &mut to[(d + i) * W..][..ROWS];
                // SAFETY: the elements are there.
                unsafe { _mm256_storeu_ps(to.as_mut_ptr(), value) };
            }
        }
        for d in squares * ROWS..long {
            for (i, to) in to[d * W..][..ROWS].iter_mut().enumerate() {
                *to = if i < count { data[i * line + d * step].wide() } else { 0.0 };
            }
        }
    }
}

/// The transposed square: by pairs, by fours, then halves of registers.
#[inline]
#[target_feature(enable = "avx512f")]
fn turned(rows: [__m256; ROWS]) -> [__m256; ROWS] {
    let mut pairs = rows;
    for i in (0..ROWS).step_by(2) {
        pairs[i] = _mm256_unpacklo_ps(rows[i], rows[i + 1]);
        pairs[i + 1] = _mm256_unpackhi_ps(rows[i], rows[i + 1]);
    }
    // Half h of fours[4 g + c] has column 4 h + c of rows 4 g to 4 g + 3.
    let mut fours = pairs;
    for g in [0, 4] {
        fours[g] = _mm256_shuffle_ps::<0x44>(pairs[g], pairs[g + 2]);
        fours[g + 1] = _mm256_shuffle_ps::<0xee>(pairs[g], pairs[g + 2]);
        fours[g + 2] = _mm256_shuffle_ps::<0x44>(pairs[g + 1], pairs[g + 3]);
        fours[g + 3] = _mm256_shuffle_ps::<0xee>(pairs[g + 1], pairs[g + 3]);
    }
    let mut columns = fours;
    for c in 0..4 {
        columns[c] = _mm256_permute2f128_ps::<0x20>(fours[c], fours[4 + c]);
        columns[4 + c] = _mm256_permute2f128_ps::<0x31>(fours[c], fours[4 + c]);
    }
    columns
}

/// A section of the sums of a tile of `[rows, columns]` at `place`, stored or added: `long` products for
/// each, of a panel of rows and one of columns.
///
/// # Safety
/// The processor has AVX-512; the tile lies within the destination, and no one else is using its
/// elements.
pub(crate) unsafe fn tile(
    add: bool,
    dst: Target,
    place: [usize; 2],
    size: [usize; 2],
    [a, b]: [&[f32]; 2],
    long: usize,
) {
    let a = a[..long * ROWS].as_chunks().0;
    let b = b[..long * COLUMNS].as_chunks().0.as_chunks().0;
    // SAFETY: by this function's contract.
    unsafe {
        match size[1].div_ceil(LANES) {
            1 => tile_of::<1>(add, dst, place, size, a, b),
            2 => tile_of::<2>(add, dst, place, size, a, b),
            _ => tile_of::<3>(add, dst, place, size, a, b),
        }
    }
}

/// [`tile`] with up to `V` registers of columns.
///
/// # Safety
/// As for [`tile`].
#[target_feature(enable = "avx512f")]
unsafe fn tile_of<const V: usize>(
    add: bool,
    dst: Target,
    place: [usize; 2],
    [rows, columns]: [usize; 2],
    a: &[[f32; ROWS]],
    b: &[Columns],
) {
    let at = |row: usize, v: usize| {
        dst.start.wrapping_add((place[0] + row) * dst.row + place[1] + v * LANES)
    };
    // The destination is on its way while the sums are formed.
    for row in 0..rows {
        for v in 0..V {
            prefetch(at(row, v));
        }
    }
    let mut sums = [[_mm512_setzero_ps(); V]; ROWS];
    for (a, b) in a.iter().zip(b) {
        let mut columns = [_mm512_setzero_ps(); V];
        for (column, b) in columns.iter_mut().zip(b) {
            // SAFETY: the elements are there.
            *column = unsafe { _mm512_loadu_ps(b.as_ptr()) };
        }
        for (sums, &a) in sums.iter_mut().zip(a) {
            let a = _mm512_set1_ps(a);
            for (sum, column) in sums.iter_mut().zip(columns) {
                *sum = _mm512_fmadd_ps(a, column, *sum);
            }
        }
    }
    for (row, sums) in sums.iter().enumerate().take(rows) {
        for (v, &sum) in sums.iter().enumerate() {
            let there = (columns - v * LANES).min(LANES);
            let mask = (u32::MAX >> (u32::BITS as usize - there)) as __mmask16;
            let to = at(row, v);
            // SAFETY: lanes beyond the destination are masked; the others are this tile's alone by
            // this function's contract.
            unsafe {
                let sum =
                    if add { _mm512_add_ps(_mm512_maskz_loadu_ps(mask, to), sum) } else { sum };
                _mm512_mask_storeu_ps(to, mask, sum);
            }
        }
    }
}

#[inline(always)]
fn prefetch<T>(from: *const T) {
    // SAFETY: a hint, which may name any address.
    unsafe { _mm_prefetch::<_MM_HINT_T0>(from.cast()) }
}
