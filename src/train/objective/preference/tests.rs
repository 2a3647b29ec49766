//! Properties of the losses over pairs and over labelled answers, and their gradients by differences.

#![allow(clippy::unwrap_used, reason = "tests")]

use std::f64::consts::LN_2;

use serde_json::json;

use super::*;
use crate::train::objective::finite_differences::{Uniform, assert_close, differences};

const ALL: [PreferenceLoss; 21] = [
    PreferenceLoss::Sigmoid,
    PreferenceLoss::Conservative,
    PreferenceLoss::Robust,
    PreferenceLoss::Hinge,
    PreferenceLoss::Ipo,
    PreferenceLoss::SigmoidNorm,
    PreferenceLoss::ExoPair,
    PreferenceLoss::NcaPair,
    PreferenceLoss::BcoPair,
    PreferenceLoss::SppoHard,
    PreferenceLoss::Aot,
    PreferenceLoss::AotUnpaired,
    PreferenceLoss::ApoZero,
    PreferenceLoss::ApoDown,
    PreferenceLoss::Discopop,
    PreferenceLoss::Sft,
    PreferenceLoss::Cpo,
    PreferenceLoss::CpoHinge,
    PreferenceLoss::CpoIpo,
    PreferenceLoss::Simpo,
    PreferenceLoss::Orpo,
];

fn answer(uniform: &mut Uniform, len: usize) -> Answer {
    let log_probs = uniform.log_probs(len);
    let near = uniform.list(len, -0.7, 0.7);
    let reference = log_probs.iter().zip(near).map(|(log_prob, off)| log_prob + off).collect();
    let log_sum_sq_probs = uniform.list(len, -2.0, -0.1);
    Answer { log_probs, reference: Reference::Tokens(reference), log_sum_sq_probs }
}

/// Pairs of answers of different lengths, with prompts.
fn pairs(seed: u64) -> Vec<Pair> {
    let mut uniform = Uniform(seed);
    let lens = [(5, 4), (3, 6), (2, 2), (1, 4)];
    let pair = |(chosen, rejected)| Pair {
        chosen: answer(&mut uniform, chosen),
        rejected: answer(&mut uniform, rejected),
        prompt_log_probs: uniform.log_probs(2),
    };
    lens.map(pair).to_vec()
}

fn with(loss: PreferenceLoss) -> PreferenceConfig {
    PreferenceConfig { loss_type: vec![loss], ..PreferenceConfig::default() }
}

/// All log-probabilities of the policy in a row: per pair of the prompt, the chosen and the rejected answer.
fn flat(pairs: &[Pair]) -> Vec<f64> {
    let lists = pairs.iter().flat_map(|pair| {
        [&pair.prompt_log_probs, &pair.chosen.log_probs, &pair.rejected.log_probs]
    });
    lists.flatten().copied().collect()
}

fn flat_gradient(loss: &PairLoss) -> Vec<f64> {
    let lists = loss.gradient.iter().flat_map(|pair| [&pair.prompt, &pair.chosen, &pair.rejected]);
    lists.flatten().copied().collect()
}

/// `pairs` with other log-probabilities. `log_sum_sq_probs` moves along, so that WPO's weights, through which
/// no gradient goes, stay the same.
fn moved(pairs: &[Pair], values: &[f64]) -> Vec<Pair> {
    let (mut pairs, mut values) = (pairs.to_vec(), values.iter().copied());
    for pair in &mut pairs {
        pair.prompt_log_probs.iter_mut().for_each(|value| *value = values.next().unwrap());
        for answer in [&mut pair.chosen, &mut pair.rejected] {
            let tokens = answer.log_probs.iter_mut().zip(&mut answer.log_sum_sq_probs);
            for ((log_prob, log_sum_sq), value) in tokens.zip(values.by_ref()) {
                *log_sum_sq += value - *log_prob;
                *log_prob = value;
            }
        }
    }
    pairs
}

