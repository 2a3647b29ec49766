//! Attention over a paged cache: a cube per row and head, whose lines of units share the blocks of the row's lane.

use burn::backend::TensorMetadata;
use burn_cubecl::tensor::CubeTensor;
use cubecl::prelude::*;
use kernels::paged::BLOCK;

use super::head_norm::HeadNorm;
use super::paged_heads;
use super::tile::{HIDDEN, zeros};
use kernels::gpu::{argument, cubes, element, empty, owned};

/// Blocks at a time.
const LINES: usize = 4;

/// The score of the unit's key in the block at `page`, which has `keys` keys.
#[cube]
fn score<F: Float>(
    query: &Shared<[f32]>,
    pages: &[F],
    page: usize,
    keys: usize,
    #[comptime] width: usize,
) -> f32 {
    let mut score = f32::new(HIDDEN);
    if (UNIT_POS_X as usize) < keys {
        score = 0.0f32;
        for column in 0..width {
            let key = pages[page + column * BLOCK + UNIT_POS_X as usize];
            score += query[column] * f32::cast_from(key);
        }
    }
    score
}

/// Replaces the scores of the line's block by weights; returns the largest score of all its blocks up to now, which
/// was `top` before.
#[cube]
fn weigh(weights: &mut Shared<[f32]>, top: f32, score: f32) -> f32 {
    let start = UNIT_POS_Y as usize * BLOCK;
    let unit = UNIT_POS_X as usize;
    weights[start + unit] = score;
    sync_cube();
    let mut new_top = top;
    for key in 0..BLOCK {
        new_top = max(new_top, weights[start + key]);
    }
    sync_cube(); // scores are read
    let mut weight = f32::exp(score - new_top);
    if score == f32::new(HIDDEN) {
        weight = 0.0f32;
    }
    weights[start + unit] = weight;
    sync_cube();
    new_top
}

/// Writes the result of all lines, each of which has its own largest score, sum of weights and weighted sums.
#[cube]
fn join<F: Float>(
    sums: &Array<f32>,
    top: f32,
    total: f32,
    y: &mut [F],
    to: usize,
    #[comptime] width: usize,
) {
    let own = comptime!(width.div_ceil(BLOCK));
    let (unit, line) = (UNIT_POS_X as usize, UNIT_POS_Y as usize);
    let mut parts = Shared::<[f32]>::new_slice(LINES * width);
    let mut tops = Shared::<[f32]>::new_slice(LINES);
    let mut totals = Shared::<[f32]>::new_slice(LINES);
    #[unroll]
    for c in 0..own {
        let column = unit + c * BLOCK;
        if column < width {
            parts[line * width + column] = sums[c];
        }
    }
    if unit == 0 {
        tops[line] = top;
        totals[line] = total;
    }
    sync_cube();
    let mut column = UNIT_POS as usize;
    while column < width {
        let mut best = f32::new(HIDDEN);
        #[unroll]
        for other in 0..LINES {
            best = max(best, tops[other]);
        }
        let mut value = 0.0f32;
        let mut all = 0.0f32;
        #[unroll]
        for other in 0..LINES {
            let factor = f32::exp(tops[other] - best);
            value += parts[other * width + column] * factor;
            all += totals[other] * factor;
        }
        y[to + column] = F::cast_from(value / all);
        column += LINES * BLOCK;
    }
}

#[cube(launch)]
fn forward_kernel<F: Float>(
    q: &[F], // [heads, rows, width]
    keys: &[F],
    values: &[F],
    table: &[i32],
    y: &mut [F], // [rows, heads, width]
    rows: usize,
    heads: usize,
    kv_heads: usize,
    #[comptime] width: usize,
    #[define(F)] _element: ElemType,
) {
    if CUBE_POS >= rows * heads {
        terminate!();
    }
    let own = comptime!(width.div_ceil(BLOCK));
    let (row, head) = (CUBE_POS / heads, CUBE_POS % heads);
    let kv_head = head / (heads / kv_heads);
    let (unit, line) = (UNIT_POS_X as usize, UNIT_POS_Y as usize);
    let (start, position) = (table[2 * row] as usize, table[2 * row + 1] as usize);
    let blocks = position / BLOCK + 1;

    let mut query = Shared::<[f32]>::new_slice(width);
    let mut weights = Shared::<[f32]>::new_slice(LINES * BLOCK);
    let mut column = UNIT_POS as usize;
    while column < width {
        query[column] = f32::cast_from(q[(head * rows + row) * width + column]);
        column += LINES * BLOCK;
    }
    let mut sums = zeros(own);
    let mut top = f32::new(HIDDEN);
    let mut total = 0.0f32;
    sync_cube();

    for step in 0..blocks.div_ceil(LINES) {
        let number = step * LINES + line;
        let mut page = 0usize;
        let mut count = 0usize; // what lies behind the lane's tokens may be anything
        if number < blocks {
            page = (table[start + number] as usize * kv_heads + kv_head) * width * BLOCK;
            count = min(BLOCK, position + 1 - number * BLOCK);
        }
        let own_score = score::<F>(&query, keys, page, count, width);
        let new_top = weigh(&mut weights, top, own_score);
        let factor = f32::exp(top - new_top);
        top = new_top;
        total *= factor;
        #[unroll]
        for c in 0..own {
            sums[c] *= factor;
        }
        for key in 0..count {
            let weight = weights[line * BLOCK + key];
            total += weight;
            #[unroll]
            for c in 0..own {
                let column = unit + c * BLOCK;
                if column < width {
                    sums[c] += weight * f32::cast_from(values[page + key * width + column]);
                }
            }
        }
        sync_cube(); // weights are read
    }
    join::<F>(&sums, top, total, y, (row * heads + head) * width, width);
}

/// The results `[1, rows, heads * width]` and the cache, in place if its buffers share their memory with no other
/// tensor. `table` as [`Lanes::table`](crate::model::ops::Lanes::table) makes it.
pub(super) fn attention(
    qkv: [CubeTensor; 3],
    norms: [HeadNorm; 2],
    cache: [CubeTensor; 2],
    table: CubeTensor,
) -> (CubeTensor, [CubeTensor; 2]) {
    let cache = cache.map(owned);
    let q = paged_heads::write(qkv, norms, &cache, &table);
    let [_, heads, rows, width] = q.shape().dims();
    let [_, kv_heads, _, _] = cache[0].shape().dims();
    let y = empty(&q, [1, rows, heads * width], q.dtype);
    let (client, types) = (q.client.clone(), element(&q));
    let [keys, values] = cache.clone().map(argument);
    let (places, q, to) = (argument(table), argument(q), argument(y.clone()));
    forward_kernel::launch(
        &client,
        cubes(rows * heads),
        CubeDim::new_2d(BLOCK as u32, LINES as u32),
        q,
        keys,
        values,
        places,
        to,
        rows,
        heads,
        kv_heads,
        width,
        types,
    );
    (y, cache)
}
