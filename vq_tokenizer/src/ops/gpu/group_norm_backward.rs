//! The gradients of group normalisation: two sums over the pixels of every tile, of which those of the input, the
//! weight and the bias are made.

use burn::tensor::DType;
use burn_cubecl::kernel::into_contiguous;
use burn_cubecl::tensor::CubeTensor;
use cubecl::prelude::*;
use kernels::gpu::{argument, cubes, element, elements, empty, empty_like, sum};

use super::group_norm::{
    CHANNELS, LANES, OF_GROUP, STEP, Sizes, channels_first, channels_last, column_sum, load,
    sigmoid, store, tile, tile_units,
};
use crate::ops::options::GroupNormOptions;

/// Channels of a cube that adds up the gradients of weight and bias, and units for each.
const COLUMNS: usize = 8;
const ROWS: usize = 32;

/// The gradient before the swish, for the value `y` there and the gradient `dy` behind it.
#[cube]
fn before_swish(y: f32, dy: f32, #[comptime] swish: bool) -> f32 {
    let mut gradient = dy;
    if comptime!(swish) {
        let share = sigmoid(y);
        gradient = dy * share * (1.0 + y * (1.0 - share));
    }
    gradient
}

/// For every tile and channel, the sums of the gradients before the swish, alone and times the normalised input.
#[cube(launch)]
fn sums_kernel<F: Float, W: Float>(
    x: &[F],
    weight: &[W],
    bias: &[W],
    dy: &[F],
    moments: &[f32],     // [batch, groups, 2]
    partial: &mut [f32], // [batch, parts, channels, 2]
    width: usize,
    pixels: usize,
    tiles: usize,
    #[comptime] swish: bool,
    #[define(F, W)] _elements: [ElemType; 2],
) {
    let channels = weight.len();
    if CUBE_POS >= tiles {
        terminate!();
    }
    let tile = tile(channels, pixels);
    let mut of_bias = 0.0f32;
    let mut of_weight = 0.0f32;
    if tile.start < tile.end {
        let group = (tile.image * channels + tile.channel) / width;
        let (mean, scale) = (moments[2 * group], moments[2 * group + 1]);
        let factor = f32::cast_from(weight[tile.channel]);
        let shift = f32::cast_from(bias[tile.channel]);
        let mut from = tile.first;
        while from < tile.end {
            let values = load::<F>(x, &tile, from, mean, channels, pixels);
            let upstream = load::<F>(dy, &tile, from, 0.0, channels, pixels);
            #[unroll]
            for j in 0..STEP {
                let normal = (values[j] - mean) * scale;
                let gradient = before_swish(normal * factor + shift, upstream[j], swish);
                of_bias += gradient;
                of_weight += gradient * normal;
            }
            from += comptime!(STEP * LANES);
        }
    }
    let of_bias = column_sum(of_bias, CHANNELS, LANES);
    let of_weight = column_sum(of_weight, CHANNELS, LANES);
    if UNIT_POS_Y == 0 && tile.start < tile.end {
        partial[2 * tile.place] = of_bias;
        partial[2 * tile.place + 1] = of_weight;
    }
}

/// The means over every group of both sums times the weight: a cube per group of an image.
#[cube(launch)]
fn means_kernel<W: Float>(
    partial: &[f32], // [batch, parts, channels, 2]
    weight: &[W],
    means: &mut [f32], // [batch, groups, 2]
    width: usize,
    pixels: usize,
    parts: usize,
    #[define(W)] _element: ElemType,
) {
    let channels = weight.len();
    let (group, groups) = (CUBE_POS, channels / width);
    if group >= means.len() / 2 {
        terminate!();
    }
    let of_image = group / groups * parts * channels;
    let mut constant = 0.0f32;
    let mut slope = 0.0f32;
    let mut i = UNIT_POS_X as usize;
    while i < width * parts {
        let channel = group % groups * width + i % width;
        let place = of_image + i / width * channels + channel;
        let factor = f32::cast_from(weight[channel]);
        constant += factor * partial[2 * place];
        slope += factor * partial[2 * place + 1];
        i += OF_GROUP;
    }
    let constant = sum(constant, OF_GROUP, 1usize);
    let slope = sum(slope, OF_GROUP, 1usize);
    if UNIT_POS_X == 0 {
        let size = (width * pixels) as f32;
        means[2 * group] = constant / size;
        means[2 * group + 1] = slope / size;
    }
}

