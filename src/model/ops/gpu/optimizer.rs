//! AdamW, a unit per element, and the sum of squares of many tensors.

use burn::tensor::DType;
use burn_cubecl::kernel::into_contiguous;
use burn_cubecl::tensor::CubeTensor;
use cubecl::prelude::*;
use kernels::adamw::Factors;

use kernels::gpu::{
    UNITS, argument, count, cubes, element, elements, elementwise, empty, owned, sum,
};

/// Cubes per tensor in a sum of squares.
const PARTS: usize = 64;
/// Tensors per launch of one.
const GROUP: usize = 16;

#[cube(launch)]
fn adamw_kernel<F: Float, G: Float>(
    weight: &mut [F],
    first: &mut [f32],
    second: &mut [f32],
    gradient: &[G],
    beta1: f32,
    beta2: f32,
    eps: f32,
    gradient_scale: f32,
    rate: f32,
    correction: f32,
    keep: f32,
    #[define(F, G)] _elements: [ElemType; 2],
) {
    if ABSOLUTE_POS < gradient.len() {
        let gradient = f32::cast_from(gradient[ABSOLUTE_POS]) * gradient_scale;
        let mean = first[ABSOLUTE_POS] * beta1 + gradient * (1.0 - beta1);
        let square = second[ABSOLUTE_POS] * beta2 + gradient * gradient * (1.0 - beta2);
        first[ABSOLUTE_POS] = mean;
        second[ABSOLUTE_POS] = square;
        let step = mean / (f32::sqrt(square / correction) + eps) * rate;
        weight[ABSOLUTE_POS] = F::cast_from(f32::cast_from(weight[ABSOLUTE_POS]) * keep - step);
    }
}

/// In place if weight and moments share their memory with no other tensor.
pub(super) fn adamw(
    factors: Factors,
    weight: CubeTensor,
    moments: [CubeTensor; 2],
    gradient: CubeTensor,
) -> [CubeTensor; 3] {
    let [first, second] = moments;
    let updated = [weight, first, second].map(owned);
    let gradient = into_contiguous(gradient);
    let (client, types) = (gradient.client.clone(), elements([&updated[0], &gradient]));
    let (grid, units) = elementwise(count(&gradient));
    let [weight, first, second] = updated.clone().map(argument);
    let Factors { betas: [beta1, beta2], eps, gradient_scale, rate, correction, keep } = factors;
    adamw_kernel::launch(
        &client,
        grid,
        units,
        weight,
        first,
        second,
        argument(gradient),
        beta1,
        beta2,
        eps,
        gradient_scale,
        rate,
        correction,
        keep,
        types,
    );
    updated
}

/// Each cube's part of the sum of squares of the tensor that its y names.
#[cube(launch)]
fn squares_kernel<F: Float>(
    tensors: &Sequence<Box<[F]>>,
    partial: &mut [f32], // [all tensors, PARTS]
    first: usize,
    #[define(F)] _element: ElemType,
) {
    let mut squares = 0.0f32;
    #[unroll]
    for place in 0..tensors.len() {
        if CUBE_POS_Y as usize == place {
            let mut i = CUBE_POS_X as usize * UNITS + UNIT_POS_X as usize;
            while i < tensors[place].len() {
                let value = f32::cast_from(tensors[place][i]);
                squares += value * value;
                i += PARTS * UNITS;
            }
        }
    }
    let total = sum(squares, UNITS, 1usize);
    if UNIT_POS_X == 0 {
        partial[(first + CUBE_POS_Y as usize) * PARTS + CUBE_POS_X as usize] = total;
    }
}

/// The sum of `partial`.
#[cube(launch)]
fn total_kernel(partial: &[f32], total: &mut [f32]) {
    let mut part = 0.0f32;
    let mut i = UNIT_POS_X as usize;
    while i < partial.len() {
        part += partial[i];
        i += UNITS;
    }
    let sum = sum(part, UNITS, 1usize);
    if UNIT_POS_X == 0 {
        total[0] = sum;
    }
}

/// The sum of the squares of all elements of `tensors`, `[1]`, in one order: a launch per [`GROUP`] and one more.
///
/// # Panics
/// If there is no tensor.
pub(super) fn sum_of_squares(tensors: Vec<CubeTensor>) -> CubeTensor {
    let partial = empty(&tensors[0], [tensors.len(), PARTS], DType::F32);
    let total = empty(&tensors[0], [1], DType::F32);
    let (client, units) = (partial.client.clone(), CubeDim::new_1d(UNITS as u32));
    for (group, tensors) in tensors.chunks(GROUP).enumerate() {
        let grid = CubeCount::Static(PARTS as u32, tensors.len() as u32, 1);
        let (to, types) = (argument(partial.clone()), element(&tensors[0]));
        let tensors = tensors.iter().map(|x| argument(into_contiguous(x.clone())));
        squares_kernel::launch(&client, grid, units, tensors.collect(), to, group * GROUP, types);
    }
    let to = argument(total.clone());
    total_kernel::launch(&client, cubes(1), units, argument(partial), to);
    total
}