fn swapped(pairs: &[Pair]) -> Vec<Pair> {
    let swap = |pair: &Pair| Pair {
        chosen: pair.rejected.clone(),
        rejected: pair.chosen.clone(),
        prompt_log_probs: Vec::new(),
    };
    pairs.iter().map(swap).collect()
}

/// Pairs under a reference that is the policy.
fn at_reference(seed: u64) -> Vec<Pair> {
    let mut pairs = pairs(seed);
    for pair in &mut pairs {
        for answer in [&mut pair.chosen, &mut pair.rejected] {
            answer.reference = Reference::Tokens(answer.log_probs.clone());
        }
    }
    pairs
}

fn assert_gradient(config: &PreferenceConfig, pairs: &[Pair]) {
    let found = config.loss(pairs).unwrap();
    let loss = |values: &[f64]| config.loss(&moved(pairs, values)).unwrap().loss;
    let want = differences(&flat(pairs), loss);
    assert_close(&flat_gradient(&found), &want, &format!("{config:?}"));
}

#[test]
fn every_gradient_is_that_of_finite_differences() {
    for loss in ALL {
        for (beta, label_smoothing) in [(0.1, 0.1), (0.7, 0.3)] {
            let config = PreferenceConfig { beta, label_smoothing, ..with(loss) };
            assert_gradient(&config, &pairs(3));
            assert_gradient(&config, &pairs(4));
        }
    }
}

#[test]
fn gradients_hold_for_divergences_weights_and_several_losses() {
    let pairs = pairs(5);
    let divergences =
        [Divergence::ForwardKl, Divergence::JsDivergence, Divergence::AlphaDivergence];
    for f_divergence_type in divergences {
        for loss in [PreferenceLoss::Sigmoid, PreferenceLoss::Ipo, PreferenceLoss::Discopop] {
            for f_alpha_divergence_coef in [0.3, 1.0, 1.5] {
                let config =
                    PreferenceConfig { f_divergence_type, f_alpha_divergence_coef, ..with(loss) };
                assert_gradient(&config, &pairs);
            }
        }
    }
    let mpo = PreferenceConfig {
        loss_type: vec![PreferenceLoss::Sigmoid, PreferenceLoss::BcoPair, PreferenceLoss::Sft],
        loss_weights: vec![0.8, 0.2, 1.0],
        ..PreferenceConfig::default()
    };
    assert_gradient(&mpo, &pairs);
    assert_gradient(&PreferenceConfig { use_weighting: true, ..mpo.clone() }, &pairs);
    assert_gradient(&PreferenceConfig { ld_alpha: Some(0.3), ..mpo }, &pairs);
    assert_gradient(
        &PreferenceConfig { cpo_alpha: Some(0.5), ..with(PreferenceLoss::Simpo) },
        &pairs,
    );
}

#[test]
fn the_loss_of_the_reference_itself_is_ln_2_without_an_accurate_pair() {
    let pairs = at_reference(6);
    for loss in [PreferenceLoss::Sigmoid, PreferenceLoss::SigmoidNorm, PreferenceLoss::Aot] {
        let found = with(loss).loss(&pairs).unwrap();
        assert!((found.loss - LN_2).abs() < 1e-15);
        for name in ["chosen", "rejected", "margins", "accuracies"] {
            assert_eq!(found.metrics[&format!("rewards/{name}")], 0.0);
        }
    }
}

#[test]
fn swapping_the_answers_negates_margins() {
    let pairs = pairs(7);
    for loss in [PreferenceLoss::Sigmoid, PreferenceLoss::Cpo, PreferenceLoss::Simpo] {
        let one = with(loss).loss(&pairs).unwrap().metrics;
        let other = with(loss).loss(&swapped(&pairs)).unwrap().metrics;
        assert!((one["rewards/margins"] + other["rewards/margins"]).abs() < 1e-12);
        assert!((one["rewards/accuracies"] + other["rewards/accuracies"] - 1.0).abs() < 1e-12);
        assert_eq!(one["rewards/chosen"], other["rewards/rejected"]);
        assert_eq!(one["logps/chosen"], other["logps/rejected"]);
    }
}

