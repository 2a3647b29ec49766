//! Compares statistics and gradients with a plain computation in f64.

#![allow(clippy::unwrap_used, reason = "tests")]

use burn::module::Param;
use burn::tensor::{DType, Device, Distribution, Int, Tensor, TensorData};
use vq_tokenizer::init;

use super::{Predictions, Targets, TokenStats};
use crate::model::ops::{self, Kernels, forced};
use crate::model::{CausalLm, ModelConfig};

fn token_stats(kernels: Kernels, logits: Tensor<2>, ids: &[i32]) -> Vec<TokenStats> {
    let ids = integers(ids, &logits.device());
    ops::fetch_stats(forced::on(kernels, || ops::token_stats(logits, ids)).0)
}

fn integers(values: &[i32], device: &Device) -> Tensor<1, Int> {
    Tensor::from_data(TensorData::new(values.to_vec(), [values.len()]), (device, DType::I32))
}

const VOCAB: usize = 7;
const WIDTH: usize = 5;

/// Weights of either sign, and none.
const WEIGHTS: [f32; 6] = [1.5, -2.0, 0.0, 0.25, -0.5, 1.0];
const IDS: [i32; 6] = [3, 0, 6, 6, 2, 3];
const Z: f64 = 0.03;

fn values<const D: usize>(x: &Tensor<D>) -> Vec<f64> {
    x.to_data().iter::<f64>().collect()
}

/// Log-probability, log-sum-exp, entropy and whether the target is the top choice.
fn plain_stats(row: &[f64], target: usize) -> (f64, f64, f64, bool) {
    let log_sum_exp = row.iter().map(|x| x.exp()).sum::<f64>().ln();
    let log_probs = row.iter().map(|x| x - log_sum_exp);
    let entropy = -log_probs.map(|log_p| log_p * log_p.exp()).sum::<f64>();
    let is_top = row.iter().all(|x| *x <= row[target]);
    (row[target] - log_sum_exp, log_sum_exp, entropy, is_top)
}

/// `sum_i -weights[i] * log_prob_i + z * sum_i log_sum_exp_i^2`.
fn plain_loss(logits: &[f64], ids: &[i32], weights: &[f32], z: f64) -> f64 {
    let rows = logits.chunks(logits.len() / ids.len()).zip(ids).zip(weights);
    let loss = rows.map(|((row, id), weight)| {
        let (log_prob, log_sum_exp, ..) = plain_stats(row, *id as usize);
        -f64::from(*weight) * log_prob + z * log_sum_exp * log_sum_exp
    });
    loss.sum()
}

/// `hidden weight^T` of rows of [`WIDTH`].
fn plain_logits(hidden: &[f64], weight: &[f64]) -> Vec<f64> {
    let dot = |a: &[f64], b: &[f64]| a.iter().zip(b).map(|(a, b)| a * b).sum::<f64>();
    let rows = hidden.chunks(WIDTH);
    rows.flat_map(|h| weight.chunks(WIDTH).map(move |w| dot(h, w))).collect()
}

/// Central differences of `f` at `x`.
fn differences(x: &[f64], f: impl Fn(&[f64]) -> f64) -> Vec<f64> {
    let at = |place: usize, step: f64| {
        let mut moved = x.to_vec();
        moved[place] += step;
        f(&moved)
    };
    (0..x.len()).map(|place| (at(place, 1e-5) - at(place, -1e-5)) / 2e-5).collect()
}

fn assert_close(got: &[f64], want: &[f64], what: &str) {
    assert_eq!(got.len(), want.len(), "{what}");
    for (place, (got, want)) in got.iter().zip(want).enumerate() {
        assert!((got - want).abs() < 2e-5 * want.abs().max(1.0), "{what} {place}: {got} {want}");
    }
}

fn assert_stats(got: &[TokenStats], logits: &[f64], ids: &[i32], what: &str) {
    let rows = logits.chunks(logits.len() / ids.len());
    assert_eq!(got.len(), ids.len(), "{what}");
    for ((got, row), id) in got.iter().zip(rows).zip(ids) {
        let (log_prob, log_sum_exp, entropy, is_top) = plain_stats(row, *id as usize);
        let got_values = [got.log_prob, got.log_sum_exp, got.entropy].map(f64::from);
        assert_close(&got_values, &[log_prob, log_sum_exp, entropy], what);
        assert_eq!(got.is_top, is_top, "{what}");
    }
}

