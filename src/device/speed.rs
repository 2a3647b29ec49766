//! Measured peak performance of a device.

use std::time::Instant;

use burn::tensor::{DType, Device, Distribution, Tensor};

use crate::model::ops;

/// Side of the matrices on a CPU, and on other devices.
const SIDES: [usize; 2] = [2048, 4096];
/// Products per time measurement, on a CPU and on other devices.
const PRODUCTS: [usize; 2] = [1, 16];
/// Number of measurements; the best counts.
const ROUNDS: usize = 4;

/// Floating point operations per second of large matrix products on `device`: the peak of which
/// model FLOPs utilisation (MFU) is a share. It takes a fraction of a second.
pub fn matmul_flops(device: &Device, dtype: DType, on_cpu: bool) -> f64 {
    let (side, products) = (SIDES[usize::from(!on_cpu)], PRODUCTS[usize::from(!on_cpu)]);
    let device = &device.clone().inner(); // off the tape
    let random = || {
        let range = Distribution::Uniform(-1.0, 1.0);
        Tensor::<2>::random([side, side], range, device).cast(dtype)
    };
    let (a, b) = (random(), random());
    let seconds = (0..ROUNDS).map(|_| {
        let begun = Instant::now();
        let mut c = ops::matmul(a.clone(), b.clone());
        for _ in 1..products {
            c = ops::matmul(a.clone(), b.clone());
        }
        // Reading a value waits for the device.
        c.narrow(0, 0, 1).into_data();
        begun.elapsed().as_secs_f64()
    });
    let best = seconds.fold(f64::INFINITY, f64::min).max(1e-9);
    products as f64 * 2.0 * (side as f64).powi(3) / best
}
