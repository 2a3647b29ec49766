//! The gradients of attention: the weights of a tile are computed again from the scores and their log-sum-exp.
//!
//! One launch for queries and one for keys and values, so that every element has one writer and one order of sums.

use burn::tensor::DType;
use burn_cubecl::kernel::into_contiguous;
use burn_cubecl::tensor::CubeTensor;
use cubecl::prelude::*;

use super::tile::{BLOCK, Sizes, add_products, add_weighted, load, sees, write, zeros};
use kernels::gpu::{argument, cubes, element, empty, empty_like, sum, swap_heads};

/// Units per row of the products of results and their gradients.
const LINE: usize = 32;
/// Rows per cube of those.
const LINES: usize = 4;

/// `sum(y * dy)` of every query, which every score's gradient needs.
#[cube(launch)]
fn products_kernel<F: Float>(
    y: &[F],
    dy: &[F],
    products: &mut [f32], // [batch, heads, seq]
    seq: usize,
    heads: usize,
    #[comptime] width: usize,
    #[define(F)] _element: ElemType,
) {
    let row = CUBE_POS * LINES + UNIT_POS_Y as usize; // of [batch, seq, heads]
    let is_row = row < products.len();
    let mut product = 0.0f32;
    let mut i = UNIT_POS_X as usize;
    while i < width {
        if is_row {
            product += f32::cast_from(y[row * width + i]) * f32::cast_from(dy[row * width + i]);
        }
        i += LINE;
    }
    let total = sum(product, LINE, LINES);
    if is_row && UNIT_POS_X == 0 {
        let (token, head) = (row / heads, row % heads);
        products[(token / seq * heads + head) * seq + token % seq] = total;
    }
}

/// Replaces the unit's block of `scores` by weights, and its block of `d_weights` by the gradients of the scores.
#[cube]
fn to_gradients(
    scores: &mut Array<f32>,
    d_weights: &mut Array<f32>,
    first: &[i32],
    lse: &[f32],
    products: &[f32],
    row: usize,
    head_row: usize, // row * heads + head
    query: usize,
    key: usize,
    seq: usize,
    #[comptime] tile: usize,
) {
    let lanes = comptime!(tile / BLOCK);
    #[unroll]
    for i in 0..BLOCK {
        let query = query + UNIT_POS_Y as usize + i * lanes;
        let mut log_sum = 0.0f32;
        let mut product = 0.0f32;
        if query < seq {
            log_sum = lse[head_row * seq + query];
            product = products[head_row * seq + query];
        }
        #[unroll]
        for j in 0..BLOCK {
            let key = key + UNIT_POS_X as usize + j * lanes;
            let mut weight = 0.0f32;
            if sees(first, row, query, key, seq) {
                weight = f32::exp(scores[i * BLOCK + j] - log_sum);
            }
            scores[i * BLOCK + j] = weight;
            d_weights[i * BLOCK + j] = weight * (d_weights[i * BLOCK + j] - product);
        }
    }
}

/// Writes the unit's block to its place in a tile of scores.
#[cube]
fn store(block: &Array<f32>, to: &mut Shared<[f32]>, #[comptime] tile: usize) {
    let lanes = comptime!(tile / BLOCK);
    #[unroll]
    for i in 0..BLOCK {
        #[unroll]
        for j in 0..BLOCK {
            let at =
                (UNIT_POS_Y as usize + i * lanes) * (tile + 1) + UNIT_POS_X as usize + j * lanes;
            to[at] = block[i * BLOCK + j];
        }
    }
}

