//! Compares the kernels with the composed operations: results, gradients, repeatability.

#![allow(clippy::unwrap_used, reason = "tests")]

use burn::tensor::{DType, Device, Distribution, Int, Tensor};

use kernels::{adamw::AdamW, math};

use super::{Kernels, Lanes, composed, cpu, forced, paged_attention};
use crate::model::{BLOCK, Lane, Mask, Rope, TokenStats, mask};

fn autodiff(seed: u64) -> Device {
    let device = Device::flex().autodiff();
    device.seed(seed);
    device
}

fn random<const D: usize>(shape: [usize; D], device: &Device) -> Tensor<D> {
    Tensor::random(shape, Distribution::Normal(0.0, 1.0), device).require_grad()
}

fn values<const D: usize>(x: &Tensor<D>) -> Vec<f32> {
    x.to_data().iter().collect()
}

/// Largest difference relative to the largest magnitude of `want`, or to 1 if that is smaller.
fn error(got: &[f32], want: &[f32]) -> f32 {
    assert_eq!(got.len(), want.len());
    let largest = want.iter().map(|w| w.abs()).fold(1.0, f32::max);
    let errors = got.iter().zip(want).map(|(g, w)| if g == w { 0.0 } else { (g - w).abs() });
    errors.map(|e| if e.is_nan() { f32::INFINITY } else { e }).fold(0.0, f32::max) / largest
}

/// Compares results, and the gradients of their sum weighted at random.
fn compare<const D: usize>(
    name: &str,
    leaves: impl Fn(&burn::tensor::Gradients) -> Vec<Vec<f32>>,
    fused: impl Fn() -> Tensor<D>,
    composed: impl Fn() -> Tensor<D>,
) {
    let (got, want) = (fused(), composed());
    assert_eq!(got.dims(), want.dims(), "{name}");
    let worst = error(&values(&got), &values(&want));
    assert!(worst < 1e-5, "{name}: the result is off by {worst}");
    let weights =
        Tensor::<D>::random(got.dims(), Distribution::Normal(0.0, 1.0), &got.device().inner());
    let gradients =
        |y: Tensor<D>| leaves(&(y * Tensor::from_inner(weights.clone())).sum().backward());
    let (got, want) = (gradients(got), gradients(want));
    for (place, (got, want)) in got.iter().zip(&want).enumerate() {
        let worst = error(got, want);
        assert!(worst < 1e-5, "{name}: gradient {place} is off by {worst}");
    }
    let again = gradients(fused());
    assert_eq!(got, again, "{name}: two runs differ");
}

fn compare_attention(
    name: &str,
    [heads, kv_heads, head_dim]: [usize; 3],
    mask: &Mask,
    [batch, seq]: [usize; 2],
) {
    let device = autodiff(seq as u64);
    let q = random([batch, heads, seq, head_dim], &device);
    // As in the model: the values of the heads are interleaved in memory, the keys are not.
    let k = random([batch, kv_heads, seq, head_dim], &device);
    let v = random([batch, seq, kv_heads, head_dim], &device);
    compare(
        name,
        |g| {
            vec![
                values(&q.grad(g).unwrap()),
                values(&k.grad(g).unwrap()),
                values(&v.grad(g).unwrap()),
            ]
        },
        || {
            let v = v.clone().swap_dims(1, 2);
            cpu::attention(q.clone(), k.clone(), v, mask.spans.clone())
        },
        || composed::attention(q.clone(), k.clone(), v.clone().swap_dims(1, 2), mask),
    );
}

#[test]
fn attention_equals_the_composed_one() {
    let device = Device::flex();
    for heads in [[2, 2, 16], [4, 2, 32], [4, 1, 8]] {
        for seq in [1, 3, 5, 64, 77, 130] {
            let causal = mask::causal(seq, &device);
            compare_attention(&format!("causal {heads:?} {seq}"), heads, &causal, [2, seq]);
        }
        for seq in [6, 150] {
            let documents: Vec<u32> = (0..2 * seq as u32).map(|i| i * i / 700).collect();
            let packed = mask::packed(&documents, 2, &device);
            compare_attention(&format!("packed {heads:?} {seq}"), heads, &packed, [2, seq]);
        }
    }
}

/// Blocks, tokens before the pass and rows of each lane.
type LanesOf<'a> = [(&'a [u32], usize, usize)];

