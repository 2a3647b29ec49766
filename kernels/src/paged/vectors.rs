//! The inner loops of paged attention: a block's scores for some lines, and the sum of its weighted values.

use pulp::Simd;

use super::{BLOCK, TILE, tiles};
use crate::math::{exp_shifted, largest};

/// The scores of `L` lines for the first `keys` keys of a block or more.
///
/// # Shapes
/// `q` `[head_dim, L]`, `page` `[head_dim, BLOCK]`; the scores are `stride` apart from line to line.
#[inline(always)]
pub(super) fn score<S: Simd, const L: usize>(
    simd: S,
    q: &[f32],
    page: &[f32],
    keys: usize,
    scores: (&mut [f32], usize),
) {
    let (q, _) = q.as_chunks();
    if is_wide::<S, L>() && keys > 2 * S::F32_LANES {
        score_by::<S, L, 4>(simd, q, page, keys, scores);
    } else {
        score_by::<S, L, 2>(simd, q, page, keys, scores);
    }
}

/// Whether four vectors for each of `L` lines fit the registers; otherwise two do.
#[inline(always)]
fn is_wide<S: Simd, const L: usize>() -> bool {
    S::REGISTER_COUNT >= 32 || L <= 2
}

/// [`score`] for `V` vectors of keys at a time.
#[inline(always)]
fn score_by<S: Simd, const L: usize, const V: usize>(
    simd: S,
    q: &[[f32; L]],
    page: &[f32],
    keys: usize,
    (scores, stride): (&mut [f32], usize),
) {
    let width = V * S::F32_LANES;
    for first in (0..keys.min(BLOCK)).step_by(width) {
        let mut sums = [[simd.splat_f32s(0.0); V]; L];
        for (q, line) in q.iter().zip(page.chunks_exact(BLOCK)) {
            let keys = vectors::<S, V>(&line[first..first + width]);
            for l in 0..L {
                let q = simd.splat_f32s(q[l]);
                for v in 0..V {
                    sums[l][v] = simd.mul_add_e_f32s(q, keys[v], sums[l][v]);
                }
            }
        }
        for (l, sums) in sums.iter().enumerate() {
            let (to, _) = S::as_mut_simd_f32s(&mut scores[l * stride + first..][..width]);
            to.copy_from_slice(sums);
        }
    }
}

/// Writes the sum of the values, weighted by the softmax of the scores, of every line; line `l` sees the first `seen(l)` keys.
///
/// # Shapes
/// The scores are `stride` apart from line to line, and change; `pages` are the values of each block,
/// `[BLOCK, width]`, and each of `y` is `[width]`.
#[inline(always)]
pub(super) fn weigh<'a, S: Simd>(
    simd: S,
    (scores, stride): (&mut [f32], usize),
    seen: impl Fn(usize) -> usize,
    pages: impl Iterator<Item = &'a [f32]>,
    y: &mut [&mut [f32]],
) {
    let mut scales = Vec::with_capacity(y.len());
    for (line, (y, scores)) in y.iter_mut().zip(scores.chunks_exact_mut(stride)).enumerate() {
        let scores = &mut scores[..seen(line)];
        scales.push(1.0 / exp_shifted(scores, largest(scores)));
        y.fill(0.0);
    }
    for (place, page) in pages.enumerate() {
        let first = place * BLOCK;
        for tile in tiles(y.len()) {
            let weights = (&scores[tile.start * stride + first..], stride);
            let y = &mut y[tile.clone()];
            let seen = |l| seen(tile.start + l).saturating_sub(first).min(BLOCK);
            match tile.len() {
                1 => weigh_tile::<S, 1>(simd, weights, page, seen, y),
                2 => weigh_tile::<S, 2>(simd, weights, page, seen, y),
                _ => weigh_tile::<S, TILE>(simd, weights, page, seen, y),
            }
        }
    }
    for (y, scale) in y.iter_mut().zip(scales) {
        y.iter_mut().for_each(|y| *y *= scale);
    }
}

