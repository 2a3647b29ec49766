//! The kernels against the composed operations: values and gradients.
#![allow(clippy::unwrap_used, reason = "tests")]

use burn::tensor::{Device, Distribution, Tensor};

use super::conv2d;
use crate::init;
use crate::ops::composed;
use crate::ops::fused::group_norm;
use crate::ops::options::{Geometry, GroupNormOptions};

fn random<const D: usize>(shape: [usize; D], device: &Device) -> Tensor<D> {
    init::random(shape, Distribution::Normal(0.0, 1.0), device).require_grad()
}

/// Asserts that the largest difference is at most `1e-5` of the largest magnitude.
fn assert_close<const D: usize>(name: &str, left: Tensor<D>, right: Tensor<D>) {
    assert_eq!(left.dims(), right.dims(), "{name}");
    let scale = right.clone().abs().max().into_scalar::<f32>().max(1e-3);
    let difference = (left - right).abs().max().into_scalar::<f32>();
    assert!(difference <= 1e-5 * scale, "{name} differs by {difference}, largest value {scale}");
}

/// Compares values and the three gradients of two functions of the same leaves.
fn compare<const W: usize>(
    name: &str,
    x: &Tensor<4>,
    (weight, bias): (&Tensor<W>, &Tensor<1>),
    run: [&dyn Fn() -> Tensor<4>; 2],
) {
    let [fused, composed] = run.map(|run| run());
    assert_close(name, fused.clone().inner(), composed.clone().inner());
    let weights = init::random(fused.dims(), Distribution::Normal(0.0, 1.0), &fused.device());
    let fused = (fused * weights.clone()).sum().backward();
    let composed = (composed * weights).sum().backward();
    let name = |part: &str| format!("{part} gradient of {name}");
    assert_close(&name("input"), x.grad(&fused).unwrap(), x.grad(&composed).unwrap());
    assert_close(&name("weight"), weight.grad(&fused).unwrap(), weight.grad(&composed).unwrap());
    assert_close(&name("bias"), bias.grad(&fused).unwrap(), bias.grad(&composed).unwrap());
}

fn check_convolution(geometry: Geometry, side: usize) {
    let device = Device::flex().autodiff();
    for [batch, inputs, outputs, height, width] in [
        [1, 1, 1, 4, 4],
        [5, 3, 32, 9, 6],
        [2, 33, 7, 5, 19],
        [1, 32, 40, 16, 16],
        [3, 64, 3, 2, 3],
        [1, 70, 8, 40, 70],
    ] {
        let x = random([batch, inputs, height, width], &device);
        let weight = random([outputs, inputs, side, side], &device);
        let bias = random([outputs], &device);
        let name = format!("{geometry:?} {side}: {:?} by {:?}", x.dims(), weight.dims());
        let fused = || conv2d(x.clone(), weight.clone(), bias.clone(), geometry);
        let composed = || composed::conv2d(x.clone(), weight.clone(), bias.clone(), geometry);
        compare(&name, &x, (&weight, &bias), [&fused, &composed]);
    }
}

#[test]
fn fused_convolution_of_stride_1_equals_the_composed_one() {
    check_convolution(Geometry::Same, 3);
    check_convolution(Geometry::Same, 1);
}

#[test]
fn fused_downsampling_convolution_equals_the_composed_one() {
    check_convolution(Geometry::Down, 3);
}

#[test]
fn fused_upsampling_convolution_equals_the_composed_one() {
    check_convolution(Geometry::Up, 3);
}

#[test]
fn fused_normalisation_equals_the_composed_one() {
    let device = Device::flex().autodiff();
    for ([batch, channels, height, width], groups) in
        [([1, 32, 8, 8], 32), ([5, 64, 5, 7], 32), ([2, 128, 16, 4], 32), ([1, 6, 70, 90], 2)]
    {
        for swish in [false, true] {
            let spread = Distribution::Normal(2.0, 3.0);
            let x = init::random([batch, channels, height, width], spread, &device);
            let x = x.require_grad();
            let (weight, bias) = (random([channels], &device), random([channels], &device));
            let name = format!("normalisation of {:?}, swish {swish}", x.dims());
            let options = GroupNormOptions { groups, epsilon: 1e-6, swish };
            let fused = || group_norm(x.clone(), weight.clone(), bias.clone(), options);
            let composed =
                || composed::group_norm(x.clone(), weight.clone(), bias.clone(), options);
            compare(&name, &x, (&weight, &bias), [&fused, &composed]);
        }
    }
}

/// `sum(weights * normalised convolution)` of a tiny case.
fn tiny(x: Tensor<4>, device: &Device) -> Tensor<1> {
    let ramp = |count: i64, slope: f32| {
        Tensor::<1, burn::tensor::Int>::arange(0..count, device).float() * slope - 0.7
    };
    let weight = ramp(72, 0.02).reshape([4, 2, 3, 3]);
    let y = conv2d(x, weight, ramp(4, 0.3), Geometry::Down);
    let options = GroupNormOptions { groups: 2, epsilon: 1e-6, swish: true };
    let y = group_norm(y, ramp(4, 0.5), ramp(4, 0.2), options);
    let size = y.dims().iter().product::<usize>() as i64;
    (y.clone() * ramp(size, 0.1).sin().reshape(y.dims())).sum()
}

#[test]
fn gradients_equal_finite_differences() {
    let device = Device::flex().autodiff();
    let x = random([1, 2, 4, 6], &device);
    let gradients = tiny(x.clone(), &device).backward();
    let gradient = x.grad(&gradients).unwrap().into_data().try_to_vec::<f32>().unwrap();
    let plain = Device::flex();
    let values = x.into_data().try_to_vec::<f32>().unwrap();
    let loss = |index: usize, step: f32| {
        let mut values = values.clone();
        values[index] += step;
        let x = Tensor::<1>::from_floats(values.as_slice(), &plain).reshape([1, 2, 4, 6]);
        f64::from(tiny(x, &plain).into_scalar::<f32>())
    };
    for (index, gradient) in gradient.iter().enumerate() {
        let slope = (loss(index, 1e-2) - loss(index, -1e-2)) / 2e-2;
        let error = (slope - f64::from(*gradient)).abs();
        assert!(error < 2e-2 * slope.abs().max(1.0), "at {index}: {gradient}, differences {slope}");
    }
}

#[test]
fn gradients_do_not_depend_on_the_number_of_threads() {
    let run = |threads: usize| {
        let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
        pool.install(|| {
            let device = Device::flex().autodiff();
            let values: Vec<f32> =
                (0..5 * 33 * 48).map(|i| ((i * 37 % 101) as f32).sin()).collect();
            let x = Tensor::<1>::from_floats(values.as_slice(), &device).reshape([5, 33, 8, 6]);
            let weight = Tensor::<1>::from_floats(&values[..33 * 8 * 9], &device);
            let weight = weight.reshape([8, 33, 3, 3]).require_grad();
            let bias = Tensor::<1>::zeros([8], &device);
            let y = conv2d(x, weight.clone(), bias, Geometry::Same);
            let gradients = y.square().sum().backward();
            weight.grad(&gradients).unwrap().into_data().try_to_vec::<f32>().unwrap()
        })
    };
    let one = run(1);
    assert_eq!(one, run(2));
    assert_eq!(one, run(7));
}
