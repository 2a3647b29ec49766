//! The loss of a reward model: Bradley-Terry over pairs of scores.
//!
//! With the scores `c` and `r` of the chosen and the rejected answer, their wanted distance `m` and the
//! coefficient `k` that keeps scores around 0:
//!
//! ```text
//! loss = mean(ln(1 + e^-(c - r - m))) + k * mean((c + r)^2)
//! ```
//!
//! A score is a linear function of the hidden state of the last token of prompt and answer, so the gradient
//! of this loss goes through [`backward`](super::backward()) and not through token weights.
//! Source: TRL 1.16 (`RewardTrainer`); margin: arXiv 2307.09288, centring: arXiv 2312.09244.

use serde::{Deserialize, Serialize};

use super::logistic::{sigmoid, softplus};
use super::metrics::{Metrics, mean, metrics, share};
use crate::error::{Error, Result};

/// Settings of the loss.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct RewardModelConfig {
    /// Weight of the squared sum of a pair's scores; unset: 0. TRL suggests 0.01.
    pub center_rewards_coefficient: Option<f64>,
}

/// The scores of two answers to one prompt.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct ScorePair {
    /// Of the preferred answer.
    pub chosen: f64,
    /// Of the other one.
    pub rejected: f64,
    /// The distance by which the first should be above the second; 0 unless the data name one.
    pub margin: f64,
}

/// The derivatives with respect to the scores of a [`ScorePair`].
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct ScoreGradient {
    /// Of the preferred answer.
    pub chosen: f64,
    /// Of the other one.
    pub rejected: f64,
}

/// The loss over pairs of scores.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct RewardModelLoss {
    /// The mean over pairs.
    pub loss: f64,
    /// One entry for each pair.
    pub gradient: Vec<ScoreGradient>,
    /// `min_reward`, `mean_reward`, `max_reward`, `accuracy` and `margin`.
    pub metrics: Metrics,
}

impl RewardModelConfig {
    /// Checks the range.
    ///
    /// # Errors
    /// [`Error::Invalid`] with the key, its value and the range.
    pub fn validate(&self) -> Result<()> {
        match self.center_rewards_coefficient.filter(|k| !(*k >= 0.0 && k.is_finite())) {
            Some(k) => Err(Error::invalid(format!(
                "reward_model.center_rewards_coefficient is {k}; allowed: at least 0"
            ))),
            None => Ok(()),
        }
    }

    /// The loss over all pairs of a step.
    ///
    /// # Errors
    /// [`Error::Invalid`] if there is no pair.
    pub fn loss(&self, pairs: &[ScorePair]) -> Result<RewardModelLoss> {
        if pairs.is_empty() {
            return Err(Error::invalid("the loss of a reward model needs a pair"));
        }
        let k = self.center_rewards_coefficient.unwrap_or(0.0);
        let mut total = RewardModelLoss { metrics: score_metrics(pairs), ..Default::default() };
        for pair in pairs {
            let gap = pair.chosen - pair.rejected - pair.margin;
            let sum = pair.chosen + pair.rejected;
            let count = pairs.len() as f64;
            total.loss += (softplus(-gap) + k * sum * sum) / count;
            total.gradient.push(ScoreGradient {
                chosen: (2.0 * k * sum - sigmoid(-gap)) / count,
                rejected: (2.0 * k * sum + sigmoid(-gap)) / count,
            });
        }
        Ok(total)
    }
}

/// Of all scores, and of the pairs: a tie is not accurate, and the margin is without the wanted one.
fn score_metrics(pairs: &[ScorePair]) -> Metrics {
    let scores = || pairs.iter().flat_map(|pair| [pair.chosen, pair.rejected]);
    metrics([
        ("min_reward", scores().fold(f64::INFINITY, f64::min)),
        ("mean_reward", mean(scores())),
        ("max_reward", scores().fold(f64::NEG_INFINITY, f64::max)),
        ("accuracy", share(pairs.iter().map(|pair| pair.chosen > pair.rejected))),
        ("margin", mean(pairs.iter().map(|pair| pair.chosen - pair.rejected))),
    ])
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]

    use std::f64::consts::LN_2;

    use super::*;
    use crate::train::objective::finite_differences::{assert_close, differences};

    fn pairs(scores: &[f64]) -> Vec<ScorePair> {
        let pair = |pair: &[f64]| ScorePair { chosen: pair[0], rejected: pair[1], margin: 0.3 };
        scores.chunks(2).map(pair).collect()
    }

    #[test]
    fn gradients_are_those_of_finite_differences() {
        let scores = [1.2, -0.4, 0.1, 0.9, -2.0, -1.5];
        for k in [None, Some(0.05)] {
            let config = RewardModelConfig { center_rewards_coefficient: k };
            let found = config.loss(&pairs(&scores)).unwrap().gradient;
            let found: Vec<f64> = found.iter().flat_map(|g| [g.chosen, g.rejected]).collect();
            let want = differences(&scores, |scores| config.loss(&pairs(scores)).unwrap().loss);
            assert_close(&found, &want, "reward model");
        }
    }

    #[test]
    fn equal_scores_lose_ln_2_and_are_not_accurate() {
        let pair = ScorePair { chosen: 0.7, rejected: 0.7, margin: 0.0 };
        let found = RewardModelConfig::default().loss(&[pair; 3]).unwrap();
        assert!((found.loss - LN_2).abs() < 1e-15);
        assert_eq!((found.metrics["accuracy"], found.metrics["margin"]), (0.0, 0.0));
        assert!(found.gradient.iter().all(|g| (g.chosen + g.rejected).abs() < 1e-15));
    }

    #[test]
    fn unsuitable_values_are_refused() {
        assert!(RewardModelConfig::default().loss(&[]).is_err());
        let config = RewardModelConfig { center_rewards_coefficient: Some(-0.1) };
        assert!(config.validate().is_err());
        assert!(RewardModelConfig::default().validate().is_ok());
    }
}
