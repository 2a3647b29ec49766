//! Operations of latent attention.

use burn::tensor::{DType, Device, Tensor};

use super::{Kernels, Side, compare, error, forced, host, normal, sides};
use crate::model::ops::{Lanes, attention, head_linear, head_product, latent_attention};
use crate::model::{BLOCK, Lane, mask};

const HEADS: usize = 3;
/// Of latents and rotated keys.
const WIDTHS: [usize; 2] = [20, 6];

fn reference() -> Side {
    let (kernels, device) = (Kernels::Composed, Device::flex());
    Side { kernels, device, dtype: DType::F32, tolerance: 0.0 }
}

/// `values` on the device of `side`, as its number format holds them.
fn on<const D: usize>(side: &Side, values: &[f32], shape: [usize; D]) -> Tensor<D> {
    side.leaf(values, &side.device).reshape(shape)
}

#[test]
fn attention_of_narrower_values_equals_the_composed_one() {
    for [heads, kv_heads, width, value] in [[4, 4, 20, 10], [4, 2, 12, 5]] {
        for seq in [1, 5, 77] {
            let name = format!("attention of {heads}/{kv_heads} heads of {width} and {value}");
            let widths = [heads * width, kv_heads * width, kv_heads * value];
            compare(&name, &widths.map(|width| 2 * seq * width), |inputs| {
                let device = inputs[0].device();
                let q = inputs[0].clone().reshape([2, heads, seq, width]);
                let k = inputs[1].clone().reshape([2, kv_heads, seq, width]);
                let v = inputs[2].clone().reshape([2, seq, kv_heads, value]).swap_dims(1, 2);
                attention(q * 0.3, k, v, &mask::causal(seq, &device))
            });
        }
    }
}

#[test]
fn products_with_a_weight_of_every_head_equal_the_composed_ones() {
    for (rows, [outputs, inputs], part) in
        [(1, [12, 20], 0..12), (3, [20, 10], 4..20), (70, [33, 17], 1..30)]
    {
        let sizes = [rows * part.len(), rows * inputs, outputs * inputs];
        let numbers = sizes.map(|len| normal(HEADS * len));
        let run = |side: &Side, weight: DType| {
            let weight = on(side, &numbers[2], [HEADS, outputs, inputs]).cast(weight);
            let x = on(side, &numbers[0], [rows, HEADS, part.len()]);
            let y = on(side, &numbers[1], [rows, HEADS, inputs]);
            let work = || {
                let product = head_product(x.clone(), weight.clone(), part.clone());
                let transposed = head_linear(y.clone(), weight.clone(), part.clone());
                [host(&product), host(&transposed)]
            };
            forced::on(side.kernels, work).0
        };
        for side in sides() {
            // On the CPU weights may be narrower than what they are multiplied with.
            let narrow = (side.kernels == Kernels::Cpu).then_some(DType::BF16);
            for weight in [Some(side.dtype), narrow].into_iter().flatten() {
                let want = run(&reference(), weight);
                for (got, want) in run(&side, weight).iter().zip(&want) {
                    let name = format!("{rows} rows on {:?}, weights in {weight:?}", side.kernels);
                    assert!(error(got, want) < side.tolerance, "{name}");
                }
            }
        }
    }
}

/// Two passes over lanes `(blocks, tokens before, new rows)`: their results, and the cache.
fn passes(side: &Side, lanes: &[(&[u32], usize, usize)], numbers: &[Vec<f32>; 2]) -> Vec<Vec<f32>> {
    let cache = WIDTHS.map(|width| [8, 1, BLOCK, width]);
    let options = (&side.device, side.dtype);
    let mut cache = cache.map(|shape| Tensor::<4>::full(shape, f32::NAN, options));
    let mut results = Vec::new();
    for second in [false, true] {
        let lanes = lanes.iter().filter(|(_, start, _)| second || *start > 0);
        let lanes: Vec<Lane<'_>> = lanes
            .map(|&(blocks, start, rows)| match second {
                true => Lane { blocks, start, rows },
                false => Lane { blocks, start: 0, rows: start },
            })
            .collect();
        let rows: usize = lanes.iter().map(|lane| lane.rows).sum();
        if rows == 0 {
            continue;
        }
        let parts = [0, 1].map(|part| {
            let (width, numbers) = (WIDTHS[part], &numbers[part]);
            let (q, new) = numbers.split_at(HEADS * rows * width);
            let shape = if part == 0 { [rows, HEADS, width] } else { [HEADS, rows, width] };
            let q = on(side, q, shape) * 0.3;
            (q, on(side, &new[..rows * width], [rows, width]))
        });
        let [(q, new), (q_rotated, rotated)] = parts;
        let (y, changed) =
            latent_attention([q, q_rotated], [new, rotated], cache, &Lanes::new(&lanes));
        results.push(host(&y));
        cache = changed;
    }
    results.extend(cache.map(|buffer| host(&buffer)));
    results
}

#[test]
fn latent_attention_equals_the_composed_one_and_reads_nothing_unused() {
    let cases: [&[(&[u32], usize, usize)]; 4] = [
        &[(&[3], 0, 1)],
        &[(&[3, 0, 5], 130, 1), (&[4, 2], 70, 1), (&[1], 0, 1)],
        &[(&[6, 0, 5, 7], 64, 130), (&[2, 4, 3], 0, 130)],
        &[(&[0, 1], 3, 7), (&[2], 60, 4), (&[7, 3], 64, 9)],
    ];
    for case in cases {
        let most: usize = case.iter().map(|(_, start, rows)| (*start).max(*rows)).sum();
        let numbers = WIDTHS.map(|width| normal((HEADS + 1) * most * width));
        for side in sides() {
            let rounded = numbers.each_ref().map(|numbers| side.rounded(numbers));
            let run = |side: &Side| forced::on(side.kernels, || passes(side, case, &rounded)).0;
            let (got, want) = (run(&side), run(&reference()));
            for (got, want) in got.iter().zip(&want) {
                // Most of the cache is NaN.
                let near = |(a, b): (&f32, &f32)| {
                    (a - b).abs() < 4.0 * side.tolerance || a.is_nan() && b.is_nan()
                };
                let same = got.len() == want.len() && got.iter().zip(want).all(near);
                assert!(same, "{case:?} on {:?} in {:?}", side.kernels, side.dtype);
            }
        }
    }
}
