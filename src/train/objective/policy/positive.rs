//! The likelihood of correct completions beside the loss of policy gradients. Source: arXiv 2504.05118
//! (VAPO), section 3.3.

use serde::{Deserialize, Serialize};

use super::value::TokenListLoss;
use crate::error::{Error, Result};
use crate::train::objective::metrics::metrics;

/// Learning correct completions as if they were data.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct PositiveConfig {
    /// Weight of the negative log-likelihood of correct completions.
    pub weight: f64,
    /// The least reward of a completion that counts as correct.
    pub correct_from: f64,
}

impl Default for PositiveConfig {
    fn default() -> Self {
        Self { weight: 0.1, correct_from: 1.0 }
    }
}

impl PositiveConfig {
    /// Checks the ranges.
    ///
    /// # Errors
    /// [`Error::Invalid`] with the key, its value and the range.
    pub fn validate(&self) -> Result<()> {
        let weight = self.weight;
        if !(weight > 0.0 && weight.is_finite()) {
            let message = format!("positive.weight is {weight}; allowed: above 0");
            return Err(Error::invalid(message));
        }
        if self.correct_from.is_nan() {
            return Err(Error::invalid("positive.correct_from is NaN; allowed: a number"));
        }
        Ok(())
    }

    /// `weight` times the negative log-likelihood of the completions that are correct, a mean over all their
    /// tokens; 0 if none is. Each completion comes as its tokens' log-probabilities and its reward.
    pub fn loss(&self, completions: &[(&[f64], Option<f64>)]) -> TokenListLoss {
        let is_correct = |reward: Option<f64>| reward.is_some_and(|r| r >= self.correct_from);
        let correct = || completions.iter().filter(|(_, reward)| is_correct(*reward));
        let tokens: usize = correct().map(|(log_probs, _)| log_probs.len()).sum();
        let sum: f64 = correct().flat_map(|(log_probs, _)| log_probs.iter()).sum();
        let factor = -self.weight / tokens.max(1) as f64;
        let gradient = completions.iter().map(|(log_probs, reward)| {
            vec![if is_correct(*reward) { factor } else { 0.0 }; log_probs.len()]
        });
        TokenListLoss {
            loss: factor * sum,
            gradient: gradient.collect(),
            metrics: metrics([("positive_loss", factor * sum)]),
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]

    use super::*;

    #[test]
    fn correct_completions_alone_become_likelier() {
        let config = PositiveConfig { weight: 0.5, correct_from: 0.8 };
        let rows: [(&[f64], _); 3] =
            [(&[-1.0, -3.0], Some(0.8)), (&[-9.0], Some(0.7)), (&[-9.0], None)];
        let found = config.loss(&rows);
        assert_eq!(found.loss, 1.0);
        assert_eq!(found.gradient, [vec![-0.25, -0.25], vec![0.0], vec![0.0]]);
        assert_eq!(config.loss(&rows[1..]).loss, 0.0);
    }

    #[test]
    fn unsuitable_settings_are_refused() {
        let default = PositiveConfig::default();
        assert!(default.validate().is_ok());
        assert!(PositiveConfig { weight: f64::NAN, ..default.clone() }.validate().is_err());
        assert!(PositiveConfig { correct_from: f64::NAN, ..default }.validate().is_err());
    }
}
