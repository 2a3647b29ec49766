//! Operations without gradients.

use burn::tensor::{DType, Device, Distribution, Tensor};

use kernels::adamw::AdamW;
use kernels::math;
use vq_tokenizer::init;

use super::{Kernels, Side, error, forced, host, integers, normal, sides};
use crate::model::ops::{self, Muon, composed, cpu};

/// A side that stands for the composed operations on the CPU.
fn reference() -> Side {
    let (kernels, device) = (Kernels::Composed, Device::flex());
    Side { kernels, device, dtype: DType::F32, tolerance: 0.0 }
}

/// Compares all that `run` returns on every side with the composed operations on the CPU. `sizes` are those of its
/// inputs.
fn compare(name: &str, sizes: &[usize], run: impl Fn(&Side, &[Tensor<1>]) -> Vec<Vec<f32>>) {
    for side in sides() {
        let inputs: Vec<_> = sizes.iter().map(|size| side.rounded(&normal(*size))).collect();
        let found = |side: &Side| {
            let on = |values: &Vec<f32>| side.leaf(values, &side.device);
            let inputs: Vec<_> = inputs.iter().map(on).collect();
            forced::on(side.kernels, || run(side, &inputs)).0
        };
        let (got, want) = (found(&side), found(&reference()));
        for (place, (got, want)) in got.iter().zip(&want).enumerate() {
            let worst = error(got, want);
            let name = format!("{name} on {:?} in {:?}", side.kernels, side.dtype);
            assert!(worst < side.tolerance, "{name}: result {place} is off by {worst}");
        }
    }
}

#[test]
fn weights_in_bfloat16_give_the_results_of_the_same_weights_in_f32() {
    let device = Device::flex();
    for (rows, inputs, outputs) in [(1, 37, 3), (1, 512, 700), (3, 130, 200), (40, 600, 1100)] {
        let normal =
            |shape: [usize; 2]| init::random(shape, Distribution::Normal(0.0, 1.0), &device);
        let x = normal([rows, inputs]);
        let narrow = normal([outputs, inputs]).cast(DType::BF16);
        assert!(cpu::takes_weight(&narrow));
        let (got, want) =
            (host(&ops::linear(x.clone(), narrow.clone())), host(&composed::linear(x, narrow)));
        for (got, want) in got.iter().zip(&want) {
            assert!((got - want).abs() < 1e-4 * (inputs as f32).sqrt(), "{got} {want}");
        }
    }
}

#[test]
fn products_equal_the_composed_ones() {
    for [m, n, k] in [[1, 5, 3], [70, 90, 40]] {
        compare(&format!("products {m} x {n} x {k}"), &[m * n, m * k, k * n], |_, inputs| {
            let [sum, lhs, rhs] = [(0, [m, n]), (1, [m, k]), (2, [k, n])]
                .map(|(place, shape): (usize, [usize; 2])| inputs[place].clone().reshape(shape));
            let product = ops::matmul(lhs.clone() * 0.2, rhs.clone());
            vec![host(&product), host(&ops::add_matmul(sum, lhs * 0.2, rhs))]
        });
    }
}

#[test]
fn a_sum_and_its_norm_equal_the_composed_ones() {
    for (rows, hidden) in [(1, 7), (5, 64), (3, 600)] {
        let sizes = [rows * hidden, rows * hidden, hidden];
        compare(&format!("sum and RMSNorm {rows} x {hidden}"), &sizes, |_, inputs| {
            let [x, y] = [0, 1].map(|at: usize| inputs[at].clone().reshape([1, rows, hidden]));
            ops::add_rms_norm(x, y, inputs[2].clone(), 1e-5).map(|x| host(&x)).to_vec()
        });
    }
}

#[test]
fn cross_entropy_equals_the_composed_one() {
    for (rows, vocab) in [(1, 2), (40, 33), (3, 1000)] {
        compare(&format!("cross-entropy {rows} x {vocab}"), &[rows * vocab], |side, inputs| {
            let logits = inputs[0].clone().reshape([rows, vocab]) * 5.0;
            let targets: Vec<i32> = (0..rows).map(|row| (row * 7 % vocab) as i32).collect();
            let weights: Vec<f32> = (0..rows).map(|row| row as f32 / rows as f32 - 0.25).collect();
            let targets = || integers(&targets, &side.device);
            let weights = Tensor::<1>::from_data(weights.as_slice(), (&side.device, DType::F32));
            let forward = ops::token_stats(logits.clone(), targets());
            let (gradient, stats) = ops::cross_entropy(logits, targets(), weights, 1e-2);
            vec![host(&gradient), host(&stats), host(&forward)]
        });
    }
}

#[test]
fn adamw_equals_the_composed_one() {
    let update = AdamW {
        betas: [0.9, 0.95],
        eps: 1e-5,
        gradient_scale: 0.5,
        corrections: [0.19, 0.0975],
        lr: 0.1,
        decay: 0.1,
    };
    compare("AdamW", &[600; 4], |_, inputs| {
        let [weight, first, second, gradient] =
            [0, 1, 2, 3].map(|place: usize| inputs[place].clone().cast(DType::F32));
        let (weight, moments) =
            ops::adamw(update, weight.reshape([20, 30]), [first, second.square()], gradient);
        vec![host(&weight), host(&moments[0]), host(&moments[1])]
    });
}

#[test]
fn muon_equals_the_composed_one() {
    let update = Muon { gradient_scale: 0.5, lr: 0.1, decay: 0.1 };
    for shape in [[12, 40], [77, 13], [90, 110], [1, 9]] {
        let size = shape[0] * shape[1];
        compare(&format!("Muon of {shape:?}"), &[size; 5], |_, inputs| {
            let of = |place: usize| inputs[place].clone().cast(DType::F32);
            let (mut weight, mut momentum) = (of(0).reshape(shape), of(1));
            for place in 2..5 {
                (weight, momentum) = ops::muon(update, weight, momentum, of(place));
            }
            vec![host(&weight), host(&momentum)]
        });
    }
}

#[test]
fn the_sum_of_squares_is_that_of_all_tensors() {
    for side in sides() {
        let inputs = [1, 700, 100_000].map(|len| side.rounded(&normal(len)));
        let tensors = inputs.iter().map(|values| side.leaf(values, &side.device)).collect();
        let got = host(&ops::sum_of_squares(tensors).expect("there are tensors"))[0];
        let want: f64 = inputs.iter().flatten().map(|x| f64::from(*x).powi(2)).sum();
        assert!((f64::from(got) / want - 1.0).abs() < 1e-5, "{got} {want}, {:?}", side.kernels);
    }
    assert!(ops::sum_of_squares(Vec::new()).is_none());
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