fn normal<const D: usize>(shape: [usize; D], std: f64, device: &Device) -> Tensor<D> {
    init::random(shape, Distribution::Normal(0.0, std), device)
}

fn model(device: &Device) -> CausalLm {
    let config = ModelConfig {
        vocab_size: VOCAB,
        hidden_size: 6,
        intermediate_size: 4,
        num_hidden_layers: 1,
        num_attention_heads: 1,
        num_key_value_heads: 1,
        ..ModelConfig::default()
    };
    let mut model = config.init(device).unwrap();
    let head = model.lm_head.as_mut().unwrap();
    head.weight = Param::from_tensor(normal([VOCAB, WIDTH], 1.0, device).require_grad());
    model
}

/// Targets predicted by the first hidden states.
fn targets(ids: &[i32]) -> Targets {
    Targets {
        predictors: (0..ids.len()).collect(),
        ids: ids.iter().map(|id| *id as u32).collect(),
        is_image: vec![false; ids.len()],
        sources: vec![0; ids.len()],
    }
}

#[test]
fn both_kernels_give_the_statistics_of_a_plain_computation() {
    let device = Device::flex();
    // Wide and narrow distributions; more logits than the lanes of a register.
    for (vocab, std) in [(VOCAB, 1.0), (53, 6.0), (40, 0.0)] {
        let logits = normal([IDS.len(), vocab], std, &device) + 3.0;
        let want = values(&logits);
        let what = format!("{vocab} logits");
        assert_stats(&token_stats(Kernels::Cpu, logits.clone(), &IDS), &want, &IDS, &what);
        assert_stats(&token_stats(Kernels::Composed, logits, &IDS), &want, &IDS, &what);
    }
}

#[test]
fn a_uniform_distribution_has_the_entropy_of_its_size_and_a_certain_one_none() {
    let device = Device::flex();
    let row = |values: [f32; 4]| Tensor::<2>::from_data([values], &device);
    for kernels in [Kernels::Cpu, Kernels::Composed] {
        let stats = |logits, ids: &[i32]| token_stats(kernels, logits, ids);
        let uniform = stats(row([2.0; 4]), &[1])[0];
        assert!((uniform.entropy - 4_f32.ln()).abs() < 1e-6 && uniform.is_top);
        let certain = stats(row([90.0, 0.0, 0.0, 0.0]), &[0])[0];
        assert!(certain.entropy.abs() < 1e-6 && certain.log_prob.abs() < 1e-6);
        assert!(!stats(row([1.0, 2.0, 0.0, 0.0]), &[0])[0].is_top);
    }
}

#[test]
fn the_gradient_of_signed_weights_on_logits_is_that_of_the_plain_loss() {
    let device = Device::flex();
    let logits = normal([IDS.len(), VOCAB], 2.0, &device);
    let at = values(&logits);
    for z in [0.0, Z] {
        let want = differences(&at, |logits| plain_loss(logits, &IDS, &WEIGHTS, z));
        // The kernels take the factor of half the square.
        let z = (2.0 * z) as f32;
        let cross_entropy = |kernels| {
            let (ids, weights) = (integers(&IDS, &device), Tensor::from_data(WEIGHTS, &device));
            let run = || ops::cross_entropy(logits.clone(), ids, weights, z);
            let ((gradient, stats), _) = forced::on(kernels, run);
            (gradient, ops::fetch_stats(stats))
        };
        let (fused, stats) = cross_entropy(Kernels::Cpu);
        assert_close(&values(&fused), &want, "fused");
        assert_stats(&stats, &at, &IDS, "fused");
        let (composed, stats) = cross_entropy(Kernels::Composed);
        assert_close(&values(&composed), &want, "composed");
        assert_stats(&stats, &at, &IDS, "composed");
    }
}

