//! Log-ratios of policy to reference, and what a divergence makes of them.

use std::f64::consts::LN_2;

use super::answers::{Answer, Pair};
use super::config::PreferenceConfig;
use super::kinds::Divergence;
use crate::train::objective::logistic::{sigmoid, softplus};

/// The largest exponent of the divergences: of a log-ratio beyond it the score and its slope stay finite
/// and the answer has no gradient, as in TRL.
const MAX_EXPONENT: f64 = 80.0;

/// Where `alpha_divergence` is taken for its limit at 1, the reverse divergence.
const ALPHA_NEAR_1: f64 = 1e-6;

/// One answer.
pub(super) struct Scored {
    /// The policy's log-probability: the sum over tokens, with their weights.
    pub log_prob: f64,
    /// The reference's.
    pub reference: f64,
    /// Their difference.
    pub log_ratio: f64,
    /// `f'` of the ratio; the log-ratio itself for the reverse divergence.
    pub score: f64,
    /// The derivative of the score with respect to the log-ratio.
    pub slope: f64,
    /// Number of tokens.
    pub len: f64,
}

/// The two answers of a pair.
pub(super) struct ScoredPair {
    pub chosen: Scored,
    pub rejected: Scored,
}

impl Scored {
    pub fn new(answer: &Answer, weights: &[f64], config: &PreferenceConfig) -> Self {
        let (log_prob, reference) = (answer.log_prob(weights), answer.reference(weights));
        let log_ratio = log_prob - reference;
        let (score, slope) = score(log_ratio, config);
        Self { log_prob, reference, log_ratio, score, slope, len: answer.len() }
    }

    /// The policy alone.
    pub fn without_reference(answer: &Answer) -> Self {
        let log_prob = answer.log_probs.iter().sum();
        Self {
            log_prob,
            reference: 0.0,
            log_ratio: log_prob,
            score: log_prob,
            slope: 1.0,
            len: answer.len(),
        }
    }
}

/// The weight of each token: `ld_alpha` beyond the length of the shorter answer, otherwise 1.
pub(super) fn token_weights(pair: &Pair, ld_alpha: Option<f64>) -> [Vec<f64>; 2] {
    let lens = [pair.chosen.log_probs.len(), pair.rejected.log_probs.len()];
    let shared = lens[0].min(lens[1]);
    lens.map(|len| {
        let mut weights = vec![1.0; len];
        weights[shared..].fill(ld_alpha.unwrap_or(1.0));
        weights
    })
}

/// `f'` at a log-ratio, and its derivative.
fn score(log_ratio: f64, config: &PreferenceConfig) -> (f64, f64) {
    match config.f_divergence_type {
        Divergence::ReverseKl => (log_ratio, 1.0),
        Divergence::ForwardKl => alpha_score(log_ratio, 0.0),
        Divergence::JsDivergence => (LN_2 - softplus(-log_ratio), sigmoid(-log_ratio)),
        Divergence::AlphaDivergence => alpha_score(log_ratio, config.f_alpha_divergence_coef),
    }
}

/// `(e^((alpha - 1) x) - 1) / (alpha - 1)`.
fn alpha_score(log_ratio: f64, alpha: f64) -> (f64, f64) {
    let power = alpha - 1.0;
    if power.abs() < ALPHA_NEAR_1 {
        return (log_ratio, 1.0);
    }
    let exponent = power * log_ratio;
    let slope = if exponent > MAX_EXPONENT { 0.0 } else { exponent.exp() };
    (exponent.min(MAX_EXPONENT).exp_m1() / power, slope)
}
