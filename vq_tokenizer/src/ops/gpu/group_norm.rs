//! Group normalisation with swish, on pixels of all their channels: the layout that Burn's convolutions read and write,
//! so that nothing is transposed between them.
//!
//! A cube takes 32 channels of 256 pixels, whatever the size of a group, so that the smallest batch occupies a GPU: one
//! image of 512 x 256 x 256 values makes 4,096 cubes, where a cube per group would be 32 for 132 processors. What cubes
//! sum up goes to memory and is added up by a launch of its own, in one order, which the batch does not change.
//! Elements of the size of the input that are read and written: 2 and 1 forward, 4 and 1 backward.

use burn::backend::TensorMetadata;
use burn::tensor::DType;
use burn_cubecl::kernel::into_contiguous;
use burn_cubecl::ops::permute;
use burn_cubecl::tensor::CubeTensor;
use cubecl::prelude::*;
use kernels::gpu::{argument, cubes, element, elements, empty, empty_like, sum};

use crate::ops::options::GroupNormOptions;

/// Channels of a tile, along x, and units for each of them, along y.
pub(super) const CHANNELS: usize = 32;
pub(super) const LANES: usize = 8;
/// Pixels of a tile.
pub(super) const PIXELS: usize = 256;
/// Values that a unit reads before it uses the first.
pub(super) const STEP: usize = 4;
/// Units for a group when its parts are added up.
pub(super) const OF_GROUP: usize = 256;

/// Sizes of a launch.
#[derive(Clone, Copy, Debug)]
pub(super) struct Sizes {
    pub(super) batch: usize,
    pub(super) channels: usize,
    /// Channels of a group.
    pub(super) width: usize,
    pub(super) pixels: usize,
    /// Tiles along the pixels of an image.
    pub(super) parts: usize,
}

impl Sizes {
    /// Of `x` `[batch, channels, height, width]`.
    pub(super) fn of(x: &CubeTensor, groups: usize) -> Self {
        let [batch, channels, height, width] = x.shape().dims();
        let pixels = height * width;
        let parts = pixels.div_ceil(PIXELS);
        Self { batch, channels, width: channels / groups, pixels, parts }
    }

    /// Tiles of all images.
    pub(super) fn tiles(&self) -> usize {
        self.batch * self.parts * self.channels.div_ceil(CHANNELS)
    }

    /// Groups of all images.
    pub(super) fn groups(&self) -> usize {
        self.batch * self.channels / self.width
    }
}

/// The units of a cube for a tile.
pub(super) fn tile_units() -> CubeDim {
    CubeDim::new_2d(CHANNELS as u32, LANES as u32)
}

/// `x` with its channels last, without gaps.
pub(super) fn channels_last(x: CubeTensor) -> CubeTensor {
    into_contiguous(permute(x, &[0, 2, 3, 1]))
}

/// The inverse of [`channels_last`], in the same memory.
pub(super) fn channels_first(x: CubeTensor) -> CubeTensor {
    permute(x, &[0, 3, 1, 2])
}

/// What a unit works on: every eighth pixel of a tile, in one channel.
#[derive(CubeType, Clone, Copy)]
pub(super) struct Tile {
    pub(super) image: usize,
    pub(super) channel: usize,
    /// Where [`partial`](moments_kernel) has what the tile sums up of the channel.
    pub(super) place: usize,
    /// The first pixel of the tile and of the unit, and the end of both.
    pub(super) start: usize,
    pub(super) first: usize,
    pub(super) end: usize,
}

/// The tile of the unit, without pixels for units behind the last channel.
#[cube]
pub(super) fn tile(channels: usize, pixels: usize) -> Tile {
    let blocks = channels.div_ceil(CHANNELS);
    let parts = pixels.div_ceil(PIXELS);
    let channel = CUBE_POS % blocks * CHANNELS + UNIT_POS_X as usize;
    let (image, part) = (CUBE_POS / blocks / parts, CUBE_POS / blocks % parts);
    let start = part * PIXELS;
    let mut end = start;
    if channel < channels {
        end = min(start + PIXELS, pixels);
    }
    let place = (image * parts + part) * channels + channel;
    Tile { image, channel, place, start, first: start + UNIT_POS_Y as usize, end }
}