#[cube(launch)]
fn queries_kernel<F: Float>(
    q: &[F],
    k: &[F],
    v: &[F],
    dy: &[F],
    first: &[i32],
    lse: &[f32],
    products: &[f32],
    dq: &mut [F], // [batch, heads, seq, width]
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
    let head_row = row * heads + head;

    let mut queries = Shared::<[f32]>::new_slice(tile * (width + 1) + lanes);
    let mut upstream = Shared::<[f32]>::new_slice(tile * (width + 1) + lanes);
    let mut keys = Shared::<[f32]>::new_slice(tile * (width + 1) + lanes);
    let mut values = Shared::<[f32]>::new_slice(tile * (width + 1) + lanes);
    let mut d_scores = Shared::<[f32]>::new_slice(tile * (tile + 1));
    let left = seq - start;
    load::<F>(q, (head_row * seq + start) * width, width, left, &mut queries, width, tile);
    let from_dy = ((row * seq + start) * heads + head) * width;
    load::<F>(dy, from_dy, heads * width, left, &mut upstream, width, tile);
    let mut sums = zeros(BLOCK * columns);

    let mut from = first[(row * seq + start) % first.len()] as usize / tile * tile;
    let end = min(start + tile, seq);
    while from < end {
        let k_start = ((row * kv_heads + kv_head) * seq + from) * width;
        load::<F>(k, k_start, width, seq - from, &mut keys, width, tile);
        let v_start = ((row * seq + from) * kv_heads + kv_head) * width;
        load::<F>(v, v_start, kv_heads * width, seq - from, &mut values, width, tile);
        sync_cube();
        let mut scores = zeros(BLOCK * BLOCK);
        let mut d_weights = zeros(BLOCK * BLOCK);
        add_products(&mut scores, &queries, &keys, width, tile);
        add_products(&mut d_weights, &upstream, &values, width, tile);
        to_gradients(
            &mut scores,
            &mut d_weights,
            first,
            lse,
            products,
            row,
            head_row,
            start,
            from,
            seq,
            tile,
        );
        store(&d_weights, &mut d_scores, tile);
        sync_cube();
        add_weighted(&mut sums, &d_scores, &keys, false, width, tile);
        sync_cube();
        from += tile;
    }

    let to = (head_row * seq + start) * width;
    write::<F>(&sums, dq, to, width, left, width, tile);
}

/// The end of the query tiles that see a key of the tile from `start` on.
#[cube]
fn last_query(
    first: &[i32],
    row: usize,
    start: usize,
    seq: usize,
    #[comptime] tile: usize,
) -> usize {
    let last = min(start + tile, seq) - 1;
    let mut end = start;
    let mut is_seen = true;
    while is_seen {
        end += tile;
        is_seen = false;
        if end < seq {
            is_seen = first[(row * seq + end) % first.len()] as usize <= last;
        }
    }
    end
}

#[cube(launch)]
fn keys_kernel<F: Float>(
    q: &[F],
    k: &[F],
    v: &[F],
    dy: &[F],
    first: &[i32],
    lse: &[f32],
    products: &[f32],
    dk: &mut [F], // [batch, kv_heads, seq, width]
    dv: &mut [F], // [batch, seq, kv_heads, width]
    seq: usize,
    heads: usize,
    kv_heads: usize,
    rows: usize, // batch * kv_heads
    #[comptime] width: usize,
    #[comptime] tile: usize,
    #[define(F)] _element: ElemType,
) {
    let lanes = comptime!(tile / BLOCK);
    let columns = comptime!(width.div_ceil(lanes));
    if CUBE_POS >= rows * seq.div_ceil(tile) {
        terminate!();
    }
    let start = CUBE_POS / rows * tile; // the first are the longest
    let (row, kv_head) = (CUBE_POS % rows / kv_heads, CUBE_POS % rows % kv_heads);
    let group = heads / kv_heads;

    let mut queries = Shared::<[f32]>::new_slice(tile * (width + 1) + lanes);
    let mut upstream = Shared::<[f32]>::new_slice(tile * (width + 1) + lanes);
    let mut keys = Shared::<[f32]>::new_slice(tile * (width + 1) + lanes);
    let mut values = Shared::<[f32]>::new_slice(tile * (width + 1) + lanes);
    let mut weights = Shared::<[f32]>::new_slice(tile * (tile + 1));
    let mut d_scores = Shared::<[f32]>::new_slice(tile * (tile + 1));
    let k_start = ((row * kv_heads + kv_head) * seq + start) * width;
    load::<F>(k, k_start, width, seq - start, &mut keys, width, tile);
    let v_start = ((row * seq + start) * kv_heads + kv_head) * width;
    load::<F>(v, v_start, kv_heads * width, seq - start, &mut values, width, tile);
    let mut of_keys = zeros(BLOCK * columns);
    let mut of_values = zeros(BLOCK * columns);

    let end = last_query(first, row, start, seq, tile);
    for in_group in 0..group {
        let head = kv_head * group + in_group;
        let head_row = row * heads + head;
        let mut from = start;
        while from < end {
            let q_start = (head_row * seq + from) * width;
            load::<F>(q, q_start, width, seq - from, &mut queries, width, tile);
            let from_dy = ((row * seq + from) * heads + head) * width;
            load::<F>(dy, from_dy, heads * width, seq - from, &mut upstream, width, tile);
            sync_cube();
            let mut scores = zeros(BLOCK * BLOCK);
            let mut d_weights = zeros(BLOCK * BLOCK);
            add_products(&mut scores, &queries, &keys, width, tile);
            add_products(&mut d_weights, &upstream, &values, width, tile);
            to_gradients(
                &mut scores,
                &mut d_weights,
                first,
                lse,
                products,
                row,
                head_row,
                from,
                start,
                seq,
                tile,
            );
            store(&scores, &mut weights, tile);
            store(&d_weights, &mut d_scores, tile);
            sync_cube();
            add_weighted(&mut of_values, &weights, &upstream, true, width, tile);
            add_weighted(&mut of_keys, &d_scores, &queries, true, width, tile);
            sync_cube();
            from += tile;
        }
    }

    let left = seq - start;
    write::<F>(&of_keys, dk, k_start, width, left, width, tile);
    write::<F>(&of_values, dv, v_start, kv_heads * width, left, width, tile);
}

