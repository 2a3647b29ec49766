//! Dot products of many rows with many rows, in one order for each: *the dot form*.
//!
//! Sixteen lanes along the rows, each a chain of fused multiply-adds; then the tree of
//! [`total`](super::math::total); then the elements beyond the last sixteen, one by one. A result
//! depends on its two rows alone. The sums of a *tile*, a few rows of either matrix, stay in registers
//! while its rows pass by.

use super::lanes::{SUMS, Simd, wide};
use super::matrix::Element;
use super::prefetch;
use super::simd::LANES;

/// Lanes of a row that pass by before those of the next tile do, so that they stay in the first-level
/// cache.
const SECTION: usize = 64;

/// Rows of one length, one after the other.
#[derive(Clone, Copy)]
pub struct Rows<'a, E> {
    /// The elements.
    pub data: &'a [E],
    /// Elements of a row.
    pub len: usize,
}

impl<'a, E: Element> Rows<'a, E> {
    /// The rows from `first` on.
    #[inline(always)]
    pub fn from(self, first: usize) -> Self {
        Self { data: &self.data[self.data.len().min(first * self.len)..], ..self }
    }

    /// The first `count` rows.
    #[inline(always)]
    pub fn first(self, count: usize) -> Self {
        Self { data: &self.data[..count * self.len], ..self }
    }

    #[inline(always)]
    fn row(self, row: usize) -> &'a [E] {
        &self.data[row * self.len..][..self.len]
    }

    /// Packs the rows into panels of `R` rows, each a cache line of the first row, one of the second
    /// and so on; the last panel is filled up with zeros. `to` starts on a cache line.
    #[inline(always)]
    pub fn packed<const R: usize>(self, to: &mut [f32]) -> Panels<'_, R> {
        let steps = self.len / LANES;
        let data = to.as_chunks_mut().0.as_chunks_mut::<R>().0;
        let panels = data.chunks_exact_mut(steps.max(1));
        for (panel, rows) in panels.zip(self.data.chunks(R * self.len)) {
            for r in 0..R {
                let row = rows.get(r * self.len..(r + 1) * self.len).unwrap_or(&[]).as_chunks().0;
                if row.is_empty() {
                    panel.iter_mut().for_each(|lines| lines[r].fill(0.0));
                }
                for (lines, from) in panel.iter_mut().zip(row) {
                    lines[r] = wide(from);
                }
            }
        }
        Panels { data, steps }
    }
}

/// [`Rows::packed`] rows.
#[derive(Clone, Copy)]
pub struct Panels<'a, const R: usize> {
    data: &'a [[[f32; LANES]; R]],
    steps: usize,
}

/// The elements of `N` rows, sixteen of each at a time.
pub trait Lines<const N: usize>: Copy {
    /// Sixteen elements of a row in f32.
    fn lanes<S: Simd>(self, simd: S, step: usize, row: usize) -> S::Lanes;

    /// The steps from `from` to before `to`.
    fn part(self, from: usize, to: usize) -> Self;
}

impl<E: Element, const N: usize> Lines<N> for [&[[E; LANES]]; N] {
    #[inline(always)]
    fn lanes<S: Simd>(self, simd: S, step: usize, row: usize) -> S::Lanes {
        simd.load(&self[row][step])
    }

    #[inline(always)]
    fn part(mut self, from: usize, to: usize) -> Self {
        for row in &mut self {
            *row = &row[from..to];
        }
        self
    }
}

impl<const N: usize> Lines<N> for &[[[f32; LANES]; N]] {
    #[inline(always)]
    fn lanes<S: Simd>(self, simd: S, step: usize, row: usize) -> S::Lanes {
        simd.load(&self[step][row])
    }

    #[inline(always)]
    fn part(self, from: usize, to: usize) -> Self {
        &self[from..to]
    }
}

/// Rows by groups of `N`.
pub trait Groups<const N: usize>: Copy {
    /// The rows of a group.
    type Lines: Lines<N>;

    /// The rows of `group`, without those elements that fill no sixteen lanes.
    fn group(self, group: usize) -> Self::Lines;
}

impl<'a, E: Element, const N: usize> Groups<N> for Rows<'a, E> {
    type Lines = [&'a [[E; LANES]]; N];

    #[inline(always)]
    fn group(self, group: usize) -> Self::Lines {
        let mut lines: Self::Lines = [&[]; N];
        for (i, line) in lines.iter_mut().enumerate() {
            *line = self.row(group * N + i).as_chunks().0;
        }
        lines
    }
}

impl<'a, const N: usize> Groups<N> for Panels<'a, N> {
    type Lines = &'a [[[f32; LANES]; N]];

    #[inline(always)]
    fn group(self, group: usize) -> Self::Lines {
        &self.data[group * self.steps..][..self.steps]
    }
}

/// Where a product's results go.
pub struct Target<'a, 'b> {
    /// One slice for each row of `x`.
    pub y: &'a mut [&'b mut [f32]],
    /// The place of the first result in each.
    pub first: usize,
    /// Memory for `N * LANES` numbers for each row, and for as many rows as fill a group.
    pub sums: &'a mut [f32],
}

