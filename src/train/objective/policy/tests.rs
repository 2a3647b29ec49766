//! The losses over completions against a plain computation, with gradients by differences.

#![allow(clippy::unwrap_used, reason = "tests")]

use serde_json::json;

use super::*;
use crate::train::objective::finite_differences::{Uniform, assert_close, differences};

const ALL: [PolicyLossType; 8] = [
    PolicyLossType::Grpo,
    PolicyLossType::Bnpo,
    PolicyLossType::DrGrpo,
    PolicyLossType::Dapo,
    PolicyLossType::Luspo,
    PolicyLossType::Cispo,
    PolicyLossType::Sapo,
    PolicyLossType::Vespo,
];

/// Completions of different lengths, of which the first is cut off.
fn completions(seed: u64) -> Vec<Completion> {
    let mut uniform = Uniform(seed);
    let near = |uniform: &mut Uniform, values: &[f64], by: f64| -> Vec<f64> {
        values.iter().map(|value| value + uniform.next(-by, by)).collect()
    };
    let lens = [5, 2, 4, 1];
    let completion = |(row, len): (usize, usize)| {
        let log_probs = uniform.log_probs(len);
        let old = near(&mut uniform, &log_probs, 0.5);
        Completion {
            old_log_probs: Some(old.clone()),
            ref_log_probs: Some(near(&mut uniform, &log_probs, 0.8)),
            sampler_log_probs: Some(near(&mut uniform, &old, 0.3)),
            entropies: Some(uniform.list(len, 0.1, 3.0)),
            advantage: Advantage::Completion(if row % 2 == 0 { 1.1 } else { -0.7 }),
            is_truncated: row == 0,
            log_probs,
        }
    };
    lens.into_iter().enumerate().map(completion).collect()
}

fn with(loss_type: PolicyLossType) -> PolicyConfig {
    PolicyConfig { loss_type, ..PolicyConfig::default() }
}

fn s(x: f64) -> f64 {
    1.0 / (1.0 + (-x).exp())
}

/// The loss of the token `t` of `row` at `log_probs`; what has no gradient is taken at `row` itself.
fn plain_token(c: &PolicyConfig, row: &Completion, log_probs: &[f64], t: usize) -> f64 {
    let (old, n) = (row.old(), row.log_probs.len() as f64);
    let sum = |lp: &[f64]| lp.iter().zip(old).map(|(lp, old)| lp - old).sum::<f64>();
    let ratio = |lp: &[f64]| match c.importance_sampling_level {
        RatioLevel::Token => (lp[t] - old[t]).exp(),
        RatioLevel::Sequence => (sum(lp) / n).exp(),
    };
    let (w, fixed, a) = (ratio(log_probs), ratio(&row.log_probs), row.advantage.at(t));
    let (k, l) = if a >= 0.0 { (2.0, 3.0) } else { (3.0, 2.0) };
    let temperature = if a > 0.0 { 1.0 } else { 1.05 };
    let policy = match c.loss_type {
        PolicyLossType::Cispo => -fixed.min(c.epsilon_high.unwrap_or(5.0)) * a * log_probs[t],
        PolicyLossType::Vespo => {
            let total = sum(&row.log_probs);
            -(l + k * total - l * total.exp()).exp() * a * log_probs[t]
        }
        PolicyLossType::Sapo => -4.0 * s(temperature * (w - 1.0)) / temperature * a,
        _ => {
            let high = 1.0 + c.epsilon_high.unwrap_or(c.epsilon);
            -(w.min(c.delta.unwrap_or(1e9)) * a).min(w.max(1.0 - c.epsilon).min(high) * a)
        }
    };
    let q = row.ref_log_probs.as_ref().unwrap()[t] - log_probs[t];
    let correction = if c.use_bias_correction_kl { w } else { 1.0 };
    policy + c.beta * (q.exp() - q - 1.0) * correction
}

/// The loss at other log-probabilities, all in a row.
fn plain(c: &PolicyConfig, rows: &[Completion], values: &[f64]) -> f64 {
    let (mut first, mut total) = (0, 0.0);
    let (count, tokens) = (rows.len() as f64, values.len() as f64);
    for row in rows {
        let len = row.log_probs.len();
        let log_probs = &values[first..first + len];
        let sum: f64 = (0..len).map(|t| plain_token(c, row, log_probs, t)).sum();
        total += match c.loss_type {
            PolicyLossType::Grpo | PolicyLossType::Sapo => sum / len as f64 / count,
            PolicyLossType::Luspo => sum / count,
            PolicyLossType::DrGrpo => sum / count / c.longest(),
            _ => sum / tokens,
        };
        first += len;
    }
    total
}