/// Queries, keys and values of the new tokens of `lanes`, and a cache with keys and values of their earlier tokens
/// and NaN everywhere else.
fn paged_inputs(
    [heads, kv_heads, head_dim]: [usize; 3],
    lanes: &LanesOf<'_>,
    blocks: usize,
    device: &Device,
) -> ([Tensor<4>; 3], [Tensor<4>; 2]) {
    let normal =
        |shape: [usize; 4]| Tensor::<4>::random(shape, Distribution::Normal(0.0, 1.0), device);
    let rows = lanes.iter().map(|(_, _, rows)| rows).sum();
    let qkv = [
        normal([1, heads, rows, head_dim]),
        normal([1, kv_heads, rows, head_dim]),
        normal([1, rows, kv_heads, head_dim]),
    ];
    let mut cache = [[blocks, kv_heads, head_dim, BLOCK], [blocks, kv_heads, BLOCK, head_dim]]
        .map(|shape| Tensor::<4>::full(shape, f32::NAN, device));
    for (table, start, _) in lanes {
        for (place, &block) in table.iter().enumerate() {
            let tokens = start.saturating_sub(place * BLOCK).min(BLOCK);
            if tokens > 0 {
                let block = block as usize;
                let [keys, values] = cache;
                let keys = keys.slice_assign(
                    [block..block + 1, 0..kv_heads, 0..head_dim, 0..tokens],
                    normal([1, kv_heads, head_dim, tokens]),
                );
                let values = values.slice_assign(
                    [block..block + 1, 0..kv_heads, 0..tokens, 0..head_dim],
                    normal([1, kv_heads, tokens, head_dim]),
                );
                cache = [keys, values];
            }
        }
    }
    (qkv, cache)
}

#[test]
fn paged_attention_equals_the_composed_one_and_reads_nothing_unused() {
    let device = Device::flex();
    device.seed(7);
    let cases: [&LanesOf<'_>; 6] = [
        &[(&[3], 0, 1)],
        &[(&[3, 0, 5], 130, 1), (&[4, 2], 70, 1), (&[1], 0, 1)],
        &[(&[3, 0, 5], 128, 7), (&[4, 2], 60, 9), (&[1], 3, 7)],
        &[(&[6, 0, 5, 7], 64, 130), (&[2, 4, 3], 0, 130)],
        &[(&[0, 1], 64, 2), (&[0, 2], 64, 64), (&[0, 3, 4], 64, 65)],
        &[(&[7, 3, 1], 1, 128)],
    ];
    for heads in [[2, 2, 16], [4, 2, 6], [6, 1, 40]] {
        for case in cases {
            let lane = |&(blocks, start, rows)| Lane { blocks, start, rows };
            let lanes: Vec<Lane<'_>> = case.iter().map(lane).collect();
            let (qkv, cache) = paged_inputs(heads, case, 8, &device);
            let run = |kernels| {
                let lanes = Lanes::new(&lanes);
                let work = || paged_attention(qkv.clone(), cache.clone(), &lanes);
                let ((y, cache), runs) = forced::on(kernels, work);
                assert_eq!(runs["paged_attention"], 1);
                (values(&y), cache.map(|buffer| values(&buffer)))
            };
            let ((got, of_cpu), (want, of_composed)) = (run(Kernels::Cpu), run(Kernels::Composed));
            assert!(error(&got, &want) < 1e-5, "{heads:?} {case:?}");
            for (got, want) in of_cpu.iter().zip(&of_composed) {
                // Compared as bits: most of both is NaN.
                let bits = |values: &[f32]| values.iter().map(|x| x.to_bits()).collect::<Vec<_>>();
                assert_eq!(bits(got), bits(want), "{heads:?} {case:?}, cache");
            }
        }
    }
}