/// The element of a pixel.
#[cube]
fn at(tile: &Tile, pixel: usize, channels: usize, pixels: usize) -> usize {
    (tile.image * pixels + pixel) * channels + tile.channel
}

/// The unit's values in f32 from pixel `from` on, `missing` behind the end.
#[cube]
pub(super) fn load<F: Float>(
    x: &[F],
    tile: &Tile,
    from: usize,
    missing: f32,
    channels: usize,
    pixels: usize,
) -> Array<f32> {
    let mut values = Array::<f32>::new(STEP);
    #[unroll]
    for j in 0..STEP {
        values[j] = missing;
        if from + j * LANES < tile.end {
            values[j] = f32::cast_from(x[at(tile, from + j * LANES, channels, pixels)]);
        }
    }
    values
}

/// Writes values to where [`load`] reads them.
#[cube]
pub(super) fn store<F: Float>(
    values: &Array<f32>,
    y: &mut [F],
    tile: &Tile,
    from: usize,
    channels: usize,
    pixels: usize,
) {
    #[unroll]
    for j in 0..STEP {
        if from + j * LANES < tile.end {
            y[at(tile, from + j * LANES, channels, pixels)] = F::cast_from(values[j]);
        }
    }
}

/// The sum of `value` over the units of a column of the cube, `lanes` of them, a power of two, in `columns` columns; all
/// units of the cube call it.
#[cube]
pub(super) fn column_sum(value: f32, #[comptime] columns: usize, #[comptime] lanes: usize) -> f32 {
    let mut partial = Shared::<[f32]>::new_slice(columns * lanes);
    let (column, lane) = (UNIT_POS_X as usize, UNIT_POS_Y as usize);
    partial[lane * columns + column] = value;
    sync_cube();
    let mut half = CUBE_DIM_Y as usize / 2; // not a constant, which could not change
    while half > 0 {
        if lane < half {
            let other = partial[(lane + half) * columns + column];
            partial[lane * columns + column] += other;
        }
        sync_cube();
        half /= 2;
    }
    let total = partial[column];
    sync_cube();
    total
}

#[cube]
pub(super) fn sigmoid(x: f32) -> f32 {
    1.0 / (1.0 + f32::exp(-x))
}

/// For every tile, the mean of each channel and the sum of the squared distances from it.
#[cube(launch)]
fn moments_kernel<F: Float>(
    x: &[F],
    partial: &mut [f32], // [batch, parts, channels, 2]
    channels: usize,
    pixels: usize,
    tiles: usize,
    #[define(F)] _element: ElemType,
) {
    if CUBE_POS >= tiles {
        terminate!();
    }
    let tile = tile(channels, pixels);
    // Sums of distances from one of the values lose no digits to a large mean.
    let mut centre = 0.0f32;
    if tile.start < tile.end {
        centre = f32::cast_from(x[at(&tile, tile.start, channels, pixels)]);
    }
    let mut total = 0.0f32;
    let mut squares = 0.0f32;
    let mut from = tile.first;
    while from < tile.end {
        let values = load::<F>(x, &tile, from, centre, channels, pixels);
        #[unroll]
        for j in 0..STEP {
            let distance = values[j] - centre;
            total += distance;
            squares += distance * distance;
        }
        from += comptime!(STEP * LANES);
    }
    let total = column_sum(total, CHANNELS, LANES);
    let squares = column_sum(squares, CHANNELS, LANES);
    if UNIT_POS_Y == 0 && tile.start < tile.end {
        let mean = total / (tile.end - tile.start) as f32;
        partial[2 * tile.place] = centre + mean;
        partial[2 * tile.place + 1] = max(squares - mean * total, 0.0);
    }
}

