//! The parts of `tiled.rs` in AVX-512: panels are packed, and tiles summed.

#![allow(unsafe_code, reason = "vector instructions, and a destination shared by tasks")]

use std::arch::x86_64::*;

use super::prefetch;
use super::simd::LANES;

/// Rows of a tile: with three registers to a row, 24 of the 32 registers are sums.
pub const ROWS: usize = LANES / 2;

/// Columns of a tile.
pub const COLUMNS: usize = 3 * LANES;

/// Rows by which prefetching is ahead of copying.
const AHEAD: usize = 8;

/// One step of the sums of all columns of a tile.
type Columns = [[f32; LANES]; COLUMNS / LANES];

/// A product's destination, in contiguous rows. Tasks write to it at the same time, each to its own
/// places.
#[derive(Clone, Copy)]
pub struct Target {
    /// Element `(0, 0)`.
    pub start: *mut f32,
    /// Stride from row to row.
    pub row: usize,
}

// SAFETY: it is only written to by `tile`, whose callers promise that no two threads take the same
// place at the same time.
unsafe impl Send for Target {}
// SAFETY: as above.
unsafe impl Sync for Target {}

/// A factor as `count` lines, along which the sums run: the left matrix's rows or the right one's
/// columns. Element `d` of line `l` is `data[l * line + d * step]`.
#[derive(Clone, Copy)]
pub struct Lines<'a> {
    /// The elements, starting with the first of the first line.
    pub data: &'a [f32],
    /// The number of lines.
    pub count: usize,
    /// Stride from line to line.
    pub line: usize,
    /// Stride from element to element of a line.
    pub step: usize,
}

impl Lines<'_> {
    /// `count` lines from line `first` on, each from element `start` on.
    pub fn part(self, first: usize, count: usize, start: usize) -> Self {
        let data = &self.data[first * self.line + start * self.step..];
        Self { data, count, ..self }
    }
}

/// Stride from panel to panel. Panels start on a cache line; with one line between them, the places
/// that are written at the same time do not all fall into the same set of the cache.
pub const fn panel_stride(width: usize, depth: usize) -> usize {
    (depth * width).next_multiple_of(LANES) + LANES
}

/// Packs the first `depth` elements of the lines into panels of `W` lines, `stride` apart, from the element `at` of
/// their sums on; the last panel is filled up with zeros.
///
/// # Safety
/// The processor has AVX-512.
pub unsafe fn pack<const W: usize>(
    to: &mut [f32],
    (stride, at): (usize, usize),
    lines: Lines<'_>,
    depth: usize,
) {
    let to = &mut to[at * W..];
    // SAFETY: by this function's contract.
    unsafe {
        if lines.line == 1 {
            pack_adjacent::<W>(to, stride, lines, depth);
        } else {
            pack_transposed::<W>(to, stride, lines, depth);
        }
    }
}

/// [`pack`] for adjacent lines: their elements are copied together.
#[target_feature(enable = "avx512f")]
fn pack_adjacent<const W: usize>(to: &mut [f32], stride: usize, lines: Lines<'_>, depth: usize) {
    for d in 0..depth {
        let from = &lines.data[d * lines.step..][..lines.count];
        for i in (0..lines.count).step_by(LANES) {
            prefetch::line(from.as_ptr().wrapping_add(AHEAD * lines.step + i));
        }
        for (panel, from) in from.chunks(W).enumerate() {
            let to = &mut to[panel * stride + d * W..][..W];
            if let Some(from) = from.first_chunk::<W>() {
                to.copy_from_slice(from); // the compiler knows the length
            } else {
                let (lines, missing) = to.split_at_mut(from.len());
                lines.copy_from_slice(from);
                missing.fill(0.0);
            }
        }
    }
}

/// [`pack`] for contiguous lines: squares of 8 x 8 are transposed in registers. Lines with another step
/// are copied element by element.
#[target_feature(enable = "avx512f")]
fn pack_transposed<const W: usize>(to: &mut [f32], stride: usize, lines: Lines<'_>, depth: usize) {
    let Lines { data, count, line, step } = lines;
    for first in (0..count.next_multiple_of(W)).step_by(ROWS) {
        let to = &mut to[first / W * stride + first % W..];
        let count = count.saturating_sub(first).min(ROWS);
        let data = &data[(first * line).min(data.len())..];
        let squares = if count == ROWS && step == 1 { depth / ROWS } else { 0 };
        for d in (0..squares * ROWS).step_by(ROWS) {
            let mut square = [_mm256_setzero_ps(); ROWS];
            for (i, value) in square.iter_mut().enumerate() {
                let from: &[f32; ROWS] =
                    data[i * line + d..].first_chunk().expect("a whole square");
                prefetch::line(from.as_ptr().wrapping_add(ROWS * line));
                // SAFETY: the array has eight elements.
                *value = unsafe { _mm256_loadu_ps(from.as_ptr()) };
            }
            for (i, value) in transposed(square).into_iter().enumerate() {
                let to = &mut to[(d + i) * W..][..ROWS];
                // SAFETY: the slice has eight elements.
                unsafe { _mm256_storeu_ps(to.as_mut_ptr(), value) };
            }
        }
        for d in squares * ROWS..depth {
            for (i, to) in to[d * W..][..ROWS].iter_mut().enumerate() {
                *to = if i < count { data[i * line + d * step] } else { 0.0 };
            }
        }
    }
}

/// The transposed square: by pairs, by fours, then halves of registers.
#[inline]
#[target_feature(enable = "avx512f")]
fn transposed(rows: [__m256; ROWS]) -> [__m256; ROWS] {
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

/// Stores or adds a section of the sums of one tile: `depth` products each, of a panel of rows `a` and
/// one of columns `b`.
///
/// # Shapes
/// The tile is `[rows, columns]` = `size` and starts at row and column `place` of the destination.
///
/// # Safety
/// The processor has AVX-512; the tile lies within the destination, and no one else is using its
/// elements.
pub unsafe fn tile(
    add: bool,
    dst: Target,
    place: [usize; 2],
    size: [usize; 2],
    [a, b]: [&[f32]; 2],
    depth: usize,
) {
    let a = a[..depth * ROWS].as_chunks().0;
    let b = b[..depth * COLUMNS].as_chunks().0.as_chunks().0;
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
    // The destination is fetched while the sums are formed.
    for row in 0..rows {
        for v in 0..V {
            prefetch::line(at(row, v));
        }
    }
    let mut sums = [[_mm512_setzero_ps(); V]; ROWS];
    for (a, b) in a.iter().zip(b) {
        let mut columns = [_mm512_setzero_ps(); V];
        for (column, b) in columns.iter_mut().zip(b) {
            // SAFETY: the array has sixteen elements.
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
            let lanes = (columns - v * LANES).min(LANES);
            let mask = (u32::MAX >> (u32::BITS as usize - lanes)) as __mmask16;
            let to = at(row, v);
            // SAFETY: lanes beyond the destination are masked; the others belong to this tile alone
            // by this function's contract.
            unsafe {
                let sum =
                    if add { _mm512_add_ps(_mm512_maskz_loadu_ps(mask, to), sum) } else { sum };
                _mm512_mask_storeu_ps(to, mask, sum);
            }
        }
    }
}