/// The gradient of the input.
#[cube(launch)]
fn input_kernel<F: Float, W: Float>(
    x: &[F],
    weight: &[W],
    bias: &[W],
    dy: &[F],
    moments: &[f32], // [batch, groups, 2]
    means: &[f32],   // [batch, groups, 2]
    dx: &mut [F],
    width: usize,
    pixels: usize,
    tiles: usize,
    #[comptime] swish: bool,
    #[define(F, W)] _elements: [ElemType; 2],
) {
    let channels = weight.len();
    if CUBE_POS >= tiles {
        terminate!();
    }
    let tile = tile(channels, pixels);
    if tile.start < tile.end {
        let group = (tile.image * channels + tile.channel) / width;
        let (mean, scale) = (moments[2 * group], moments[2 * group + 1]);
        let (constant, slope) = (means[2 * group], means[2 * group + 1]);
        let factor = f32::cast_from(weight[tile.channel]);
        let shift = f32::cast_from(bias[tile.channel]);
        let mut from = tile.first;
        while from < tile.end {
            let mut values = load::<F>(x, &tile, from, mean, channels, pixels);
            let upstream = load::<F>(dy, &tile, from, 0.0, channels, pixels);
            #[unroll]
            for j in 0..STEP {
                let normal = (values[j] - mean) * scale;
                let gradient = before_swish(normal * factor + shift, upstream[j], swish);
                values[j] = scale * (gradient * factor - constant - normal * slope);
            }
            store::<F>(&values, dx, &tile, from, channels, pixels);
            from += comptime!(STEP * LANES);
        }
    }
}

/// The gradients of weight and bias.
#[cube(launch)]
fn channels_kernel<W: Float>(
    partial: &[f32], // [rows, channels, 2]
    d_weight: &mut [W],
    d_bias: &mut [W],
    rows: usize,
    #[define(W)] _element: ElemType,
) {
    let channels = d_weight.len();
    let channel = CUBE_POS * COLUMNS + UNIT_POS_X as usize;
    let mut of_bias = 0.0f32;
    let mut of_weight = 0.0f32;
    let mut row = UNIT_POS_Y as usize;
    while row < rows {
        if channel < channels {
            let place = row * channels + channel;
            of_bias += partial[2 * place];
            of_weight += partial[2 * place + 1];
        }
        row += ROWS;
    }
    let of_bias = column_sum(of_bias, COLUMNS, ROWS);
    let of_weight = column_sum(of_weight, COLUMNS, ROWS);
    if UNIT_POS_Y == 0 && channel < channels {
        d_bias[channel] = W::cast_from(of_bias);
        d_weight[channel] = W::cast_from(of_weight);
    }
}

/// The gradients of input, weight and bias from `[x, weight, bias, dy]` and what the forward pass returns with its
/// result.
pub(super) fn backward(
    [x, weight, bias, dy]: [CubeTensor; 4],
    moments: CubeTensor,
    GroupNormOptions { groups, swish, .. }: GroupNormOptions,
) -> [CubeTensor; 3] {
    let sizes = Sizes::of(&x, groups);
    let Sizes { batch, channels, width, pixels, parts } = sizes;
    let ([x, dy], tiles) = ([x, dy].map(channels_last), sizes.tiles());
    let [weight, bias] = [weight, bias].map(into_contiguous);
    let [dx, d_weight, d_bias] = [&x, &weight, &bias].map(empty_like);
    let partial = empty(&x, [batch * parts * channels, 2], DType::F32);
    let means = empty_like(&moments);
    let (client, types) = (x.client.clone(), elements([&x, &weight]));
    let arg = |tensor: &CubeTensor| argument(tensor.clone());
    let inputs = || [&x, &weight, &bias, &dy, &moments].map(arg);

    let [a, b, c, d, e] = inputs();
    let (grid, to) = (cubes(tiles), arg(&partial));
    let units = tile_units();
    sums_kernel::launch(
        &client, grid, units, a, b, c, d, e, to, width, pixels, tiles, swish, types,
    );
    let (grid, units) = (cubes(sizes.groups()), CubeDim::new_1d(OF_GROUP as u32));
    let (from, of_weight, to) = (arg(&partial), arg(&weight), arg(&means));
    let type_ = element(&weight);
    means_kernel::launch(&client, grid, units, from, of_weight, to, width, pixels, parts, type_);
    let [a, b, c, d, e] = inputs();
    let (grid, from, to) = (cubes(tiles), arg(&means), arg(&dx));
    let units = tile_units();
    input_kernel::launch(
        &client, grid, units, a, b, c, d, e, from, to, width, pixels, tiles, swish, types,
    );
    let (grid, rows) = (cubes(channels.div_ceil(COLUMNS)), batch * parts);
    let units = CubeDim::new_2d(COLUMNS as u32, ROWS as u32);
    let (from, of_weight, of_bias) = (arg(&partial), arg(&d_weight), arg(&d_bias));
    channels_kernel::launch(&client, grid, units, from, of_weight, of_bias, rows, type_);
    [channels_first(dx), d_weight, d_bias]
}
