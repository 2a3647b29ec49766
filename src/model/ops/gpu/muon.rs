//! Muon: everything between its matrix products in one pass each, in f32.
//!
//! A matrix with more rows than columns takes its products from the other side, so that nothing is transposed: with
//! `A = X^T X` the polynomial is `X B` instead of `B X`.

use burn::backend::TensorMetadata;
use burn::tensor::DType;
use burn_cubecl::kernel::into_contiguous;
use burn_cubecl::tensor::CubeTensor;
use cubecl::prelude::*;
use kernels::gpu::{UNITS, argument, count, cubes, element, elementwise, empty, owned, sum};

use super::linear::{product, transposed};
use crate::model::ops::Muon;

/// Elements of a cube where cubes sum up: all of a matrix with up to 8 million, in [`CUBES`] at most.
const ELEMENTS: usize = 64 * UNITS;
const CUBES: usize = 1024;
/// Iterations of Newton and Schulz and the coefficients of their polynomial (Keller Jordan's, as in arXiv 2502.16982).
const ITERATIONS: usize = 5;
const COEFFICIENTS: [f32; 3] = [3.4445, -4.775, 2.0315];
/// The least norm that a matrix is divided by.
const LEAST: f32 = 1e-7;
/// Size of an update's elements: that of AdamW's (section 2.2).
const SIZE: f64 = 0.2;

/// Updates the momentum, looks one step ahead, and sums up the squares of that.
#[cube(launch)]
fn momentum_kernel<G: Float>(
    momentum: &mut [f32],
    gradient: &[G],
    ahead: &mut [f32],
    partial: &mut [f32], // a number per cube
    gradient_scale: f32,
    keep: f32,
    #[define(G)] _element: ElemType,
) {
    if CUBE_POS >= partial.len() {
        terminate!();
    }
    let mut squares = 0.0f32;
    let mut i = CUBE_POS * UNITS + UNIT_POS_X as usize;
    while i < gradient.len() {
        let gradient = f32::cast_from(gradient[i]) * gradient_scale;
        let moved = momentum[i] * keep + gradient;
        let value = moved * keep + gradient;
        momentum[i] = moved;
        ahead[i] = value;
        squares += value * value;
        i += partial.len() * UNITS;
    }
    let total = sum(squares, UNITS, 1usize);
    if UNIT_POS_X == 0 {
        partial[CUBE_POS] = total;
    }
}

/// Divides `x` by its norm, of which `partial` are parts of the square.
#[cube(launch)]
fn normalize_kernel(x: &mut [f32], partial: &[f32], least: f32) {
    if CUBE_POS >= partial.len() {
        terminate!();
    }
    let mut part = 0.0f32;
    let mut i = UNIT_POS_X as usize;
    while i < partial.len() {
        part += partial[i];
        i += UNITS;
    }
    let norm = max(f32::sqrt(sum(part, UNITS, 1usize)), least);
    let mut i = CUBE_POS * UNITS + UNIT_POS_X as usize;
    while i < x.len() {
        x[i] /= norm;
        i += partial.len() * UNITS;
    }
}

/// `of_x * x + of_y * y`, in place of `y`.
#[cube(launch)]
fn combine_kernel<F: Float>(
    x: &[f32],
    y: &mut [F],
    of_x: f32,
    of_y: f32,
    #[define(F)] _element: ElemType,
) {
    if ABSOLUTE_POS < y.len() {
        let value = x[ABSOLUTE_POS] * of_x + f32::cast_from(y[ABSOLUTE_POS]) * of_y;
        y[ABSOLUTE_POS] = F::cast_from(value);
    }
}

/// See [`combine_kernel`]; `y` must share its memory with no other tensor.
fn combine(x: &CubeTensor, of_x: f32, y: CubeTensor, of_y: f32) -> CubeTensor {
    let (client, type_) = (y.client.clone(), element(&y));
    let (grid, units) = elementwise(count(&y));
    let [from, to] = [x, &y].map(|tensor| argument(tensor.clone()));
    combine_kernel::launch(&client, grid, units, from, to, of_x, of_y, type_);
    y
}

/// The momentum after an update, and the direction with a norm of 1, `[rows, columns]`.
fn direction(
    momentum: CubeTensor,
    gradient: CubeTensor,
    shape: [usize; 2],
    gradient_scale: f32,
) -> [CubeTensor; 2] {
    let (momentum, gradient) = (owned(momentum), into_contiguous(gradient));
    let ahead = empty(&momentum, shape, DType::F32);
    let parts = count(&ahead).div_ceil(ELEMENTS).min(CUBES);
    let partial = empty(&momentum, [parts], DType::F32);
    let (client, type_) = (momentum.client.clone(), element(&gradient));
    let units = CubeDim::new_1d(UNITS as u32);
    let [to, to_ahead, to_parts] =
        [&momentum, &ahead, &partial].map(|tensor| argument(tensor.clone()));
    momentum_kernel::launch(
        &client,
        cubes(parts),
        units,
        to,
        argument(gradient),
        to_ahead,
        to_parts,
        gradient_scale,
        Muon::MOMENTUM as f32,
        type_,
    );
    let (x, partial) = (argument(ahead.clone()), argument(partial));
    normalize_kernel::launch(&client, cubes(parts), units, x, partial, LEAST);
    [momentum, ahead]
}

/// Moves all singular values of `x`, at most 1, close to 1.
fn orthogonal(mut x: CubeTensor) -> CubeTensor {
    let is_tall = x.shape()[0] > x.shape()[1];
    let times = |lhs: &CubeTensor, rhs: &CubeTensor| product(lhs.clone(), rhs.clone(), DType::F32);
    let [of_x, of_gram, of_square] = COEFFICIENTS;
    for _ in 0..ITERATIONS {
        let flipped = transposed(x.clone());
        let gram = if is_tall { times(&flipped, &x) } else { times(&x, &flipped) };
        let polynomial = combine(&gram, of_gram, times(&gram, &gram), of_square);
        let moved = if is_tall { times(&x, &polynomial) } else { times(&polynomial, &x) };
        x = combine(&x, of_x, moved, 1.0);
    }
    x
}

/// The weight and its momentum, in place if they share their memory with no other tensor.
pub(super) fn muon(
    Muon { gradient_scale, lr, decay }: Muon,
    weight: CubeTensor,
    momentum: CubeTensor,
    gradient: CubeTensor,
) -> [CubeTensor; 2] {
    let shape: [usize; 2] = weight.shape().dims();
    let [momentum, x] = direction(momentum, gradient, shape, gradient_scale as f32);
    let x = orthogonal(x);
    let rate = lr * SIZE * (shape[0].max(shape[1]) as f64).sqrt();
    let weight = combine(&x, -rate as f32, owned(weight), (1.0 - lr * decay) as f32);
    [weight, momentum]
}
