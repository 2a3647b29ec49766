//! Every form against a scalar twin, bit for bit.

#![allow(clippy::unwrap_used, reason = "tests")]

use std::ops::Range;

use half::bf16;

use super::*;
use crate::math::total;
use crate::noise::noise;

/// The dot form, one number after the other.
fn twin<S: Simd, E: Element>(simd: S, x: &[f32], w: &[E], inputs: usize) -> Vec<f32> {
    let rows = x.chunks_exact(inputs);
    rows.flat_map(|x| w.chunks_exact(inputs).map(move |w| twin_dot(simd, x, w))).collect()
}

fn twin_dot<S: Simd, E: Element>(simd: S, x: &[f32], w: &[E]) -> f32 {
    let whole = x.len() - x.len() % LANES;
    let mut lanes = [0.0; LANES];
    for at in 0..whole {
        lanes[at % LANES] = simd.fused_scalar(x[at], w[at].wide(), lanes[at % LANES]);
    }
    let rest = x[whole..].iter().zip(&w[whole..]);
    rest.fold(total(lanes), |sum, (x, w)| simd.fused_scalar(*x, w.wide(), sum))
}

fn bits(values: &[f32]) -> Vec<u32> {
    values.iter().map(|value| value.to_bits()).collect()
}

/// A copy of the values that starts `offset` elements after the start of a cache line, and its place.
fn placed<T: Copy>(values: &[T], offset: usize) -> (Vec<T>, Range<usize>) {
    let mut memory = vec![values[0]; values.len() + 64 + offset];
    let start = memory.as_ptr().align_offset(64) + offset;
    let place = start..start + values.len();
    memory[place.clone()].copy_from_slice(values);
    (memory, place)
}

/// Compares the form of one kind of processor, in all its tiles, with the twin, bit for bit.
fn equals_the_twin<S: Simd, E: Element>(simd: S, as_stored: impl Fn(f32) -> E) {
    let sizes = [(1, 1), (6, 15), (7, 16), (13, 17), (64, 100), (65, 384), (12, 513), (9, 2500)];
    for (outputs, inputs) in sizes {
        for rows in [1, 2, 3, 4, 5, 7, 8, 16, 17, 19, 35] {
            for offset in [0, 3] {
                let x = &placed(&noise(rows * inputs, 1), offset);
                let w: Vec<E> = noise(outputs * inputs, 2).into_iter().map(&as_stored).collect();
                let w = &placed(&w, offset);
                let (x, w) = (&x.0[x.1.clone()], &w.0[w.1.clone()]);
                let want = bits(&twin(simd, x, w, inputs));
                let check = |name: &str, got: &[f32]| {
                    assert!(bits(got) == want, "{rows} x {inputs} x {outputs} in tiles of {name}");
                };
                check("1 x 8", &forward_by::<S, E, 1, 8>(simd, x, w, inputs, true));
                check("2 x 3", &forward_by::<S, E, 2, 3>(simd, x, w, inputs, true));
                check("3 x 8", &forward_by::<S, E, 3, 8>(simd, x, w, inputs, true));
                check("4 x 6", &forward_by::<S, E, 4, 6>(simd, x, w, inputs, true));
            }
        }
    }
}

#[cfg(target_arch = "x86_64")]
#[test]
fn the_form_with_avx512_equals_its_scalar_twin() {
    let Some(simd) = pulp::x86::V4::try_new() else { return };
    equals_the_twin(simd, |w| w);
    equals_the_twin(simd, bf16::from_f32);
}

#[cfg(target_arch = "x86_64")]
#[test]
fn the_form_with_avx2_equals_its_scalar_twin() {
    let Some(simd) = pulp::x86::V3::try_new() else { return };
    equals_the_twin(simd, |w| w);
    equals_the_twin(simd, bf16::from_f32);
}

#[test]
fn the_portable_form_equals_its_scalar_twin() {
    equals_the_twin(Portable, |w| w);
    equals_the_twin(Portable, bf16::from_f32);
}

#[cfg(target_arch = "x86_64")]
#[test]
fn forms_with_fused_instructions_are_one() {
    use pulp::x86::{V3, V4};
    let (Some(wide), Some(narrow)) = (V4::try_new(), V3::try_new()) else { return };
    let (x, w) = (noise(9 * 70, 1), noise(20 * 70, 2));
    let got = forward_by::<_, _, 4, 6>(wide, &x, &w, 70, true);
    assert_eq!(bits(&got), bits(&forward_by::<_, _, 2, 3>(narrow, &x, &w, 70, true)));
}

#[test]
fn results_are_accurate() {
    for (rows, inputs, outputs) in [(1, 100, 7), (5, 513, 20), (70, 384, 65), (300, 2048, 6)] {
        let (x, w) = (noise(rows * inputs, 1), noise(outputs * inputs, 2));
        let got = forward(&x, &w, inputs);
        for (got, x) in got.chunks_exact(outputs).zip(x.chunks_exact(inputs)) {
            for (got, w) in got.iter().zip(w.chunks_exact(inputs)) {
                let products = x.iter().zip(w).map(|(x, w)| f64::from(*x) * f64::from(*w));
                let error = (f64::from(*got) - products.sum::<f64>()).abs();
                assert!(error < 3e-7 * (inputs as f64).sqrt(), "{inputs}: {error}");
            }
        }
    }
}

#[test]
fn the_number_of_threads_changes_no_bit() {
    for (rows, inputs, outputs) in [(1, 700, 515), (17, 700, 515), (600, 130, 97), (70, 2500, 40)] {
        let (x, w) = (noise(rows * inputs, 1), noise(outputs * inputs, 2));
        let on = |threads: usize| {
            let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
            bits(&pool.install(|| forward(&x, &w, inputs)))
        };
        let one = on(1);
        for threads in [2, 3, 7] {
            assert!(one == on(threads), "{rows} x {inputs} x {outputs} on {threads} threads");
        }
    }
}

#[test]
fn nothing_gives_nothing() {
    assert!(forward::<f32>(&[], &[1.0, 2.0], 2).is_empty());
    assert!(forward::<f32>(&[1.0, 2.0], &[], 2).is_empty());
}