/// Writes the products of all rows of `x` with the first `N` rows of `w`, `R` rows at once. The sums over
/// whole lanes read `groups` and `tile`, which are the same rows in an order of their own. On the way the next `N`
/// rows of `w` are brought into the cache.
#[inline(always)]
pub fn products<S: Simd, E: Element, const R: usize, const N: usize>(
    simd: S,
    (x, groups): (Rows<'_, f32>, impl Groups<R>),
    (w, tile): (Rows<'_, E>, impl Lines<N>),
    target: Target<'_, '_>,
) {
    let Target { y, first, sums } = target;
    let sums = sums.as_chunks_mut().0.as_chunks_mut().0.as_chunks_mut::<R>().0;
    let steps = x.len / LANES;
    let sections = steps.div_ceil(SECTION).max(1);
    let section = steps.div_ceil(sections);
    let ahead = w.from(N).data;
    let ahead = &ahead[..ahead.len().min(N * w.len)];
    let parts = sections * y.len().div_ceil(R).max(1);
    let mut ahead = ahead.chunks(ahead.len().div_ceil(parts).max(1));
    let mut from = 0;
    loop {
        let to = steps.min(from + section);
        let part_of_w = tile.part(from, to);
        for (group, (y, sums)) in y.chunks_mut(R).zip(&mut *sums).enumerate() {
            let ahead = ahead.next().unwrap_or_default();
            let mut ahead = ahead.chunks(
                ahead.len().div_ceil((to - from).max(1)).next_multiple_of(LANES).max(LANES),
            );
            let mut lanes = [[simd.splat(0.0); N]; R];
            if from > 0 {
                load(simd, &mut lanes, sums);
            }
            let part = groups.group(group).part(from, to);
            add(
                simd,
                &mut lanes,
                to - from,
                (part, part_of_w),
                #[inline(always)]
                || prefetch::lines(ahead.next().unwrap_or_default()),
            );
            if to < steps {
                store(simd, sums, lanes);
                continue;
            }
            for (r, (y, mut totals)) in y.iter_mut().zip(totals(simd, lanes)).enumerate() {
                if x.len > steps * LANES {
                    add_rest(simd, &mut totals, x.row(group * R + r), w);
                }
                y[first..first + N].copy_from_slice(&totals);
            }
        }
        if to == steps {
            return;
        }
        from = to;
    }
}

/// Adds the products of `steps` times sixteen elements of each row to the sums of a tile; calls `fetch` before each
/// step.
#[inline(always)]
fn add<S: Simd, const R: usize, const N: usize>(
    simd: S,
    sums: &mut [[S::Lanes; N]; R],
    steps: usize,
    (x, w): (impl Lines<R>, impl Lines<N>),
    mut fetch: impl FnMut(),
) {
    let (x, w) = (x.part(0, steps), w.part(0, steps));
    for step in 0..steps {
        fetch();
        let mut rows = [simd.splat(0.0); R];
        for (r, row) in rows.iter_mut().enumerate() {
            *row = x.lanes(simd, step, r);
        }
        for n in 0..N {
            let w = w.lanes(simd, step, n);
            for (sums, row) in sums.iter_mut().zip(rows) {
                sums[n] = simd.fused(row, w, sums[n]);
            }
        }
    }
}

/// Adds the products of the elements that fill no sixteen lanes.
#[inline(always)]
fn add_rest<S: Simd, E: Element, const N: usize>(
    simd: S,
    totals: &mut [f32; N],
    x: &[f32],
    w: Rows<'_, E>,
) {
    let from = x.len() - x.len() % LANES;
    for (n, total) in totals.iter_mut().enumerate() {
        for (x, w) in x[from..].iter().zip(&w.row(n)[from..]) {
            *total = simd.fused_scalar(*x, w.wide(), *total);
        }
    }
}

#[inline(always)]
fn load<S: Simd, const R: usize, const N: usize>(
    simd: S,
    to: &mut [[S::Lanes; N]; R],
    from: &[[[f32; LANES]; N]; R],
) {
    for (to, from) in to.as_flattened_mut().iter_mut().zip(from.as_flattened()) {
        *to = simd.load(from);
    }
}

#[inline(always)]
fn store<S: Simd, const R: usize, const N: usize>(
    simd: S,
    to: &mut [[[f32; LANES]; N]; R],
    from: [[S::Lanes; N]; R],
) {
    for (to, from) in to.as_flattened_mut().iter_mut().zip(from.as_flattened()) {
        simd.store(to, *from);
    }
}

/// The sum of every one's lanes.
#[inline(always)]
fn totals<S: Simd, const R: usize, const N: usize>(
    simd: S,
    sums: [[S::Lanes; N]; R],
) -> [[f32; N]; R] {
    let mut totals = [[0.0; N]; R];
    let parts = totals.as_flattened_mut().chunks_mut(SUMS).zip(sums.as_flattened().chunks(SUMS));
    for (to, sums) in parts {
        let mut part = [simd.splat(0.0); SUMS];
        part[..sums.len()].copy_from_slice(sums);
        to.copy_from_slice(&simd.totals(sums.len(), part)[..sums.len()]);
    }
    totals
}