/// Mean and reciprocal standard deviation of every group, from those of its parts: a cube per group of an image.
#[cube(launch)]
fn groups_kernel(
    partial: &[f32],     // [batch, parts, channels, 2]
    moments: &mut [f32], // [batch, groups, 2]
    channels: usize,
    width: usize,
    pixels: usize,
    parts: usize,
    eps: f32,
) {
    let (group, groups) = (CUBE_POS, channels / width);
    if group >= moments.len() / 2 {
        terminate!();
    }
    let first = group / groups * parts * channels + group % groups * width;
    let size = (width * pixels) as f32;
    let centre = partial[2 * first];
    let mut total = 0.0f32;
    let mut i = UNIT_POS_X as usize;
    while i < width * parts {
        let part = i / width;
        let len = min(PIXELS, pixels - part * PIXELS) as f32;
        total += len * (partial[2 * (first + part * channels + i % width)] - centre);
        i += OF_GROUP;
    }
    let mean = centre + sum(total, OF_GROUP, 1usize) / size;
    let mut squares = 0.0f32;
    let mut i = UNIT_POS_X as usize;
    while i < width * parts {
        let part = i / width;
        let len = min(PIXELS, pixels - part * PIXELS) as f32;
        let place = first + part * channels + i % width;
        let distance = partial[2 * place] - mean;
        squares += partial[2 * place + 1] + len * distance * distance;
        i += OF_GROUP;
    }
    let variance = sum(squares, OF_GROUP, 1usize) / size;
    if UNIT_POS_X == 0 {
        moments[2 * group] = mean;
        moments[2 * group + 1] = f32::inverse_sqrt(variance + eps);
    }
}

#[cube(launch)]
fn forward_kernel<F: Float, W: Float>(
    x: &[F],
    weight: &[W],
    bias: &[W],
    moments: &[f32], // [batch, groups, 2]
    y: &mut [F],
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
        let mean = moments[2 * group];
        let factor = moments[2 * group + 1] * f32::cast_from(weight[tile.channel]);
        let shift = f32::cast_from(bias[tile.channel]);
        let mut from = tile.first;
        while from < tile.end {
            let mut values = load::<F>(x, &tile, from, mean, channels, pixels);
            #[unroll]
            for j in 0..STEP {
                let value = (values[j] - mean) * factor + shift;
                values[j] = value;
                if comptime!(swish) {
                    values[j] = value * sigmoid(value);
                }
            }
            store::<F>(&values, y, &tile, from, channels, pixels);
            from += comptime!(STEP * LANES);
        }
    }
}

/// The result, in memory with its channels last, and mean and reciprocal standard deviation of every group of every
/// image, `[batch * groups, 2]`.
///
/// # Panics
/// If weight and bias have different number formats.
pub(super) fn forward(
    x: CubeTensor,
    weight: CubeTensor,
    bias: CubeTensor,
    GroupNormOptions { groups, epsilon, swish }: GroupNormOptions,
) -> [CubeTensor; 2] {
    assert_eq!(weight.dtype, bias.dtype, "weight and bias of a normalisation");
    let sizes = Sizes::of(&x, groups);
    let Sizes { batch, channels, width, pixels, parts } = sizes;
    let (x, weight, bias) = (channels_last(x), into_contiguous(weight), into_contiguous(bias));
    let (client, types, tiles) = (x.client.clone(), elements([&x, &weight]), sizes.tiles());
    let partial = empty(&x, [batch * parts * channels, 2], DType::F32);
    let moments = empty(&x, [sizes.groups(), 2], DType::F32);
    let y = empty_like(&x);

    let [input, to] = [&x, &partial].map(|tensor| argument(tensor.clone()));
    let (grid, type_) = (cubes(tiles), element(&x));
    moments_kernel::launch(&client, grid, tile_units(), input, to, channels, pixels, tiles, type_);
    let (grid, units) = (cubes(sizes.groups()), CubeDim::new_1d(OF_GROUP as u32));
    let (from, to) = (argument(partial), argument(moments.clone()));
    let eps = epsilon as f32;
    groups_kernel::launch(&client, grid, units, from, to, channels, width, pixels, parts, eps);
    let [x, weight, bias] = [x, weight, bias].map(argument);
    let [of_groups, to] = [&moments, &y].map(|tensor| argument(tensor.clone()));
    forward_kernel::launch(
        &client,
        cubes(tiles),
        tile_units(),
        x,
        weight,
        bias,
        of_groups,
        to,
        width,
        pixels,
        tiles,
        swish,
        types,
    );
    [channels_first(y), moments]
}
