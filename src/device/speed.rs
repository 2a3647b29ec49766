//! Measured peak performance of a device.

use std::time::Instant;

use burn::tensor::{DType, Device, Distribution, Tensor};

use crate::model::ops;

/// Sides of the matrices, in turn.
const SIDES: [usize; 5] = [256, 512, 1024, 2048, 4096];
/// A product that takes this many seconds is large enough to show the peak.
const LONG: f64 = 0.02;
/// Maximum number of products per time measurement.
const PRODUCTS: usize = 16;
/// Number of measurements of the largest product; the best counts.
const ROUNDS: usize = 4;

/// Floating point operations per second of large matrix products on `device`: the peak of which
/// model FLOPs utilisation (MFU) is a share.
///
/// Matrices grow until a product takes 20 ms, so that it takes a fraction of a second on any device, beside the
/// time to compile the products.
pub fn matmul_flops(device: &Device, dtype: DType) -> f64 {
    let device = &device.clone().inner(); // off the tape
    let mut peak: f64 = 0.0;
    for side in SIDES {
        let range = Distribution::Uniform(-1.0, 1.0);
        let random = || Tensor::<2>::random([side, side], range, device).cast(dtype);
        let (a, b) = (random(), random());
        // The first product may have to be compiled.
        seconds(&a, &b, 1);
        let once = seconds(&a, &b, 1);
        let products = (LONG / once).clamp(1.0, PRODUCTS as f64) as usize;
        let is_last = once >= LONG || side == SIDES[SIDES.len() - 1];
        let rounds = if is_last { ROUNDS } else { 1 };
        let each = (0..rounds).map(|_| seconds(&a, &b, products) / products as f64);
        peak = peak.max(2.0 * (side as f64).powi(3) / each.fold(once, f64::min));
        if is_last {
            break;
        }
    }
    peak
}

/// The time of `products` products of `a` and `b`, at least a nanosecond.
fn seconds(a: &Tensor<2>, b: &Tensor<2>, products: usize) -> f64 {
    let begun = Instant::now();
    let mut c = ops::matmul(a.clone(), b.clone());
    for _ in 1..products {
        c = ops::matmul(a.clone(), b.clone());
    }
    // Reading a value waits for the device.
    c.narrow(0, 0, 1).into_data();
    begun.elapsed().as_secs_f64().max(1e-9)
}