#[test]
fn ipo_stops_at_its_margin() {
    let mut pairs = at_reference(8);
    for pair in &mut pairs {
        // Of the mean over tokens, in the chosen answer alone.
        pair.chosen.log_probs.iter_mut().for_each(|log_prob| *log_prob += 1.0 / (2.0 * 0.4));
    }
    let config = PreferenceConfig { beta: 0.4, ..with(PreferenceLoss::Ipo) };
    let found = config.loss(&pairs).unwrap();
    assert!(found.loss < 1e-28);
    assert!(flat_gradient(&found).iter().all(|slope| slope.abs() < 1e-14));
}

#[test]
fn smoothing_by_nothing_is_dpo_and_sums_are_enough_for_it() {
    let pairs = pairs(9);
    let dpo = with(PreferenceLoss::Sigmoid).loss(&pairs).unwrap();
    for loss in [PreferenceLoss::Conservative, PreferenceLoss::Robust] {
        assert_eq!(with(loss).loss(&pairs).unwrap(), dpo);
    }
    let ld = PreferenceConfig { ld_alpha: Some(1.0), ..with(PreferenceLoss::Sigmoid) };
    assert_eq!(ld.loss(&pairs).unwrap(), dpo);
    let mut sums = pairs.clone();
    for answer in sums.iter_mut().flat_map(|pair| [&mut pair.chosen, &mut pair.rejected]) {
        let Reference::Tokens(tokens) = &answer.reference else { unreachable!() };
        answer.reference = Reference::Sum(tokens.iter().sum());
    }
    assert_eq!(with(PreferenceLoss::Sigmoid).loss(&sums).unwrap(), dpo);
    assert!(ld.loss(&sums).unwrap_err().to_string().contains("pair 0, chosen answer: ld_alpha"));
}

#[test]
fn several_losses_add_up_with_their_weights() {
    let pairs = pairs(10);
    let (one, other) = (PreferenceLoss::ApoZero, PreferenceLoss::Sft);
    let sum = PreferenceConfig {
        loss_type: vec![one, other],
        loss_weights: vec![2.0, 0.5],
        ..PreferenceConfig::default()
    };
    let sum = sum.loss(&pairs).unwrap();
    let (one, other) = (with(one).loss(&pairs).unwrap(), with(other).loss(&pairs).unwrap());
    assert!((sum.loss - 2.0 * one.loss - 0.5 * other.loss).abs() < 1e-12);
    let (one, other) = (flat_gradient(&one), flat_gradient(&other));
    let want: Vec<f64> = one.iter().zip(&other).map(|(a, b)| 2.0 * a + 0.5 * b).collect();
    assert_close(&flat_gradient(&sum), &want, "weighted sum");
    assert_eq!(sum.metrics["nll_loss"], likelihood_loss(&pairs));
}

/// The negative log-likelihood of the chosen answers.
fn likelihood_loss(pairs: &[Pair]) -> f64 {
    with(PreferenceLoss::Sft).loss(pairs).unwrap().loss
}

#[test]
fn far_answers_and_certain_ones_keep_loss_and_gradient_finite() {
    for (chosen, rejected) in [(-2000.0, -1.0), (-1.0, -2000.0), (0.0, -1e-9), (-1e-9, 0.0)] {
        let answer = |log_prob: f64| Answer {
            log_probs: vec![log_prob],
            reference: Reference::Sum(0.0),
            log_sum_sq_probs: vec![0.0],
        };
        let pair = Pair { chosen: answer(chosen), rejected: answer(rejected), ..Pair::default() };
        for loss in ALL {
            let config = PreferenceConfig { label_smoothing: 0.1, beta: 1.0, ..with(loss) };
            let found = config.loss(std::slice::from_ref(&pair)).unwrap();
            let finite =
                found.loss.is_finite() && flat_gradient(&found).iter().all(|g| g.is_finite());
            assert!(finite, "{loss:?} at {chosen} {rejected}: {found:?}");
        }
    }
}