#[test]
fn the_surrogate_of_signed_weights_has_the_gradients_of_the_plain_loss() {
    let device = Device::flex().autodiff();
    let model = model(&device);
    let hidden = normal([2, 3, WIDTH], 1.0, &device).require_grad();
    let (h, w) = (values(&hidden), values(&model.output_weight()));
    for z in [0.0, Z] {
        let predictions = Predictions::new(&model, hidden.clone(), &targets(&IDS));
        assert_stats(&predictions.stats(), &plain_logits(&h, &w), &IDS, "forward");
        let (surrogate, stats) = predictions.surrogate(&WEIGHTS, z);
        assert_stats(&stats, &plain_logits(&h, &w), &IDS, "with gradients");
        let gradients = surrogate.backward();

        let loss = |h: &[f64], w: &[f64]| plain_loss(&plain_logits(h, w), &IDS, &WEIGHTS, z);
        let got = values(&hidden.grad(&gradients).unwrap());
        assert_close(&got, &differences(&h, |h| loss(h, &w)), "hidden states");
        let unweighted = &got[2 * WIDTH..3 * WIDTH];
        assert_eq!(unweighted.iter().all(|d| *d == 0.0), z == 0.0, "a target of weight 0");
        let got = values(&model.output_weight().grad(&gradients).unwrap());
        assert_close(&got, &differences(&w, |w| loss(&h, w)), "output weight");
    }
}

#[test]
fn a_samplers_distribution_is_that_of_mixed_and_divided_logits_of_the_allowed_ids() {
    const TEMPERATURE: f64 = 0.7;
    const SCALE: f64 = 3.0;
    let device = Device::flex().autodiff();
    let model = model(&device);
    let hidden = normal([1, IDS.len(), WIDTH], 1.0, &device).require_grad();
    let other = normal([1, IDS.len(), WIDTH], 1.0, &device);
    let is_allowed = [true, false, true, true, false, false, true];
    let places: Vec<usize> = (0..VOCAB).filter(|id| is_allowed[*id]).collect();
    let ids = IDS.map(|id| places.iter().position(|place| *place == id as usize).unwrap() as i32);
    let (h, u, w) = (values(&hidden), values(&other), values(&model.output_weight()));
    let logits = |h: &[f64], w: &[f64]| -> Vec<f64> {
        let (full, nothing) = (plain_logits(h, w), plain_logits(&u, w));
        let mixed = full.iter().zip(&nothing).map(|(c, u)| (u + SCALE * (c - u)) / TEMPERATURE);
        let mixed: Vec<f64> = mixed.collect();
        mixed.chunks(VOCAB).flat_map(|row| places.iter().map(|id| row[*id])).collect()
    };
    let of = |hidden: &Tensor<3>| Predictions::new(&model, hidden.clone(), &targets(&IDS));
    let predictions = of(&hidden).guided(&of(&other), SCALE).only(&is_allowed);
    let predictions = predictions.at_temperature(TEMPERATURE);
    assert_stats(&predictions.stats(), &logits(&h, &w), &ids, "forward");
    let (surrogate, stats) = predictions.surrogate(&WEIGHTS, 0.0);
    assert_stats(&stats, &logits(&h, &w), &ids, "with gradients");
    let gradients = surrogate.backward();
    let loss = |h: &[f64], w: &[f64]| plain_loss(&logits(h, w), &ids, &WEIGHTS, 0.0);
    let got = values(&hidden.grad(&gradients).unwrap());
    assert_close(&got, &differences(&h, |h| loss(h, &w)), "hidden states");
    let got = values(&model.output_weight().grad(&gradients).unwrap());
    assert_close(&got, &differences(&w, |w| loss(&h, w)), "output weight");
}

