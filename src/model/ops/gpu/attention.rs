//! Attention in tiles of queries and keys, whose scores stay in shared memory (arXiv 2205.14135).
//!
//! Key tiles that no query of a tile sees are not read. Queries and keys are `[batch, heads, seq, width]`; values, results
//! and their gradients `[batch, seq, heads, width]` in memory, so that splitting and joining the heads copies nothing.

use burn::tensor::DType;
use burn_cubecl::kernel::into_contiguous;
use burn_cubecl::tensor::CubeTensor;
use cubecl::prelude::*;

use super::tile::{
    BLOCK, HIDDEN, Sizes, add_products, add_weighted, filled, load, sees, write, zeros,
};
use kernels::gpu::{argument, cubes, element, empty, swap_heads};

/// Hides the unit's scores of keys that their queries do not see, and writes the largest of each query's scores to
/// `partial` `[tile, lanes]`. `query` and `key` are the first ones of the tile.
#[cube]
fn hide(
    scores: &mut Array<f32>,
    partial: &mut Shared<[f32]>,
    first: &[i32],
    row: usize,
    query: usize,
    key: usize,
    seq: usize,
    #[comptime] tile: usize,
) {
    let lanes = comptime!(tile / BLOCK);
    let (x, y) = (UNIT_POS_X as usize, UNIT_POS_Y as usize);
    #[unroll]
    for i in 0..BLOCK {
        let mut top = f32::new(HIDDEN);
        #[unroll]
        for j in 0..BLOCK {
            if !sees(first, row, query + y + i * lanes, key + x + j * lanes, seq) {
                scores[i * BLOCK + j] = f32::new(HIDDEN);
            }
            top = max(top, scores[i * BLOCK + j]);
        }
        partial[(y + i * lanes) * lanes + x] = top;
    }
}

/// Raises the largest score of each of the unit's queries to the largest of a tile, and multiplies what was summed
/// before by what that makes of it.
#[cube]
fn raise(
    tops: &mut Array<f32>,
    sums: &mut Array<f32>,
    totals: &mut Array<f32>,
    partial: &Shared<[f32]>,
    #[comptime] columns: usize,
    #[comptime] tile: usize,
) {
    let lanes = comptime!(tile / BLOCK);
    #[unroll]
    for i in 0..BLOCK {
        let start = (UNIT_POS_Y as usize + i * lanes) * lanes;
        let mut top = tops[i];
        for unit in 0..lanes {
            top = max(top, partial[start + unit]);
        }
        let factor = f32::exp(tops[i] - top);
        tops[i] = top;
        totals[i] *= factor;
        #[unroll]
        for c in 0..columns {
            sums[i * columns + c] *= factor;
        }
    }
}

/// Writes the weights of the unit's scores to `weights`, and the sum of each query's to `partial`.
#[cube]
fn weigh(
    scores: &Array<f32>,
    tops: &Array<f32>,
    weights: &mut Shared<[f32]>,
    partial: &mut Shared<[f32]>,
    #[comptime] tile: usize,
) {
    let lanes = comptime!(tile / BLOCK);
    let (x, y) = (UNIT_POS_X as usize, UNIT_POS_Y as usize);
    #[unroll]
    for i in 0..BLOCK {
        let at = y + i * lanes;
        let mut total = 0.0f32;
        #[unroll]
        for j in 0..BLOCK {
            let score = scores[i * BLOCK + j];
            let mut weight = f32::exp(score - tops[i]);
            if score == f32::new(HIDDEN) {
                weight = 0.0f32;
            }
            weights[at * (tile + 1) + x + j * lanes] = weight;
            total += weight;
        }
        partial[at * lanes + x] = total;
    }
}

/// Adds a tile's sums of weights to those of the unit's queries.
#[cube]
fn add_totals(totals: &mut Array<f32>, partial: &Shared<[f32]>, #[comptime] tile: usize) {
    let lanes = comptime!(tile / BLOCK);
    #[unroll]
    for i in 0..BLOCK {
        let start = (UNIT_POS_Y as usize + i * lanes) * lanes;
        for unit in 0..lanes {
            totals[i] += partial[start + unit];
        }
    }
}