#[test]
fn orpo_counts_the_tokens_of_prompts_and_logs_odds() {
    let mut pairs = pairs(11);
    let with_prompts = with(PreferenceLoss::Orpo).loss(&pairs).unwrap();
    assert!(with_prompts.gradient.iter().all(|pair| pair.prompt.iter().all(|slope| *slope < 0.0)));
    pairs.iter_mut().for_each(|pair| pair.prompt_log_probs.clear());
    let without = with(PreferenceLoss::Orpo).loss(&pairs).unwrap();
    assert_eq!(without.metrics["nll_loss"], likelihood_loss(&pairs));
    let ratio = |loss: &PairLoss| loss.metrics["log_odds_ratio"];
    assert_eq!(ratio(&without), ratio(&with_prompts));
    let odds_part = without.loss - without.metrics["nll_loss"];
    assert!((odds_part + 0.1 * ratio(&without)).abs() < 1e-12);
    assert!(without.metrics.contains_key("log_odds_chosen"));
}

#[test]
fn settings_that_no_loss_reads_are_refused() {
    let refused = [
        (json!({"loss_type": "sigmoid", "label_smoothing": 0.1}), "\"conservative\""),
        (json!({"loss_type": "exo_pair"}), "exo_pair needs more than 0"),
        (json!({"loss_type": "robust", "label_smoothing": 0.5}), "[0, 0.5)"),
        (json!({"loss_type": ["orpo", "sft"]}), "name it alone"),
        (json!({"loss_type": "nca_pair", "f_divergence_type": "forward_kl"}), "difference"),
        (json!({"loss_type": "aot", "use_weighting": true}), "does not sort"),
        (json!({"loss_type": "simpo", "ld_alpha": 0.5}), "ld_alpha"),
        (json!({"loss_type": "orpo", "cpo_alpha": 0.5}), "cpo_alpha"),
        (json!({"loss_type": []}), "one loss or more"),
        (json!({"loss_weights": [1.0, 2.0]}), "one for each loss"),
        (json!({"beta": 0.0}), "preference.beta is 0; allowed: above 0"),
    ];
    for (settings, message) in refused {
        let config: PreferenceConfig = serde_json::from_value(settings).unwrap();
        let error = config.validate().unwrap_err().to_string();
        assert!(error.contains(message), "{error}");
    }
    for loss in ALL {
        let smoothing = if loss == PreferenceLoss::ExoPair { 1e-3 } else { 0.0 };
        PreferenceConfig { label_smoothing: smoothing, ..with(loss) }.validate().unwrap();
    }
    for unknown in [json!({"betta": 0.1}), json!({"loss_type": "dpo"}), json!({"loss_type": 1})] {
        assert!(serde_json::from_value::<PreferenceConfig>(unknown).is_err());
    }
}

#[test]
fn answers_that_lack_something_are_refused() {
    let config = with(PreferenceLoss::Sigmoid);
    assert!(config.loss(&[]).is_err());
    let mut pairs = pairs(12);
    pairs[1].rejected.log_probs.clear();
    let message = "pair 1, rejected answer: 6 reference log-probabilities for 0 tokens";
    assert_eq!(config.loss(&pairs).unwrap_err().to_string(), message);
    pairs[1].rejected.reference = Reference::Sum(-1.0);
    let message = "pair 1, rejected answer: no tokens";
    assert_eq!(config.loss(&pairs).unwrap_err().to_string(), message);
    pairs[0].chosen.reference = Reference::None;
    assert!(config.loss(&pairs[..1]).unwrap_err().to_string().contains("under the reference"));
    assert!(with(PreferenceLoss::Cpo).loss(&pairs[..1]).is_ok());
    pairs[0].chosen.log_sum_sq_probs.clear();
    let wpo = PreferenceConfig { use_weighting: true, ..with(PreferenceLoss::Sigmoid) };
    pairs[0].chosen.reference = Reference::Sum(-1.0);
    assert!(wpo.loss(&pairs[..1]).unwrap_err().to_string().contains("log_sum_sq_probs"));
}
