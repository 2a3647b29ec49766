//! SwiGLU: a unit per element.

use burn_cubecl::kernel::into_contiguous;
use burn_cubecl::tensor::CubeTensor;
use cubecl::prelude::*;

use kernels::gpu::{argument, count, element, elementwise, empty_like};

#[cube]
fn sigmoid(x: f32) -> f32 {
    1.0 / (1.0 + f32::exp(-x))
}

#[cube(launch)]
fn forward_kernel<F: Float>(gate: &[F], up: &[F], y: &mut [F], #[define(F)] _element: ElemType) {
    if ABSOLUTE_POS < y.len() {
        let x = f32::cast_from(gate[ABSOLUTE_POS]);
        y[ABSOLUTE_POS] = F::cast_from(x * sigmoid(x) * f32::cast_from(up[ABSOLUTE_POS]));
    }
}

pub(super) fn forward(gate: CubeTensor, up: CubeTensor) -> CubeTensor {
    let (gate, up) = (into_contiguous(gate), into_contiguous(up));
    let (client, y, types) = (gate.client.clone(), empty_like(&gate), element(&gate));
    let (cubes, units) = elementwise(count(&y));
    let [gate, up, to] = [gate, up, y.clone()].map(argument);
    forward_kernel::launch(&client, cubes, units, gate, up, to, types);
    y
}

#[cube(launch)]
fn backward_kernel<F: Float>(
    gate: &[F],
    up: &[F],
    dy: &[F],
    d_gate: &mut [F],
    d_up: &mut [F],
    #[define(F)] _element: ElemType,
) {
    if ABSOLUTE_POS < dy.len() {
        let x = f32::cast_from(gate[ABSOLUTE_POS]);
        let dy = f32::cast_from(dy[ABSOLUTE_POS]);
        let share = sigmoid(x);
        let slope = share * (1.0 + x * (1.0 - share));
        d_gate[ABSOLUTE_POS] = F::cast_from(dy * f32::cast_from(up[ABSOLUTE_POS]) * slope);
        d_up[ABSOLUTE_POS] = F::cast_from(dy * x * share);
    }
}

pub(super) fn backward(gate: CubeTensor, up: CubeTensor, dy: CubeTensor) -> [CubeTensor; 2] {
    let [gate, up, dy] = [gate, up, dy].map(into_contiguous);
    let (client, types) = (gate.client.clone(), element(&gate));
    let results = [empty_like(&gate), empty_like(&up)];
    let (cubes, units) = elementwise(count(&gate));
    let [gate, up, dy] = [gate, up, dy].map(argument);
    let [d_gate, d_up] = results.clone().map(argument);
    backward_kernel::launch(&client, cubes, units, gate, up, dy, d_gate, d_up, types);
    results
}
