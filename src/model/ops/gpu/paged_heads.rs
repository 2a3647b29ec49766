//! New queries, keys and values of a pass: heads are normalised and rotated, keys and values go to the cache.

use burn::backend::TensorMetadata;
use burn_cubecl::kernel::into_contiguous;
use burn_cubecl::tensor::CubeTensor;
use cubecl::prelude::*;
use kernels::paged::BLOCK;

use super::head_norm::{HeadNorm, LINE, LINES, line};
use kernels::gpu::{argument, cubes, elements, empty};

/// Cubes for [`LINES`] heads each: first those of queries, then those of keys, then those of values.
#[cube(launch)]
fn kernel<F: Float, W: Float, C: Float>(
    q: &[F], // [rows, heads, width]
    k: &[F], // [rows, kv_heads, width]
    v: &[F],
    q_weight: &[W], // [heads, width]
    q_bias: &[W],
    k_weight: &[W],
    k_bias: &[W],
    cos: &[C], // [rows, width / 2]
    sin: &[C],
    table: &[i32],
    y: &mut [F],      // [heads, rows, width]
    keys: &mut [F],   // [blocks, kv_heads, width, BLOCK]
    values: &mut [F], // [blocks, kv_heads, BLOCK, width]
    rows: usize,
    heads: usize,
    kv_heads: usize,
    factor: f32,
    k_factor: f32,
    eps: f32,
    #[comptime] width: usize,
    #[define(F, W, C)] _elements: [ElemType; 3],
) {
    let (of_q, of_k) = ((rows * heads).div_ceil(LINES), (rows * kv_heads).div_ceil(LINES));
    let unit = UNIT_POS_Y as usize;
    if CUBE_POS < of_q {
        let number = CUBE_POS * LINES + unit;
        let to = (number % heads * rows + number / heads) * width;
        line::<F, W, C>(
            q,
            q_weight,
            q_bias,
            cos,
            sin,
            y,
            number,
            number < rows * heads,
            heads,
            to,
            1usize,
            (factor, eps),
            width,
        );
    } else {
        let is_key = CUBE_POS < of_q + of_k;
        let mut number = (CUBE_POS - of_q) * LINES + unit;
        if !is_key {
            number = (CUBE_POS - of_q - of_k) * LINES + unit;
        }
        let is_row = number < rows * kv_heads;
        let mut row = 0usize;
        if is_row {
            row = number / kv_heads;
        }
        let (start, position) = (table[2 * row] as usize, table[2 * row + 1] as usize);
        let (block, at) = (table[start + position / BLOCK] as usize, position % BLOCK);
        let page = (block * kv_heads + number % kv_heads) * width * BLOCK;
        if is_key {
            line::<F, W, C>(
                k,
                k_weight,
                k_bias,
                cos,
                sin,
                keys,
                number,
                is_row,
                kv_heads,
                page + at,
                BLOCK,
                (k_factor, eps),
                width,
            );
        } else if is_row {
            let mut column = UNIT_POS_X as usize;
            while column < width {
                values[page + at * width + column] = v[number * width + column];
                column += LINE;
            }
        }
    }
}

/// Writes keys and values to their places in the cache; returns the queries, `[1, heads, rows, width]`.
pub(super) fn write(
    qkv: [CubeTensor; 3],
    [of_q, of_k]: [HeadNorm; 2],
    cache: &[CubeTensor; 2],
    table: &CubeTensor,
) -> CubeTensor {
    let [q, k, v] = qkv.map(into_contiguous);
    let [_, rows, heads, width] = q.shape().dims();
    let [_, _, kv_heads, _] = k.shape().dims();
    let y = empty(&q, [1, heads, rows, width], q.dtype);
    let [q_weight, q_bias] = of_q.weight_and_bias.map(into_contiguous);
    let [k_weight, k_bias] = of_k.weight_and_bias.map(into_contiguous);
    let [cos, sin] = of_q.cos_and_sin.map(into_contiguous);
    let ([factor, eps], [k_factor, _]) = (of_q.factors, of_k.factors);
    let types = elements([&q, &q_weight, &cos]);
    let count = (rows * heads).div_ceil(LINES) + 2 * (rows * kv_heads).div_ceil(LINES);
    let client = q.client.clone();
    let inputs = [q, k, v, q_weight, q_bias, k_weight, k_bias, cos, sin, table.clone(), y.clone()];
    let [q, k, v, q_weight, q_bias, k_weight, k_bias, cos, sin, table, to] = inputs.map(argument);
    let [keys, values] = cache.clone().map(argument);
    kernel::launch(
        &client,
        cubes(count),
        CubeDim::new_2d(LINE as u32, LINES as u32),
        q,
        k,
        v,
        q_weight,
        q_bias,
        k_weight,
        k_bias,
        cos,
        sin,
        table,
        to,
        keys,
        values,
        rows,
        heads,
        kv_heads,
        factor,
        k_factor,
        eps,
        width,
        types,
    );
    y
}