fn flat(rows: &[Completion]) -> Vec<f64> {
    rows.iter().flat_map(|row| row.log_probs.clone()).collect()
}

fn assert_plain(c: &PolicyConfig, rows: &[Completion]) {
    let found = c.loss(rows, 0.0).unwrap();
    let at = flat(rows);
    assert_close(&[found.loss], &[plain(c, rows, &at)], &format!("loss of {c:?}"));
    let want = differences(&at, |values| plain(c, rows, values));
    assert_close(&found.gradient.concat(), &want, &format!("gradient of {c:?}"));
}

#[test]
fn every_loss_and_gradient_is_that_of_a_plain_computation() {
    for loss_type in ALL {
        for importance_sampling_level in [RatioLevel::Token, RatioLevel::Sequence] {
            for (beta, use_bias_correction_kl) in [(0.0, true), (0.3, true), (0.3, false)] {
                let config = PolicyConfig {
                    importance_sampling_level,
                    beta,
                    use_bias_correction_kl,
                    max_completion_length: Some(9),
                    ..with(loss_type)
                };
                assert_plain(&config, &completions(1));
                let mut on_policy = completions(2);
                on_policy
                    .iter_mut()
                    .for_each(|row| row.old_log_probs = Some(row.log_probs.clone()));
                assert_plain(&config, &on_policy);
            }
        }
    }
    let bounded =
        PolicyConfig { delta: Some(1.3), epsilon_high: Some(0.1), ..with(PolicyLossType::Dapo) };
    assert_plain(&bounded, &completions(3));
}

#[test]
fn tokens_may_have_advantages_of_their_own() {
    let mut rows = completions(4);
    for row in &mut rows {
        row.advantage = Advantage::Tokens(Uniform(9).list(row.log_probs.len(), -1.0, 1.0));
    }
    for loss_type in ALL {
        assert_plain(&with(loss_type), &rows);
    }
}

#[test]
fn without_old_log_probs_the_ratio_is_1_and_has_a_gradient() {
    let mut rows = completions(5);
    rows.iter_mut().for_each(|row| row.old_log_probs = None);
    let found = with(PolicyLossType::Dapo).loss(&rows, 0.0).unwrap();
    let tokens = flat(&rows).len() as f64;
    for (row, gradient) in rows.iter().zip(&found.gradient) {
        assert_close(gradient, &vec![-row.advantage.at(0) / tokens; gradient.len()], "advantage");
    }
    assert_eq!(found.metrics["clip_ratio/region_mean"], 0.0);
}

#[test]
fn advantages_of_0_leave_the_weights_alone() {
    let mut rows = completions(6);
    rows.iter_mut().for_each(|row| row.advantage = Advantage::Completion(0.0));
    for loss_type in ALL {
        let found = with(loss_type).loss(&rows, 0.0).unwrap();
        assert!(found.gradient.concat().iter().all(|slope| *slope == 0.0));
        assert_eq!(found.loss, 0.0);
    }
    // The divergence from a reference that is the policy is 0, with its gradient.
    rows.iter_mut().for_each(|row| row.ref_log_probs = Some(row.log_probs.clone()));
    let found = PolicyConfig { beta: 1.0, ..with(PolicyLossType::Dapo) }.loss(&rows, 0.0).unwrap();
    assert!(found.gradient.concat().iter().all(|slope| *slope == 0.0));
    assert_eq!((found.loss, found.metrics["kl"]), (0.0, 0.0));
}

#[test]
fn truncated_completions_count_in_nothing_but_the_number_of_completions() {
    let rows = completions(7);
    for loss_type in ALL {
        let masked = PolicyConfig { mask_truncated_completions: true, ..with(loss_type) };
        let found = masked.loss(&rows, 0.1).unwrap();
        let rest = with(loss_type).loss(&rows[1..], 0.1).unwrap();
        assert!(found.gradient[0].iter().chain(&found.entropy_gradient[0]).all(|g| *g == 0.0));
        let of_rows = matches!(
            loss_type,
            PolicyLossType::Grpo
                | PolicyLossType::Sapo
                | PolicyLossType::Luspo
                | PolicyLossType::DrGrpo
        );
        let factor = if of_rows { 3.0 / 4.0 } else { 1.0 };
        let want: Vec<f64> = rest.gradient.concat().iter().map(|g| g * factor).collect();
        assert_close(&found.gradient[1..].concat(), &want, "the rest");
        assert_eq!(found.entropy_gradient[1..], rest.entropy_gradient);
    }
}