#[test]
fn attention_gradients_equal_finite_differences() {
    let device = autodiff(12);
    let mask = mask::packed(&[0, 0, 0, 0, 1, 1, 1], 1, &device);
    let shapes = [[1, 2, 7, 4], [1, 1, 7, 4], [1, 1, 7, 4]];
    let leaves = shapes.map(|shape| random(shape, &device));
    let weights = Tensor::<4>::random([1, 2, 7, 4], Distribution::Normal(0.0, 1.0), &device);
    let loss = |[q, k, v]: [Tensor<4>; 3]| {
        (cpu::attention(q, k, v, mask.spans.clone()) * weights.clone()).sum()
    };
    let gradients = loss(leaves.clone()).backward();
    for place in 0..3 {
        let gradient = values(&leaves[place].grad(&gradients).unwrap());
        for (element, want) in gradient.iter().enumerate() {
            let shifted = |step: f32| {
                let mut data = values(&leaves[place]);
                data[element] += step;
                let mut moved = leaves.clone();
                let shape = shapes[place];
                moved[place] =
                    Tensor::from_data(burn::tensor::TensorData::new(data, shape), &device);
                loss(moved).into_scalar::<f32>()
            };
            let got = (shifted(1e-2) - shifted(-1e-2)) / 2e-2;
            assert!((got - want).abs() < 5e-3, "input {place}, element {element}: {got} {want}");
        }
    }
}

#[test]
fn linear_equals_the_composed_one() {
    for (rows, inputs, outputs) in
        [(1, 5, 3), (2, 40, 700), (16, 130, 200), (17, 8, 9), (90, 64, 48)]
    {
        let device = autodiff(rows as u64);
        let (x, w) = (random([rows, inputs], &device), random([outputs, inputs], &device));
        compare(
            &format!("{rows} x {inputs} x {outputs}"),
            |g| [&x, &w].map(|x| values(&x.grad(g).unwrap())).to_vec(),
            || cpu::linear(x.clone(), w.clone()),
            || composed::linear(x.clone(), w.clone()),
        );
    }
}

#[test]
fn weights_in_bfloat16_give_the_results_of_the_same_weights_in_f32() {
    let device = Device::flex();
    for (rows, inputs, outputs) in [(1, 37, 3), (1, 512, 700), (3, 130, 200), (40, 600, 1100)] {
        let normal = |shape| Tensor::<2>::random(shape, Distribution::Normal(0.0, 1.0), &device);
        let x = normal([rows, inputs]);
        let narrow = normal([outputs, inputs]).cast(DType::BF16);
        assert!(cpu::takes_weight(&narrow));
        let (got, want) =
            (values(&cpu::linear(x.clone(), narrow.clone())), values(&composed::linear(x, narrow)));
        for (got, want) in got.iter().zip(&want) {
            assert!((got - want).abs() < 1e-4 * (inputs as f32).sqrt(), "{got} {want}");
        }
    }
}

#[test]
fn rms_norm_equals_the_composed_one() {
    for (rows, hidden) in [(1, 7), (5, 64), (150, 48)] {
        let device = autodiff(rows as u64);
        let weight = random([hidden], &device);
        let x = random([2, rows, hidden], &device);
        compare(
            &format!("{rows} x {hidden}"),
            |g| vec![values(&x.grad(g).unwrap()), values(&weight.grad(g).unwrap())],
            || cpu::rms_norm(x.clone(), weight.clone(), 1e-5),
            || composed::rms_norm(x.clone(), weight.clone(), 1e-5),
        );
    }
}

#[test]
fn head_norm_with_rotation_equals_the_composed_one() {
    for (seq, heads, head_dim) in [(1, 1, 2), (9, 3, 6), (70, 4, 64), (130, 2, 40)] {
        let device = autodiff(seq as u64);
        let [weight, bias] = [(); 2].map(|()| random([heads, head_dim], &device));
        let positions = Tensor::<1, Int>::arange(3..3 + 2 * seq as i64, &device).reshape([2, seq]);
        let x = random([2, seq, heads, head_dim], &device);
        let tables = Rope::new(positions, head_dim, 10_000.0, x.dtype()).tables();
        let weights = || [weight.clone(), bias.clone()];
        compare(
            &format!("{seq} x {heads} x {head_dim}"),
            |g| {
                let of_weights = [&weight, &bias].map(|p| values(&p.grad(g).unwrap()));
                [vec![values(&x.grad(g).unwrap())], of_weights.to_vec()].concat()
            },
            || cpu::head_norm_rope(x.clone(), weights(), tables.clone(), 0.125, 1e-5),
            || composed::head_norm_rope(x.clone(), weights(), tables.clone(), 0.125, 1e-5),
        );
    }
}