/// Adds the values of a block, weighted, to the results of `L` lines, line `l` of which sees the first `seen(l)`
/// keys of the block: all lines together for the keys that all see, then each alone for its others.
///
/// # Shapes
/// `page` `[BLOCK, head_dim]`; `weights` are `stride` apart from line to line.
#[inline(always)]
fn weigh_tile<S: Simd, const L: usize>(
    simd: S,
    (weights, stride): (&[f32], usize),
    page: &[f32],
    seen: impl Fn(usize) -> usize,
    y: &mut [&mut [f32]],
) {
    let y: &mut [&mut [f32]; L] = y.first_chunk_mut().expect("a result for every line");
    let (head_dim, shared) = (y[0].len(), seen(0));
    if shared > 0 {
        let weights = std::array::from_fn(|l| &weights[l * stride..][..shared]);
        weigh_keys::<S, L>(simd, weights, page, y.each_mut().map(|y| &mut **y));
    }
    for (l, y) in y.iter_mut().enumerate() {
        let own = &weights[l * stride..][shared..seen(l)];
        if !own.is_empty() {
            weigh_keys(simd, [own], &page[shared * head_dim..], [&mut **y]);
        }
    }
}

/// Adds the values of some keys of a block, weighted, to `L` results.
///
/// # Shapes
/// `page` `[keys, head_dim]` and more; each of `weights` `[keys]`, of `y` `[head_dim]`.
#[inline(always)]
pub(super) fn weigh_keys<S: Simd, const L: usize>(
    simd: S,
    weights: [&[f32]; L],
    page: &[f32],
    mut y: [&mut [f32]; L],
) {
    let head_dim = y[0].len();
    let wide = if S::REGISTER_COUNT >= 32 || L <= 2 { 4 } else { 2 };
    let mut first = 0;
    while first + wide * S::F32_LANES <= head_dim {
        if wide == 4 {
            weigh_columns::<S, L, 4>(simd, weights, page, first, &mut y);
        } else {
            weigh_columns::<S, L, 2>(simd, weights, page, first, &mut y);
        }
        first += wide * S::F32_LANES;
    }
    while first + S::F32_LANES <= head_dim {
        weigh_columns::<S, L, 1>(simd, weights, page, first, &mut y);
        first += S::F32_LANES;
    }
    if first == head_dim {
        return;
    }
    // The columns that do not fill a vector.
    for (weights, y) in weights.iter().zip(y) {
        let y = &mut y[first..];
        let mut sums = simd.partial_load_f32s(y);
        for (weight, values) in weights.iter().zip(page.chunks_exact(head_dim)) {
            let values = simd.partial_load_f32s(&values[first..]);
            sums = simd.mul_add_e_f32s(simd.splat_f32s(*weight), values, sums);
        }
        simd.partial_store_f32s(y, sums);
    }
}

/// [`weigh_keys`] for `V` vectors of columns from `first` on.
#[inline(always)]
fn weigh_columns<S: Simd, const L: usize, const V: usize>(
    simd: S,
    weights: [&[f32]; L],
    page: &[f32],
    first: usize,
    y: &mut [&mut [f32]; L],
) {
    let (head_dim, keys) = (y[0].len(), weights[0].len());
    let columns = first..first + V * S::F32_LANES;
    let weights = weights.map(|weights| &weights[..keys]);
    let mut sums: [[S::f32s; V]; L] =
        std::array::from_fn(|l| *vectors::<S, V>(&y[l][columns.clone()]));
    for (key, values) in page.chunks_exact(head_dim).take(keys).enumerate() {
        let values = vectors::<S, V>(&values[columns.clone()]);
        for l in 0..L {
            let weight = simd.splat_f32s(weights[l][key]);
            for v in 0..V {
                sums[l][v] = simd.mul_add_e_f32s(weight, values[v], sums[l][v]);
            }
        }
    }
    for (y, sums) in y.iter_mut().zip(&sums) {
        let (to, _) = S::as_mut_simd_f32s(&mut y[columns.clone()]);
        to.copy_from_slice(sums);
    }
}

/// `V` whole vectors.
#[inline(always)]
fn vectors<S: Simd, const V: usize>(values: &[f32]) -> &[S::f32s; V] {
    let (vectors, _) = S::as_simd_f32s(values);
    vectors.first_chunk().expect("the slice has this many vectors")
}