#[test]
fn the_most_uncertain_tokens_alone_are_learnt() {
    let rows = completions(8);
    let config = PolicyConfig { top_entropy_quantile: 0.25, ..with(PolicyLossType::Dapo) };
    let (found, all) =
        (config.loss(&rows, 0.2).unwrap(), with(PolicyLossType::Dapo).loss(&rows, 0.2).unwrap());
    let entropies: Vec<f64> = rows.iter().flat_map(|row| row.entropies.clone().unwrap()).collect();
    let mut sorted = entropies.clone();
    sorted.sort_by(f64::total_cmp);
    let least = sorted[9];
    let (gradient, bonus) = (found.gradient.concat(), found.entropy_gradient.concat());
    for (at, entropy) in entropies.iter().enumerate() {
        let is_kept = *entropy >= least;
        assert_eq!(gradient[at], if is_kept { all.gradient.concat()[at] } else { 0.0 });
        assert_eq!(bonus[at], if is_kept { -0.2 / 3.0 } else { 0.0 });
    }
    let mean = sorted[9..].iter().sum::<f64>() / 3.0;
    assert!((found.entropy.unwrap() - mean).abs() < 1e-12);
    assert!((found.metrics["policy_loss"] - found.loss - 0.2 * mean).abs() < 1e-12);
    assert_eq!(found.metrics["entropy_coef"], 0.2);
}

#[test]
fn a_sampler_is_corrected_by_its_ratio_within_bounds() {
    let rows = completions(9);
    let plain = with(PolicyLossType::Dapo).loss(&rows, 0.0).unwrap();
    let corrected = |mode, clip_min, clip_max, rows: &[Completion]| {
        let sampler_correction = Some(SamplerCorrection { mode, clip_min, clip_max });
        let config = PolicyConfig { sampler_correction, ..with(PolicyLossType::Dapo) };
        config.validate().unwrap();
        config.loss(rows, 0.0).unwrap()
    };
    let (sampled, old) = (rows[1].sampled(), rows[1].old());
    let ratios: Vec<f64> = old.iter().zip(sampled).map(|(o, s)| (o - s).exp()).collect();
    let product: f64 = ratios.iter().product();
    let of = |loss: &PolicyLoss| loss.gradient[1].clone();
    let times = |factors: [f64; 2]| -> Vec<f64> {
        of(&plain).iter().zip(factors).map(|(slope, factor)| slope * factor).collect()
    };
    let tokens = corrected(CorrectionMode::TokenTruncate, None, Some(9.0), &rows);
    assert_close(&of(&tokens), &times([ratios[0], ratios[1]]), "token");
    let whole = corrected(CorrectionMode::SequenceTruncate, None, Some(9.0), &rows);
    assert_close(&of(&whole), &times([product; 2]), "sequence");
    let bounded = corrected(CorrectionMode::SequenceTruncate, Some(0.1), Some(0.2), &rows);
    assert_close(&of(&bounded), &times([0.2; 2]), "bounded");
    assert_eq!(bounded.metrics["sampling/importance_sampling_ratio/max"], 0.2);
    let masked = corrected(CorrectionMode::SequenceMask, None, Some(0.2), &rows);
    assert!(masked.gradient.concat().iter().all(|slope| *slope == 0.0));
    let mut same = rows.clone();
    same.iter_mut().for_each(|row| row.sampler_log_probs = row.old_log_probs.clone());
    let found = corrected(CorrectionMode::SequenceMask, None, Some(3.0), &same);
    assert_eq!((found.loss, &found.gradient), (plain.loss, &plain.gradient));
    assert_eq!(found.metrics["sampling/sampling_logp_difference/max"], 0.0);
}