#[test]
fn swiglu_equals_the_composed_one() {
    for (seq, inner) in [(1, 3), (40, 20), (150, 400)] {
        let device = autodiff(seq as u64);
        let [gate, up] = [(); 2].map(|()| random([2, seq, inner], &device));
        compare(
            &format!("{seq} x {inner}"),
            |g| [&gate, &up].map(|x| values(&x.grad(g).unwrap())).to_vec(),
            || cpu::swiglu(gate.clone() * 4.0, up.clone()),
            || composed::swiglu(gate.clone() * 4.0, up.clone()),
        );
    }
}

#[test]
fn products_equal_the_composed_ones() {
    let device = Device::flex();
    device.seed(2);
    let normal = |shape| Tensor::<2>::random(shape, Distribution::Normal(0.0, 1.0), &device);
    for [m, n, k] in [[1, 5, 3], [70, 90, 40]] {
        let (sum, lhs, rhs) = (normal([m, n]), normal([m, k]), normal([k, n]));
        let (got, want) =
            (cpu::matmul(lhs.clone(), rhs.clone()), composed::matmul(lhs.clone(), rhs.clone()));
        assert!(error(&values(&got), &values(&want)) < 1e-5, "{m} x {n} x {k}");
        let (got, want) = (
            cpu::add_matmul(sum.clone(), lhs.clone(), rhs.clone()),
            composed::add_matmul(sum, lhs, rhs),
        );
        assert!(error(&values(&got), &values(&want)) < 1e-5, "sum of {m} x {n} x {k}");
    }
}

#[test]
fn cross_entropy_equals_the_composed_one() {
    let device = Device::flex();
    device.seed(9);
    for (rows, vocab) in [(1, 2), (40, 33)] {
        let logits = Tensor::random([rows, vocab], Distribution::Normal(0.0, 5.0), &device);
        let targets: Vec<i32> = (0..rows).map(|row| row * 7 % vocab).collect();
        let weights: Vec<f32> = (0..rows).map(|row| row as f32 / rows as f32 - 0.25).collect();
        let (got, got_stats) = cpu::cross_entropy(logits.clone(), &targets, &weights, 1e-2);
        let (want, want_stats) = composed::cross_entropy(logits, &targets, &weights, 1e-2);
        assert!(error(&values(&got), &values(&want)) < 1e-5, "{rows} x {vocab}");
        let flat = |stats: Vec<TokenStats>| -> Vec<f32> {
            let numbers =
                |s: &TokenStats| [s.log_prob, s.log_sum_exp, s.entropy, f32::from(s.is_top)];
            stats.iter().flat_map(numbers).collect()
        };
        let (got, want) = (flat(got_stats), flat(want_stats));
        assert!(error(&got, &want) < 1e-5, "statistics of {rows} x {vocab}");
    }
}

#[test]
fn adamw_equals_the_composed_one() {
    let device = Device::flex();
    device.seed(4);
    let update = AdamW {
        betas: [0.9, 0.95],
        eps: 1e-5,
        gradient_scale: 0.5,
        corrections: [0.19, 0.0975],
        lr: 0.1,
        decay: 0.1,
    };
    let normal = || Tensor::<1>::random([600], Distribution::Normal(0.0, 1.0), &device);
    let (weight, gradient) = (normal().reshape([20, 30]), normal());
    let moments = [normal(), normal().square()];
    let run = |(weight, [first, second]): (Tensor<2>, [Tensor<1>; 2])| {
        [values(&weight), values(&first), values(&second)]
    };
    let got = run(cpu::adamw(update, weight.clone(), moments.clone(), gradient.clone()));
    let want = run(composed::adamw(update, weight, moments, gradient));
    for (got, want) in got.iter().zip(&want) {
        assert!(error(got, want) < 1e-5);
    }
}

#[test]
fn the_exponential_is_accurate_everywhere() {
    for i in -870_000..=880_000 {
        let x = i as f32 * 1e-4;
        let want = f64::from(x).exp();
        let error = (f64::from(math::exp(x)) - want).abs() / want;
        assert!(error < 1e-6, "exp({x}) is off by {error}");
    }
    assert_eq!(math::exp(f32::NEG_INFINITY), 0.0);
    assert_eq!(math::exp(-1e9), 0.0);
    assert!(math::exp(f32::NAN).is_nan());
}
