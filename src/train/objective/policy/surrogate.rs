//! The loss of one token and its derivatives. Source: TRL 1.16, with the papers of
//! [`PolicyLossType`].

use super::config::PolicyConfig;
use super::kinds::PolicyLossType;
use super::rows::Row;
use crate::train::objective::logistic::{sigmoid, sigmoid_slope};

/// Bounds of the logarithms of VESPO's ratios; the lower one is `ln 1e-8` for sequences.
const VESPO_MAX_LOG_RATIO: f64 = 20.0;
const VESPO_MIN_RATIO: f64 = 1e-8;

/// Least `l` of VESPO.
const VESPO_MIN_LAMBDA: f64 = 1e-4;

/// The loss of a token.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct TokenLoss {
    pub loss: f64,
    /// The derivative with respect to its log-probability at a fixed ratio.
    pub direct: f64,
    /// The derivative with respect to the logarithm of the ratio.
    pub through_ratio: f64,
}

impl TokenLoss {
    pub fn scaled(self, factor: f64) -> Self {
        Self {
            loss: self.loss * factor,
            direct: self.direct * factor,
            through_ratio: self.through_ratio * factor,
        }
    }

    pub fn plus(self, other: Self) -> Self {
        Self {
            loss: self.loss + other.loss,
            direct: self.direct + other.direct,
            through_ratio: self.through_ratio + other.through_ratio,
        }
    }
}

/// The policy's part of the loss of a token.
pub(super) fn token_loss(config: &PolicyConfig, row: &Row<'_>, token: usize) -> TokenLoss {
    let advantage = row.completion.advantage.at(token);
    let log_prob = row.completion.log_probs[token];
    let w = row.log_weight(token, config.importance_sampling_level).exp();
    match config.loss_type {
        PolicyLossType::Cispo => weighted(w.min(config.high()), advantage, log_prob),
        PolicyLossType::Vespo => weighted(phi(config, row, advantage), advantage, log_prob),
        PolicyLossType::Sapo => {
            let t = if advantage > 0.0 {
                config.sapo_temperature_pos
            } else {
                config.sapo_temperature_neg
            };
            let gate = t * (w - 1.0);
            TokenLoss {
                loss: -4.0 * sigmoid(gate) / t * advantage,
                direct: 0.0,
                through_ratio: -4.0 * sigmoid_slope(gate) * w * advantage,
            }
        }
        _ => clipped(config, w, advantage),
    }
}

/// `-weight advantage ln p` with a constant weight.
fn weighted(weight: f64, advantage: f64, log_prob: f64) -> TokenLoss {
    let slope = -weight * advantage;
    TokenLoss { loss: slope * log_prob, direct: slope, through_ratio: 0.0 }
}

/// `-min(min(w, delta) A, clip(w) A)`. Within the bounds both sides are equal and so are their slopes.
fn clipped(config: &PolicyConfig, w: f64, advantage: f64) -> TokenLoss {
    let delta = config.delta.unwrap_or(f64::INFINITY);
    let bounded = w.min(delta) * advantage;
    let clipped = w.clamp(1.0 - config.epsilon, 1.0 + config.high()) * advantage;
    let moves = bounded <= clipped && w <= delta;
    TokenLoss {
        loss: -bounded.min(clipped),
        direct: 0.0,
        through_ratio: if moves { -w * advantage } else { 0.0 },
    }
}

/// VESPO's weight of a sequence, 1 where its ratio is 1. A sampler's correction is a part of the ratio.
pub(super) fn phi(config: &PolicyConfig, row: &Row<'_>, advantage: f64) -> f64 {
    let (k, lambda) = if advantage >= 0.0 {
        (config.vespo_k_pos, config.vespo_lambda_pos)
    } else {
        (config.vespo_k_neg, config.vespo_lambda_neg)
    };
    let lambda = lambda.max(VESPO_MIN_LAMBDA);
    let (min, max) = (VESPO_MIN_RATIO.ln(), VESPO_MAX_LOG_RATIO);
    let policy: f64 = row.log_ratios.iter().map(|ratio| ratio.clamp(-max, max)).sum();
    let sampler: f64 = row.sampler_ratios.iter().map(|ratio| ratio.ln().clamp(min, max)).sum();
    let log_w = (policy + sampler).clamp(min, max);
    (lambda + k * log_w - lambda * log_w.exp()).exp()
}

/// The estimate of the divergence from the reference, at least 0: `e^q - q - 1` with `q = ln p_ref - ln p`
/// (<http://joschu.net/blog/kl-approx.html>), times the ratio where it is corrected by that.
pub(super) fn divergence(config: &PolicyConfig, row: &Row<'_>, token: usize) -> TokenLoss {
    let Some(reference) = &row.completion.ref_log_probs else { return TokenLoss::default() };
    let q = reference[token] - row.completion.log_probs[token];
    let estimate = q.exp_m1() - q;
    if !config.use_bias_correction_kl {
        return TokenLoss { loss: estimate, direct: -q.exp_m1(), through_ratio: 0.0 };
    }
    let w = row.log_weight(token, config.importance_sampling_level).exp();
    TokenLoss { loss: estimate * w, direct: -q.exp_m1() * w, through_ratio: estimate * w }
}
