//! The kernels against the composed operations on the CPU: values, gradients, repeatability. With the feature
//! `wgpu`, a Vulkan driver is needed, of a GPU or in software.
#![allow(clippy::unwrap_used, reason = "tests")]

use burn::tensor::{DType, Device, Distribution, Tensor};

use crate::init;
use crate::ops::{GroupNormOptions, Kernels, exact_product, forced, group_norm};

#[test]
fn exact_products_have_the_digits_of_f32() {
    let Some((_, device)) = forced::gpu() else { return };
    for [rows, inner, columns] in [[1, 3, 5], [70, 33, 129], [257, 8, 1000]] {
        let (lhs, rhs) = (random([rows, inner], 0.0, 1.0), random([columns, inner], 0.0, 1.0));
        let [of_lhs, of_rhs] = [&lhs, &rhs].map(|matrix| on(matrix, &device, DType::F32));
        let (lhs, rhs) = (host::<2>(&lhs), host::<2>(&rhs));
        let found = host(&exact_product(of_lhs.clone(), of_rhs.clone().transpose()));
        let on_tape = device.clone().autodiff();
        let [taped_lhs, taped_rhs] =
            [&of_lhs, &of_rhs].map(|matrix| on(matrix, &on_tape, DType::F32));
        assert_eq!(host(&exact_product(taped_lhs, taped_rhs.transpose())), found);
        for (at, found) in found.into_iter().enumerate() {
            let [row, column] = [&lhs[at / columns * inner..], &rhs[at % columns * inner..]];
            let pairs = row.iter().zip(column).take(inner);
            let sum: f64 = pairs.map(|(a, b)| f64::from(*a) * f64::from(*b)).sum();
            assert!((f64::from(found) - sum).abs() < 1e-5 * (inner as f64).sqrt(), "{found} {sum}");
        }
    }
}

/// Shape of the input, groups, mean and deviation of the values.
type Case = ([usize; 4], usize, f64, f64);

const CASES: [Case; 8] = [
    ([1, 32, 8, 8], 32, 2.0, 3.0),
    ([5, 64, 5, 7], 32, 2.0, 3.0),
    ([3, 6, 70, 90], 2, 2.0, 3.0),
    ([2, 40, 1, 1], 4, 2.0, 3.0),
    ([1, 512, 17, 13], 32, 0.0, 1.0),
    ([3, 6, 31, 33], 3, -20.0, 1.0),
    ([1, 3, 1, 1025], 1, 20.0, 1.0),
    // Three parts a channel, the last one shorter.
    ([2, 4, 127, 259], 2, 2.0, 3.0),
];

fn random<const D: usize>(shape: [usize; D], mean: f64, deviation: f64) -> Tensor<D> {
    init::random(shape, Distribution::Normal(mean, deviation), &Device::flex())
}

/// `x` on `device` in `dtype`.
fn on<const D: usize>(x: &Tensor<D>, device: &Device, dtype: DType) -> Tensor<D> {
    Tensor::from_data(x.to_data(), (device, dtype))
}

fn host<const D: usize>(x: &Tensor<D>) -> Vec<f32> {
    x.to_data().iter().collect()
}

/// The result and the gradients of input, weight and bias.
fn found(
    [x, upstream]: [&Tensor<4>; 2],
    [weight, bias]: [&Tensor<1>; 2],
    options: GroupNormOptions,
    (kernels, device, dtype): (Kernels, &Device, DType),
) -> [Vec<f32>; 4] {
    let device = device.clone().autodiff();
    let x = on(x, &device, dtype).require_grad();
    let [weight, bias] = [weight, bias].map(|x| on(x, &device, DType::F32).require_grad());
    let run = || group_norm(x.clone(), weight.clone(), bias.clone(), options);
    let (y, operations) = forced::on(kernels, run);
    assert_eq!(operations, 1);
    let gradients = (y.clone() * on(upstream, &device, dtype)).cast(DType::F32).sum().backward();
    let of_vector = |x: &Tensor<1>| host(&x.grad(&gradients).unwrap());
    let of_x = host(&x.grad(&gradients).unwrap());
    [host(&y), of_x, of_vector(&weight), of_vector(&bias)]
}

#[test]
fn normalisation_on_a_gpu_equals_the_composed_one_on_the_cpu() {
    let Some((kernels, gpu)) = forced::gpu() else { return };
    let flex = Device::flex();
    for (shape, groups, mean, deviation) in CASES {
        let (weight, bias) = (random([shape[1]], 0.0, 1.0), random([shape[1]], 0.0, 1.0));
        let (x, upstream) = (random(shape, mean, deviation), random(shape, 0.0, 1.0));
        for (dtype, tolerance) in [(DType::F32, 1e-5), (DType::F16, 4e-3)] {
            let tensors = [&x, &upstream].map(|x| x.clone().cast(dtype).cast(DType::F32));
            for swish in [false, true] {
                let options = GroupNormOptions { groups, epsilon: 1e-6, swish };
                let run = |side| found(tensors.each_ref(), [&weight, &bias], options, side);
                let want = run((Kernels::Composed, &flex, DType::F32));
                let got = run((kernels, &gpu, dtype));
                for (place, (got, want)) in got.iter().zip(&want).enumerate() {
                    let largest = want.iter().fold(1e-3f32, |most, value| most.max(value.abs()));
                    let apart = got.iter().zip(want).map(|(a, b)| (a - b).abs());
                    // `max` would ignore NaN.
                    let apart = apart.map(|a| if a.is_nan() { f32::INFINITY } else { a });
                    let worst = apart.fold(0.0, f32::max) / largest;
                    let name = format!("{shape:?} in {groups} groups, swish {swish}, {dtype:?}");
                    assert!(worst < tolerance, "{name}: result {place} is off by {worst}");
                }
                assert!(run((kernels, &gpu, dtype)) == got, "two runs differ");
            }
        }
    }
}
