//! LayerNorm per head with rotary embedding: a line of [`LINE`] units per head of a token.

use burn::backend::TensorMetadata;
use burn::tensor::{DType, Shape};
use burn_cubecl::kernel::{into_contiguous, slice};
use burn_cubecl::tensor::CubeTensor;
use cubecl::prelude::*;

use super::tile::zeros;
use kernels::gpu::{argument, column_sums, cubes, elements, empty, empty_like, sum};

/// Units per head of a token.
pub(super) const LINE: usize = 32;
/// Lines per cube.
pub(super) const LINES: usize = 4;
/// Cubes of the backward pass that the heads share.
const CUBES: usize = 512;

/// A head norm, and the rotation and the scale that follow.
pub(super) struct HeadNorm {
    /// `[heads, width]`.
    pub(super) weight_and_bias: [CubeTensor; 2],
    /// `[tokens, width / 2]`.
    pub(super) cos_and_sin: [CubeTensor; 2],
    /// The scale, and epsilon.
    pub(super) factors: [f32; 2],
}

/// The mean of a line's `value`s over `width` elements.
#[cube]
fn mean(value: f32, #[comptime] width: usize) -> f32 {
    sum(value, LINE, LINES) / width as f32
}

/// The mean of a head's elements, and the factor that makes their variance 1; of rows that are not, nothing.
#[cube]
fn statistics<F: Float>(
    x: &[F],
    start: usize,
    is_row: bool,
    eps: f32,
    #[comptime] width: usize,
) -> (f32, f32) {
    let mut total = 0.0f32;
    let mut i = UNIT_POS_X as usize;
    while i < width {
        if is_row {
            total += f32::cast_from(x[start + i]);
        }
        i += LINE;
    }
    let mean_of_row = mean(total, width);
    let mut squares = 0.0f32;
    let mut i = UNIT_POS_X as usize;
    while i < width {
        if is_row {
            let centred = f32::cast_from(x[start + i]) - mean_of_row;
            squares += centred * centred;
        }
        i += LINE;
    }
    let scale = f32::inverse_sqrt(mean(squares, width) + eps);
    (mean_of_row, scale)
}

#[cube(launch)]
fn forward_kernel<F: Float, W: Float, C: Float>(
    x: &[F],      // [tokens, heads, width]
    weight: &[W], // [heads, width]
    bias: &[W],
    cos: &[C], // [tokens, width / 2]
    sin: &[C],
    y: &mut [F], // [batch, heads, seq, width]
    tokens: usize,
    seq: usize,
    heads: usize,
    factor: f32,
    eps: f32,
    #[comptime] width: usize,
    #[define(F, W, C)] _elements: [ElemType; 3],
) {
    let row = CUBE_POS * LINES + UNIT_POS_Y as usize;
    let is_row = row < tokens * heads;
    let (token, head) = (row / heads, row % heads);
    let to = ((token / seq * heads + head) * seq + token % seq) * width;
    let factors = (factor, eps);
    line::<F, W, C>(x, weight, bias, cos, sin, y, row, is_row, heads, to, 1usize, factors, width);
}

/// Writes head `row % heads` of token `row / heads`, if it is one, to `y` from `to` on, every `step`th element.
#[cube]
pub(super) fn line<F: Float, W: Float, C: Float>(
    x: &[F],
    weight: &[W],
    bias: &[W],
    cos: &[C],
    sin: &[C],
    y: &mut [F],
    row: usize,
    is_row: bool,
    heads: usize,
    to: usize,
    #[comptime] step: usize,
    factors: (f32, f32),
    #[comptime] width: usize,
) {
    let (factor, eps) = factors;
    let (token, head, start) = (row / heads, row % heads, row * width);
    let (mean, scale) = statistics::<F>(x, start, is_row, eps, width);
    if is_row {
        let half = comptime!(width / 2);
        let mut i = UNIT_POS_X as usize;
        while i < half {
            let (at, other) = (head * width + i, head * width + half + i);
            let first = (f32::cast_from(x[start + i]) - mean) * scale;
            let first = first * f32::cast_from(weight[at]) + f32::cast_from(bias[at]);
            let second = (f32::cast_from(x[start + half + i]) - mean) * scale;
            let second = second * f32::cast_from(weight[other]) + f32::cast_from(bias[other]);
            let c = f32::cast_from(cos[token * half + i]);
            let s = f32::cast_from(sin[token * half + i]);
            y[to + i * step] = F::cast_from((first * c - second * s) * factor);
            y[to + (half + i) * step] = F::cast_from((second * c + first * s) * factor);
            i += LINE;
        }
    }
}

pub(super) fn forward(inputs: [CubeTensor; 5], [factor, eps]: [f32; 2]) -> CubeTensor {
    let inputs = inputs.map(into_contiguous);
    let [x, weight, _, cos, _] = &inputs;
    let [batch, seq, heads, width] = x.shape().dims();
    let (client, tokens) = (x.client.clone(), batch * seq);
    let y = empty(x, [batch, heads, seq, width], x.dtype);
    let types = elements([x, weight, cos]);
    let grid = cubes((tokens * heads).div_ceil(LINES));
    let units = CubeDim::new_2d(LINE as u32, LINES as u32);
    let [x, weight, bias, cos, sin] = inputs.map(argument);
    let to = argument(y.clone());
    forward_kernel::launch(
        &client, grid, units, x, weight, bias, cos, sin, to, tokens, seq, heads, factor, eps,
        width, types,
    );
    y
}