/// `sum(y * dy)` of every query, `[batch, heads, seq]`, from tensors `[batch, seq, heads, width]`.
pub(super) fn products(y: CubeTensor, dy: CubeTensor, sizes: Sizes) -> CubeTensor {
    let Sizes { batch, heads, seq, width, .. } = sizes;
    let products = empty(&y, [batch, heads, seq], DType::F32);
    let (client, types) = (y.client.clone(), element(&y));
    let grid = cubes((batch * heads * seq).div_ceil(LINES));
    let units = CubeDim::new_2d(LINE as u32, LINES as u32);
    let [y, dy, to] = [y, dy, products.clone()].map(argument);
    products_kernel::launch(&client, grid, units, y, dy, to, seq, heads, width, types);
    products
}

/// The gradients of queries, keys and values from the results of the forward pass and the gradient of the first.
pub(super) fn backward(
    [q, k, v]: [CubeTensor; 3],
    [y, lse]: [CubeTensor; 2],
    dy: CubeTensor,
    first: CubeTensor,
) -> [CubeTensor; 3] {
    let (q, k, first) = (into_contiguous(q), into_contiguous(k), into_contiguous(first));
    let [v, y, dy] = [v, y, dy].map(|tensor| into_contiguous(swap_heads(tensor)));
    let sizes = Sizes::of(&q, &k);
    let Sizes { batch, heads, kv_heads, seq, width } = sizes;
    let products = products(y, dy.clone(), sizes);
    let results = [empty_like(&q), empty_like(&k), empty_like(&v)];
    let (client, types) = (q.client.clone(), element(&q));
    let inputs = || {
        let inputs = [&q, &k, &v, &dy, &first, &lse, &products];
        inputs.map(|tensor| argument(tensor.clone()))
    };
    let [dq, dk, dv] = results.clone().map(argument);
    // Cubes, units of a cube and rows of a launch in tiles.
    let launch = |tile: usize, heads: usize| {
        let lanes = (tile / BLOCK) as u32;
        (cubes(batch * heads * seq.div_ceil(tile)), CubeDim::new_2d(lanes, lanes), batch * heads)
    };
    let tile = sizes.tile(&q, 4, 1);
    let ((grid, units, rows), [a, b, c, d, e, f, g]) = (launch(tile, heads), inputs());
    queries_kernel::launch(
        &client, grid, units, a, b, c, d, e, f, g, dq, seq, heads, kv_heads, rows, width, tile,
        types,
    );
    let tile = sizes.tile(&q, 4, 2);
    let ((grid, units, rows), [a, b, c, d, e, f, g]) = (launch(tile, kv_heads), inputs());
    keys_kernel::launch(
        &client, grid, units, a, b, c, d, e, f, g, dk, dv, seq, heads, kv_heads, rows, width, tile,
        types,
    );
    let [dq, dk, dv] = results;
    [dq, dk, swap_heads(dv)]
}