#[test]
fn a_sampler_is_a_part_of_the_sequence_ratio_of_vespo() {
    let rows = completions(10);
    let sampler_correction =
        Some(SamplerCorrection { mode: CorrectionMode::TokenTruncate, ..Default::default() });
    let config = PolicyConfig { sampler_correction, ..with(PolicyLossType::Vespo) };
    config.validate().unwrap();
    // The same as policies that differ by both.
    let mut joined = rows.clone();
    joined.iter_mut().for_each(|row| row.old_log_probs = row.sampler_log_probs.take());
    let (found, want) =
        (config.loss(&rows, 0.0).unwrap(), with(PolicyLossType::Vespo).loss(&joined, 0.0).unwrap());
    assert_close(&found.gradient.concat(), &want.gradient.concat(), "joined");
}

#[test]
fn completions_that_became_unlikely_are_dropped_if_they_were_bad() {
    let mut rows = completions(11);
    for row in &mut rows {
        let fallen = |log_prob: &f64| log_prob + 0.5;
        row.sampler_log_probs = Some(row.log_probs.iter().map(fallen).collect());
    }
    let loss = |threshold| {
        let off_policy_mask_threshold = Some(threshold);
        let config = PolicyConfig { off_policy_mask_threshold, ..with(PolicyLossType::Cispo) };
        config.loss(&rows, 0.0).unwrap().gradient
    };
    let all = with(PolicyLossType::Cispo).loss(&rows, 0.0).unwrap().gradient;
    assert_eq!(loss(0.6), all);
    let some = loss(0.4);
    for (row, (some, all)) in some.iter().zip(&all).enumerate() {
        let want = if row % 2 == 0 { all.clone() } else { vec![0.0; all.len()] };
        assert_eq!(*some, want);
    }
}

#[test]
fn settings_that_do_not_fit_together_are_refused() {
    let refused = [
        (json!({"loss_type": "luspo"}), "importance_sampling_level = \"sequence\""),
        (json!({"loss_type": "vespo", "importance_sampling_level": "sequence"}), "\"token\""),
        (json!({"delta": 1.1}), "more than 1 + epsilon_high"),
        (json!({"loss_type": "sapo", "delta": 3.0}), "a loss that clips"),
        (json!({"loss_type": "vespo", "sampler_correction": {}}), "token_truncate"),
        (json!({"sampler_correction": {"clip_max": null}}), "clip_min"),
        (json!({"sampler_correction": {"clip_min": 4.0}}), "clip_min below clip_max"),
        (json!({"epsilon": -0.1}), "policy.epsilon is -0.1; allowed: [0, 1]"),
        (json!({"beta": -1.0}), "policy.beta"),
        (json!({"sapo_temperature_neg": 0.0}), "above 0"),
        (json!({"top_entropy_quantile": 1.5}), "[0, 1]"),
    ];
    for (settings, message) in refused {
        let config: PolicyConfig = serde_json::from_value(settings).unwrap();
        let error = config.validate().unwrap_err().to_string();
        assert!(error.contains(message), "{error}");
    }
    PolicyConfig::default().validate().unwrap();
    assert!(serde_json::from_value::<PolicyConfig>(json!({"epsilon_low": 0.1})).is_err());
}

#[test]
fn completions_that_lack_something_are_refused() {
    let (mut rows, dapo) = (completions(12), with(PolicyLossType::Dapo));
    assert!(dapo.loss(&[], 0.0).is_err());
    rows[1].ref_log_probs = None;
    let config = PolicyConfig { beta: 0.1, ..dapo.clone() };
    let error = config.loss(&rows, 0.0).unwrap_err().to_string();
    assert_eq!(error, "completion 1: the loss needs ref_log_probs");
    rows[2].entropies = Some(vec![1.0]);
    let error = dapo.loss(&rows, 0.0).unwrap_err().to_string();
    assert_eq!(error, "completion 2: 1 entropies for 4 tokens");
    assert!(dapo.loss(&[Completion::new(Vec::new(), 1.0)], 0.0).is_err());
    // Without entropies there is no entropy to log or to learn.
    let found = dapo.loss(&[Completion::new(vec![-1.0, -2.0], 1.0)], 0.0).unwrap();
    assert_eq!((found.entropy, found.entropy_gradient), (None, vec![vec![0.0; 2]]));
    assert!(!found.metrics.contains_key("entropy"));
    assert!(dapo.loss(&[Completion::new(vec![-1.0], 1.0)], 0.1).is_err());
}