/// The gradients of a head's weighted, normal elements: the pair of `dy` that begins at `from`, rotated back.
#[cube]
fn rotated_back<F: Float, C: Float>(
    dy: &[F],
    from: usize,
    cos: &[C],
    sin: &[C],
    angle: usize,
    #[comptime] half: usize,
) -> (f32, f32) {
    let c = f32::cast_from(cos[angle]);
    let s = f32::cast_from(sin[angle]);
    let first = f32::cast_from(dy[from]);
    let second = f32::cast_from(dy[from + half]);
    (first * c + second * s, second * c - first * s)
}

/// Adds up what a unit finds of its pairs of elements of one head: of pair `i` the places `2 * i` and `2 * i + 1`.
#[cube]
fn add(sums: &mut Array<f32>, i: usize, pair: (f32, f32)) {
    sums[2 * i] += pair.0;
    sums[2 * i + 1] += pair.1;
}

/// `dx` of one head of every `parts * LINES`th token, and their part of the gradients of weight and bias.
#[cube(launch)]
fn backward_kernel<F: Float, W: Float, C: Float>(
    x: &[F],
    weight: &[W],
    cos: &[C],
    sin: &[C],
    dy: &[F], // [batch, heads, seq, width]
    dx: &mut [F],
    partial: &mut [f32], // [parts * LINES, 2, heads, width]
    tokens: usize,
    seq: usize,
    heads: usize,
    parts: usize,
    factor: f32,
    eps: f32,
    #[comptime] width: usize,
    #[define(F, W, C)] _elements: [ElemType; 3],
) {
    if CUBE_POS >= heads * parts {
        terminate!();
    }
    let half = comptime!(width / 2);
    let own = comptime!(half.div_ceil(LINE));
    let (head, part) = (CUBE_POS % heads, CUBE_POS / heads);
    let (unit, line) = (UNIT_POS_X as usize, UNIT_POS_Y as usize);
    let (mut of_weight, mut of_bias) = (zeros(2 * own), zeros(2 * own));
    let mut first_token = part * LINES;
    while first_token < tokens {
        let token = first_token + line;
        let is_row = token < tokens;
        let start = (token * heads + head) * width;
        let from = ((token / seq * heads + head) * seq + token % seq) * width;
        let (mean_of_row, scale) = statistics::<F>(x, start, is_row, eps, width);
        let (mut normal, mut gradient) = (zeros(2 * own), zeros(2 * own));
        let mut total = 0.0f32;
        let mut products = 0.0f32;
        #[unroll]
        for i in 0..own {
            let at = unit + i * LINE;
            if is_row && at < half {
                let angle = token * half + at;
                let turned = rotated_back::<F, C>(dy, from + at, cos, sin, angle, half);
                let turned = (turned.0 * factor, turned.1 * factor);
                let first = (f32::cast_from(x[start + at]) - mean_of_row) * scale;
                let second = (f32::cast_from(x[start + half + at]) - mean_of_row) * scale;
                let place = head * width + at;
                let d_first = turned.0 * f32::cast_from(weight[place]);
                let d_second = turned.1 * f32::cast_from(weight[place + half]);
                add(&mut normal, i, (first, second));
                add(&mut gradient, i, (d_first, d_second));
                add(&mut of_bias, i, turned);
                add(&mut of_weight, i, (turned.0 * first, turned.1 * second));
                total += d_first + d_second;
                products += d_first * first + d_second * second;
            }
        }
        let of_mean = mean(total, width);
        let of_scale = mean(products, width);
        #[unroll]
        for i in 0..2 * own {
            let at = unit + i / 2 * LINE;
            if is_row && at < half {
                let value = gradient[i] - of_mean - normal[i] * of_scale;
                dx[start + i % 2 * half + at] = F::cast_from(value * scale);
            }
        }
        first_token += parts * LINES;
    }
    let to = ((part * LINES + line) * 2 * heads + head) * width;
    #[unroll]
    for i in 0..2 * own {
        let at = unit + i / 2 * LINE;
        if at < half {
            partial[to + i % 2 * half + at] = of_weight[i];
            partial[to + heads * width + i % 2 * half + at] = of_bias[i];
        }
    }
}

pub(super) fn backward(
    inputs: [CubeTensor; 5],
    dy: CubeTensor,
    [factor, eps]: [f32; 2],
) -> [CubeTensor; 3] {
    let ([x, weight, _, cos, sin], dy) = (inputs.map(into_contiguous), into_contiguous(dy));
    let [batch, seq, heads, width] = x.shape().dims();
    let (client, tokens) = (x.client.clone(), batch * seq);
    let parts = (CUBES / heads).clamp(1, tokens.div_ceil(LINES).max(1));
    let dx = empty_like(&x);
    let partial = empty(&x, [parts * LINES, 2, heads, width], DType::F32);
    let both = empty(&x, [2, heads, width], weight.dtype);
    let types = elements([&x, &weight, &cos]);
    let units = CubeDim::new_2d(LINE as u32, LINES as u32);
    let [x, weight, cos, sin, dy] = [x, weight, cos, sin, dy].map(argument);
    let [to, sums] = [&dx, &partial].map(|tensor| argument(tensor.clone()));
    backward_kernel::launch(
        &client,
        cubes(heads * parts),
        units,
        x,
        weight,
        cos,
        sin,
        dy,
        to,
        sums,
        tokens,
        seq,
        heads,
        parts,
        factor,
        eps,
        width,
        types,
    );
    column_sums(partial, &both);
    let of = |place: usize| {
        let rows = slice(both.clone(), &[place..place + 1, 0..heads, 0..width]);
        burn_cubecl::ops::reshape(rows, Shape::from([heads, width]))
    };
    [dx, of(0), of(1)]
}
