//! `x W^T` in one order for any number of rows, and the product in tiles that training takes:
//! `cargo bench -p kernels`. GFLOP/s, the best of alternate runs.

use std::hint::black_box;
use std::time::Instant;

use half::bf16;
use kernels::linear;
use kernels::matrix::{Matrix, Store};
use kernels::product::large;

/// Outputs and inputs.
const SHAPES: [[usize; 2]; 6] =
    [[384, 384], [1024, 384], [384, 1024], [512, 2048], [2048, 2048], [4096, 1024]];
const ROWS: [usize; 11] = [1, 2, 4, 8, 16, 17, 32, 64, 128, 512, 2048];

/// Multiplications that are timed together, and in all runs of a case.
const TIMED: [usize; 2] = [1 << 22, 1 << 30];

fn noise(len: usize) -> Vec<f32> {
    (0..len).map(|i| (i * 7919 % 1021) as f32 / 510.0 - 1.0).collect()
}

fn tiles(x: &[f32], w: &[f32], inputs: usize) -> Vec<f32> {
    let (rows, outputs) = (x.len() / inputs, w.len() / inputs);
    let mut y = vec![0.0; rows * outputs];
    let (x, w) = (Matrix::rows(x, inputs), Matrix::rows(w, inputs).transposed());
    large(Store::Overwrite, (&mut y, outputs), x, w, [rows, outputs, inputs]);
    y
}

fn main() {
    // `cargo test --benches` only checks that it runs.
    let measured = std::env::args().any(|arg| arg == "--bench");
    eprintln!("outputs x inputs, rows: f32, bf16, f32 in tiles");
    for [outputs, inputs] in SHAPES {
        let w = noise(outputs * inputs);
        let narrow: Vec<bf16> = w.iter().map(|w| bf16::from_f32(*w)).collect();
        for rows in ROWS.into_iter().filter(|rows| measured || *rows == 1) {
            let x = noise(rows * inputs);
            let forms: [&dyn Fn() -> Vec<f32>; 3] = [
                &|| linear::forward(&x, &w, inputs),
                &|| linear::forward(&x, &narrow, inputs),
                &|| tiles(&x, &w, inputs),
            ];
            let products = rows * outputs * inputs;
            let [once, all] = TIMED.map(|count| count.div_ceil(products));
            let mut best = [f64::INFINITY; 3];
            for _ in 0..(all / once).clamp(3, 100) {
                for (best, form) in best.iter_mut().zip(forms) {
                    let start = Instant::now();
                    for _ in 0..once {
                        black_box(form());
                    }
                    *best = best.min(start.elapsed().as_secs_f64() / once as f64);
                }
            }
            let [f32, bf16, tiles] = best.map(|seconds| 2e-9 * products as f64 / seconds);
            eprintln!("{outputs:4} x {inputs:4}, {rows:4}: {f32:6.1} {bf16:6.1} {tiles:6.1}");
        }
    }
}
