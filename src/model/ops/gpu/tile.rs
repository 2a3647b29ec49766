//! Tiles of rows and of scores in shared memory, on which a cube works together.
//!
//! A cube has a unit for every 4 x 4 block of a tile's scores: unit `(x, y)` has the rows `y + i * lanes` and the columns
//! `x + j * lanes`, with `lanes` units along each axis. Everything is summed in f32 and in a fixed order.

use burn::backend::TensorMetadata;
use burn_cubecl::tensor::CubeTensor;
use cubecl::prelude::*;

/// Queries and keys per unit.
pub(super) const BLOCK: usize = 4;
/// Stands for the score of a hidden key: below any score, and finite, so that differences are numbers.
pub(super) const HIDDEN: f32 = -1e30;

/// Sizes of a launch.
#[derive(Clone, Copy, Debug)]
pub(super) struct Sizes {
    pub(super) batch: usize,
    pub(super) heads: usize,
    pub(super) kv_heads: usize,
    pub(super) seq: usize,
    pub(super) width: usize,
}

impl Sizes {
    pub(super) fn of(q: &CubeTensor, k: &CubeTensor) -> Self {
        let [batch, heads, seq, width] = q.shape().dims();
        let [_, kv_heads, _, _] = k.shape().dims();
        Self { batch, heads, kv_heads, seq, width }
    }

    /// Query heads of a key head.
    pub(super) fn group(&self) -> usize {
        self.heads / self.kv_heads
    }

    /// The sizes of keys and values.
    pub(super) fn of_keys(&self) -> Self {
        Self { heads: self.kv_heads, ..*self }
    }

    /// The largest tile for which `rows` tiles of `width` columns and `squares` tiles of scores fit the shared memory.
    pub(super) fn tile(&self, q: &CubeTensor, rows: usize, squares: usize) -> usize {
        let limit = q.client.properties().hardware.max_shared_memory_size / size_of::<f32>();
        let fits = |tile: &usize| {
            rows * (tile * (self.width + 1) + tile) + squares * tile * (tile + 1) <= limit
        };
        [64, 32, 16, 8].into_iter().find(fits).unwrap_or(BLOCK)
    }
}

/// Copies `tile` rows of `width` `stride` apart, to shared memory, zeros behind the last of `rows`.
#[cube]
pub(super) fn load<F: Float>(
    from: &[F],
    start: usize,
    stride: usize,
    rows: usize,
    to: &mut Shared<[f32]>,
    #[comptime] width: usize,
    #[comptime] tile: usize,
) {
    let lanes = comptime!(tile / BLOCK);
    let mut i = UNIT_POS as usize;
    while i < tile * width {
        let (row, column) = (i / width, i % width);
        let mut value = 0.0f32;
        if row < rows {
            value = f32::cast_from(from[start + row * stride + column]);
        }
        to[row * (width + 1) + column] = value;
        i += lanes * lanes;
    }
}

/// Adds to the unit's 4 x 4 block of `scores` the products of rows of `lhs` and `rhs`.
#[cube]
pub(super) fn add_products(
    scores: &mut Array<f32>,
    lhs: &Shared<[f32]>,
    rhs: &Shared<[f32]>,
    #[comptime] width: usize,
    #[comptime] tile: usize,
) {
    let lanes = comptime!(tile / BLOCK);
    let (x, y) = (UNIT_POS_X as usize, UNIT_POS_Y as usize);
    let mut left = Array::<f32>::new(BLOCK);
    let mut right = Array::<f32>::new(BLOCK);
    for column in 0..width {
        #[unroll]
        for i in 0..BLOCK {
            left[i] = lhs[(y + i * lanes) * (width + 1) + column];
            right[i] = rhs[(x + i * lanes) * (width + 1) + column];
        }
        #[unroll]
        for i in 0..BLOCK {
            #[unroll]
            for j in 0..BLOCK {
                scores[i * BLOCK + j] += left[i] * right[j];
            }
        }
    }
}

/// Adds to the unit's rows of `sums`, its columns `x + c * lanes`, the products of the weights `[tile, tile]` with
/// the rows of `rhs`; `transposed` takes the columns of the weights as rows.
#[cube]
pub(super) fn add_weighted(
    sums: &mut Array<f32>,
    weights: &Shared<[f32]>,
    rhs: &Shared<[f32]>,
    #[comptime] transposed: bool,
    #[comptime] width: usize,
    #[comptime] tile: usize,
) {
    let lanes = comptime!(tile / BLOCK);
    let columns = comptime!(width.div_ceil(lanes));
    let (x, y) = (UNIT_POS_X as usize, UNIT_POS_Y as usize);
    let mut left = Array::<f32>::new(BLOCK);
    for inner in 0..tile {
        #[unroll]
        for i in 0..BLOCK {
            let row = y + i * lanes;
            if comptime!(transposed) {
                left[i] = weights[inner * (tile + 1) + row];
            } else {
                left[i] = weights[row * (tile + 1) + inner];
            }
        }
        #[unroll]
        for c in 0..columns {
            let right = rhs[inner * (width + 1) + x + c * lanes];
            #[unroll]
            for i in 0..BLOCK {
                sums[i * columns + c] += left[i] * right;
            }
        }
    }
}

/// Writes the unit's block of `sums`, its columns `x + c * lanes`, to rows that are `stride` apart, as far as there
/// are `rows`.
#[cube]
pub(super) fn write<F: Float>(
    sums: &Array<f32>,
    to: &mut [F],
    start: usize,
    stride: usize,
    rows: usize,
    #[comptime] width: usize,
    #[comptime] tile: usize,
) {
    let lanes = comptime!(tile / BLOCK);
    let columns = comptime!(width.div_ceil(lanes));
    #[unroll]
    for i in 0..BLOCK {
        let row = UNIT_POS_Y as usize + i * lanes;
        #[unroll]
        for c in 0..columns {
            let column = UNIT_POS_X as usize + c * lanes;
            if row < rows && column < width {
                to[start + row * stride + column] = F::cast_from(sums[i * columns + c]);
            }
        }
    }
}

#[cube]
pub(super) fn filled(#[comptime] value: f32, #[comptime] len: usize) -> Array<f32> {
    let mut array = Array::<f32>::new(len);
    #[unroll]
    for i in 0..len {
        array[i] = f32::new(value);
    }
    array
}

#[cube]
pub(super) fn zeros(#[comptime] len: usize) -> Array<f32> {
    filled(0.0f32, len)
}

/// Whether query `query` sees `key`; both are places in row `row`.
#[cube]
pub(super) fn sees(first: &[i32], row: usize, query: usize, key: usize, seq: usize) -> bool {
    let mut visible = false;
    if query < seq {
        let from = first[(row * seq + query) % first.len()] as usize;
        visible = key >= from && key <= query;
    }
    visible
}