#[cube(launch)]
fn forward_kernel<F: Float>(
    q: &[F],
    k: &[F],
    v: &[F],
    first: &[i32],
    y: &mut [F],
    lse: &mut [f32], // [batch, heads, seq]
    seq: usize,
    heads: usize,
    kv_heads: usize,
    rows: usize, // batch * heads
    #[comptime] width: usize,
    #[comptime] tile: usize,
    #[define(F)] _element: ElemType,
) {
    let lanes = comptime!(tile / BLOCK);
    let columns = comptime!(width.div_ceil(lanes));
    let tiles = seq.div_ceil(tile);
    if CUBE_POS >= rows * tiles {
        terminate!();
    }
    let start = (tiles - 1 - CUBE_POS / rows) * tile; // the longest first
    let (row, head) = (CUBE_POS % rows / heads, CUBE_POS % rows % heads);
    let kv_head = head / (heads / kv_heads);

    let mut queries = Shared::<[f32]>::new_slice(tile * (width + 1) + lanes);
    let mut other = Shared::<[f32]>::new_slice(tile * (width + 1) + lanes);
    let mut weights = Shared::<[f32]>::new_slice(tile * (tile + 1));
    let mut partial = Shared::<[f32]>::new_slice(tile * lanes);
    let q_start = ((row * heads + head) * seq + start) * width;
    load::<F>(q, q_start, width, seq - start, &mut queries, width, tile);
    let (mut sums, mut totals) = (zeros(BLOCK * columns), zeros(BLOCK));
    let mut tops = filled(HIDDEN, BLOCK);

    let mut from = first[(row * seq + start) % first.len()] as usize / tile * tile;
    while from < min(start + tile, seq) {
        let k_start = ((row * kv_heads + kv_head) * seq + from) * width;
        load::<F>(k, k_start, width, seq - from, &mut other, width, tile);
        sync_cube();
        let mut scores = zeros(BLOCK * BLOCK);
        add_products(&mut scores, &queries, &other, width, tile);
        hide(&mut scores, &mut partial, first, row, start, from, seq, tile);
        sync_cube(); // keys are read, maxima are written
        raise(&mut tops, &mut sums, &mut totals, &partial, columns, tile);
        sync_cube(); // maxima are read
        let v_start = ((row * seq + from) * kv_heads + kv_head) * width;
        load::<F>(v, v_start, kv_heads * width, seq - from, &mut other, width, tile);
        weigh(&scores, &tops, &mut weights, &mut partial, tile);
        sync_cube(); // values, weights and their sums are written
        add_totals(&mut totals, &partial, tile);
        add_weighted(&mut sums, &weights, &other, false, width, tile);
        sync_cube(); // all is read
        from += tile;
    }

    #[unroll]
    for i in 0..BLOCK {
        let query = start + UNIT_POS_Y as usize + i * lanes;
        if query < seq && UNIT_POS_X == 0 {
            lse[(row * heads + head) * seq + query] = tops[i] + f32::ln(totals[i]);
        }
        #[unroll]
        for c in 0..columns {
            sums[i * columns + c] /= totals[i];
        }
    }
    let to = ((row * seq + start) * heads + head) * width;
    write::<F>(&sums, y, to, heads * width, seq - start, width, tile);
}

/// The result, in memory `[batch, seq, heads, width]`, and the log-sum-exp of the scores, `[batch, heads, seq]`.
pub(super) fn forward([q, k, v]: [CubeTensor; 3], first: CubeTensor) -> [CubeTensor; 2] {
    let (q, k) = (into_contiguous(q), into_contiguous(k));
    let v = into_contiguous(swap_heads(v));
    let sizes = Sizes::of(&q, &k);
    let Sizes { batch, heads, kv_heads, seq, width } = sizes;
    let tile = sizes.tile(&q, 2, 2);
    let y = empty(&q, [batch, seq, heads, width], q.dtype);
    let lse = empty(&q, [batch, heads, seq], DType::F32);
    let (client, types) = (q.client.clone(), element(&q));
    let (rows, lanes) = (batch * heads, (tile / BLOCK) as u32);
    let grid = cubes(rows * seq.div_ceil(tile));
    let [q, k, v] = [q, k, v].map(argument);
    let first = argument(into_contiguous(first));
    let [to, to_lse] = [&y, &lse].map(|tensor| argument(tensor.clone()));
    forward_kernel::launch(
        &client,
        grid,
        CubeDim::new_2d(lanes, lanes),
        q,
        k,
        v,
        first,
        to,
        to_lse,
        seq,
        heads,
        kv_heads,
        rows,
        width,
        tile,
        types,
    );
    [swap_heads(y), lse]
}