#[test]
fn the_gradient_of_entropies_is_that_of_the_plain_ones() {
    let device = Device::flex().autodiff();
    let model = model(&device);
    let hidden = normal([2, 3, WIDTH], 1.0, &device).require_grad();
    let (h, w) = (values(&hidden), values(&model.output_weight()));
    let slopes = WEIGHTS.map(|weight| 0.5 - weight);
    let predictions = Predictions::new(&model, hidden.clone(), &targets(&IDS));
    let (surrogate, _) = predictions.with_entropies(&slopes).surrogate(&WEIGHTS, 0.0);
    let gradients = surrogate.backward();
    let loss = |h: &[f64], w: &[f64]| {
        let logits = plain_logits(h, w);
        let rows = logits.chunks(VOCAB).zip(slopes);
        let entropies = rows.map(|(row, slope)| f64::from(slope) * plain_stats(row, 0).2);
        plain_loss(&logits, &IDS, &WEIGHTS, 0.0) + entropies.sum::<f64>()
    };
    let got = values(&hidden.grad(&gradients).unwrap());
    assert_close(&got, &differences(&h, |h| loss(h, &w)), "hidden states");
    let got = values(&model.output_weight().grad(&gradients).unwrap());
    assert_close(&got, &differences(&w, |w| loss(&h, w)), "output weight");
}

#[test]
fn opposite_weights_have_opposite_gradients() {
    let device = Device::flex().autodiff();
    let model = model(&device);
    let hidden = normal([1, IDS.len(), WIDTH], 1.0, &device).require_grad();
    let gradient = |sign: f32| {
        let predictions = Predictions::new(&model, hidden.clone(), &targets(&IDS));
        let (surrogate, _) = predictions.surrogate(&WEIGHTS.map(|w| sign * w), 0.0);
        values(&hidden.grad(&surrogate.backward()).unwrap())
    };
    let negated: Vec<f64> = gradient(-1.0).iter().map(|d| -d).collect();
    assert_close(&gradient(1.0), &negated, "hidden states");
    assert!(gradient(1.0).iter().any(|d| d.abs() > 0.1));
}

#[test]
fn chunks_change_neither_statistics_nor_gradients() {
    let device = Device::flex().autodiff();
    let model = model(&device);
    let len = 2 * super::predictions::CHUNK + 3;
    let ids: Vec<i32> = (0..len).map(|at| (at * at % VOCAB) as i32).collect();
    let weights: Vec<f32> = (0..len).map(|at| WEIGHTS[at % WEIGHTS.len()]).collect();
    let hidden = normal([1, len, WIDTH], 1.0, &device).require_grad();
    let (h, w) = (values(&hidden), values(&model.output_weight()));
    let (surrogate, stats) =
        Predictions::new(&model, hidden.clone(), &targets(&ids)).surrogate(&weights, Z);
    assert_stats(&stats, &plain_logits(&h, &w), &ids, "statistics");
    let gradients = surrogate.backward();
    // Rows do not depend on each other, so one row's differences are those of its own loss.
    let got = values(&hidden.grad(&gradients).unwrap());
    for row in [0, 1, len / 2, len - 4, len - 1] {
        let part = row * WIDTH..(row + 1) * WIDTH;
        let loss =
            |h: &[f64]| plain_loss(&plain_logits(h, &w), &ids[row..=row], &weights[row..=row], Z);
        assert_close(&got[part.clone()], &differences(&h[part], loss), &format!("row {row}"));
    }
    let got = values(&model.output_weight().grad(&gradients).unwrap());
    let loss = |w: &[f64]| plain_loss(&plain_logits(&h, w), &ids, &weights, Z);
    let (want, sum) = (differences(&w, loss), weights.iter().map(|w| w.abs()).sum::<f32>());
    for (got, want) in got.iter().zip(&want) {
        // Sums over all rows in f32.
        assert!((got - want).abs() < 1e-6 * f64::from(sum), "output weight: {got} {want}");
    }
}

#[test]
fn without_targets_there_are_no_statistics_and_no_gradient() {
    let device = Device::flex().autodiff();
    let model = model(&device);
    let hidden = normal([1, 2, WIDTH], 1.0, &device).require_grad();
    let predictions = Predictions::new(&model, hidden.clone(), &targets(&[]));
    assert!(predictions.stats().is_empty());
    let (surrogate, stats) = predictions.surrogate(&[], Z);
    assert!(stats.is_empty());
    assert!(values(&hidden.grad(&surrogate.backward()).unwrap()).iter().all(|d| *d == 0.0));
}
