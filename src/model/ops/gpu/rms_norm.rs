//! RMSNorm: a cube per row forward, a cube per some rows backward.

use burn::tensor::DType;
use burn_cubecl::kernel::into_contiguous;
use burn_cubecl::tensor::CubeTensor;
use cubecl::prelude::*;

use kernels::gpu::{UNITS, argument, column_sums, count, cubes, elements, empty, empty_like, sum};

/// The most cubes of the backward pass: each has a row of partial sums of the weight's gradient.
const PARTS: usize = 512;

#[cube(launch)]
fn forward_kernel<F: Float, W: Float>(
    x: &[F],
    weight: &[W],
    y: &mut [F],
    rows: usize,
    eps: f32,
    #[comptime] width: usize,
    #[define(F, W)] _elements: [ElemType; 2],
) {
    let row = CUBE_POS;
    if row >= rows {
        terminate!();
    }
    let start = row * width;
    let mut squares = 0.0f32;
    let mut column = UNIT_POS_X as usize;
    while column < width {
        let value = f32::cast_from(x[start + column]);
        squares += value * value;
        column += UNITS;
    }
    let scale = f32::inverse_sqrt(sum(squares, UNITS, 1usize) / width as f32 + eps);
    let mut column = UNIT_POS_X as usize;
    while column < width {
        let value = f32::cast_from(x[start + column]) * scale;
        y[start + column] = F::cast_from(value * f32::cast_from(weight[column]));
        column += UNITS;
    }
}

pub(super) fn forward(x: CubeTensor, weight: CubeTensor, eps: f32) -> CubeTensor {
    let (x, weight) = (into_contiguous(x), into_contiguous(weight));
    let (client, width, y) = (x.client.clone(), count(&weight), empty_like(&x));
    let rows = count(&x) / width;
    let types = elements([&x, &weight]);
    let (x, weight, to) = (argument(x), argument(weight), argument(y.clone()));
    let units = CubeDim::new_1d(UNITS as u32);
    forward_kernel::launch(&client, cubes(rows), units, x, weight, to, rows, eps, width, types);
    y
}

/// As [`forward_kernel`] on the sum of `x` and `y`, which it writes too.
#[cube(launch)]
fn add_forward_kernel<F: Float, W: Float>(
    x: &[F],
    y: &[F],
    weight: &[W],
    total: &mut [F],
    normal: &mut [F],
    rows: usize,
    eps: f32,
    #[comptime] width: usize,
    #[define(F, W)] _elements: [ElemType; 2],
) {
    let row = CUBE_POS;
    if row >= rows {
        terminate!();
    }
    let start = row * width;
    let mut squares = 0.0f32;
    let mut column = UNIT_POS_X as usize;
    while column < width {
        let at = start + column;
        let value = F::cast_from(f32::cast_from(x[at]) + f32::cast_from(y[at]));
        total[at] = value;
        squares += f32::cast_from(value) * f32::cast_from(value);
        column += UNITS;
    }
    let scale = f32::inverse_sqrt(sum(squares, UNITS, 1usize) / width as f32 + eps);
    let mut column = UNIT_POS_X as usize;
    while column < width {
        let value = f32::cast_from(total[start + column]) * scale;
        normal[start + column] = F::cast_from(value * f32::cast_from(weight[column]));
        column += UNITS;
    }
}

/// The sum and its norm.
pub(super) fn add_forward(
    x: CubeTensor,
    y: CubeTensor,
    weight: CubeTensor,
    eps: f32,
) -> [CubeTensor; 2] {
    let [x, y, weight] = [x, y, weight].map(into_contiguous);
    let (client, width) = (x.client.clone(), count(&weight));
    let (rows, types) = (count(&x) / width, elements([&x, &weight]));
    let results = [empty_like(&x), empty_like(&x)];
    let [total, normal] = results.clone().map(argument);
    let [x, y, weight] = [x, y, weight].map(argument);
    let units = CubeDim::new_1d(UNITS as u32);
    add_forward_kernel::launch(
        &client,
        cubes(rows),
        units,
        x,
        y,
        weight,
        total,
        normal,
        rows,
        eps,
        width,
        types,
    );
    results
}

/// `dx` of the rows `part`, `part + parts`, ..., and their part of the weight's gradient.
#[cube(launch)]
fn backward_kernel<F: Float, W: Float>(
    x: &[F],
    weight: &[W],
    dy: &[F],
    dx: &mut [F],
    partial: &mut [f32], // [parts, width]
    rows: usize,
    parts: usize,
    eps: f32,
    #[comptime] width: usize,
    #[define(F, W)] _elements: [ElemType; 2],
) {
    let part = CUBE_POS;
    if part >= parts {
        terminate!();
    }
    let own = comptime!(width.div_ceil(UNITS));
    let mut of_weight = Array::<f32>::new(own);
    #[unroll]
    for i in 0..own {
        of_weight[i] = 0.0f32;
    }
    let unit = UNIT_POS_X as usize;
    let mut row = part;
    while row < rows {
        let start = row * width;
        let mut squares = 0.0f32;
        let mut products = 0.0f32;
        #[unroll]
        for i in 0..own {
            let column = unit + i * UNITS;
            if column < width {
                let value = f32::cast_from(x[start + column]);
                let gradient = f32::cast_from(dy[start + column]) * f32::cast_from(weight[column]);
                squares += value * value;
                products += value * gradient;
            }
        }
        let scale = f32::inverse_sqrt(sum(squares, UNITS, 1usize) / width as f32 + eps);
        let mean = sum(products, UNITS, 1usize) * scale * scale / width as f32;
        #[unroll]
        for i in 0..own {
            let column = unit + i * UNITS;
            if column < width {
                let value = f32::cast_from(x[start + column]);
                let upstream = f32::cast_from(dy[start + column]);
                let gradient = upstream * f32::cast_from(weight[column]);
                dx[start + column] = F::cast_from(scale * (gradient - value * mean));
                of_weight[i] += upstream * value * scale;
            }
        }
        row += parts;
    }
    #[unroll]
    for i in 0..own {
        let column = unit + i * UNITS;
        if column < width {
            partial[part * width + column] = of_weight[i];
        }
    }
}

pub(super) fn backward(
    x: CubeTensor,
    weight: CubeTensor,
    dy: CubeTensor,
    eps: f32,
) -> [CubeTensor; 2] {
    let [x, weight, dy] = [x, weight, dy].map(into_contiguous);
    let (client, width) = (x.client.clone(), count(&weight));
    let rows = count(&x) / width;
    let parts = rows.min(PARTS);
    let (dx, d_weight) = (empty_like(&x), empty_like(&weight));
    let partial = empty(&x, [parts, width], DType::F32);
    let types = elements([&x, &weight]);
    let [x, weight, dy] = [x, weight, dy].map(argument);
    let [to, sums] = [&dx, &partial].map(|tensor| argument(tensor.clone()));
    let units = CubeDim::new_1d(UNITS as u32);
    backward_kernel::launch(
        &client,
        cubes(parts),
        units,
        x,
        weight,
        dy,
        to,
        sums,
        rows,
        parts,
        eps,
        width,
        types,
    );
    column_sums(partial, &d_weight);
    [dx, d_weight]
}
