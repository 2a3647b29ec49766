//! Training with a value function: advantages of tokens, its targets and its loss. Source: arXiv 1506.02438
//! (GAE), arXiv 2504.05118 (VAPO).
//!
//! A value is a linear function of a token's hidden state, so the gradient of its loss goes through
//! [`backward`](crate::train::objective::backward()) and not through token weights.

use serde::{Deserialize, Serialize};

use crate::error::{Error, Result};
use crate::train::objective::metrics::{Metrics, metrics, share};

/// Settings of advantages from values, and of the value function's loss.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct ValueConfig {
    /// Discount of each token, in [0, 1].
    pub gamma: f64,
    /// `lambda` of the policy's advantages, in [0, 1].
    pub lambda_policy: f64,
    /// `a` of the length-adaptive `lambda = 1 - 1 / (a l)` for a completion of `l` tokens, which replaces
    /// `lambda_policy`; VAPO takes 0.05.
    pub length_adaptive_alpha: Option<f64>,
    /// `lambda` of the value function's targets, in [0, 1]; 1: the returns themselves (decoupled GAE).
    pub lambda_value: f64,
    /// The value may move by this from that of the roll-out before its gradient ends; unset: freely.
    pub cliprange_value: Option<f64>,
}

impl Default for ValueConfig {
    fn default() -> Self {
        Self {
            gamma: 1.0,
            lambda_policy: 0.95,
            length_adaptive_alpha: None,
            lambda_value: 1.0,
            cliprange_value: None,
        }
    }
}

/// A loss over lists of tokens.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct TokenListLoss {
    /// The loss.
    pub loss: f64,
    /// The derivative with respect to each token's value or log-probability.
    pub gradient: Vec<Vec<f64>>,
    /// What is logged.
    pub metrics: Metrics,
}

/// A completion as the value function sees it.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Valued {
    /// The value at each token now.
    pub values: Vec<f64>,
    /// The value at each token when the completion was sampled.
    pub old_values: Vec<f64>,
    /// The targets: [`ValueConfig::returns`].
    pub returns: Vec<f64>,
}

/// The generalised advantage of each token: `A_t = d_t + gamma lambda A_(t+1)` with
/// `d_t = r_t + gamma V_(t+1) - V_t`. The value after the last token is 0.
///
/// # Panics
/// If there is not one reward for each value.
pub fn gae(rewards: &[f64], values: &[f64], gamma: f64, lambda: f64) -> Vec<f64> {
    assert_eq!(rewards.len(), values.len(), "one reward for each value");
    let mut advantages = vec![0.0; values.len()];
    let (mut next_value, mut next_advantage) = (0.0, 0.0);
    for token in (0..values.len()).rev() {
        let surprise = rewards[token] + gamma * next_value - values[token];
        next_advantage = surprise + gamma * lambda * next_advantage;
        next_value = values[token];
        advantages[token] = next_advantage;
    }
    advantages
}

/// `1 - 1 / (alpha len)`, but at least 0.
pub fn length_adaptive_lambda(alpha: f64, len: usize) -> f64 {
    (1.0 - 1.0 / (alpha * len as f64)).max(0.0)
}

impl ValueConfig {
    /// Checks the ranges.
    ///
    /// # Errors
    /// [`Error::Invalid`] with the key, its value and the range.
    pub fn validate(&self) -> Result<()> {
        let error = |key: &str, value: f64, allowed: &str| {
            Err(Error::invalid(format!("value.{key} is {value}; allowed: {allowed}")))
        };
        let shares = [
            ("gamma", self.gamma),
            ("lambda_policy", self.lambda_policy),
            ("lambda_value", self.lambda_value),
        ];
        if let Some((key, value)) = shares.iter().find(|(_, v)| !(0.0..=1.0).contains(v)) {
            return error(key, *value, "[0, 1]");
        }
        let above_0 = [
            ("length_adaptive_alpha", self.length_adaptive_alpha),
            ("cliprange_value", self.cliprange_value),
        ];
        for (key, value) in above_0 {
            if let Some(value) = value.filter(|value| !(*value > 0.0 && value.is_finite())) {
                return error(key, value, "above 0");
            }
        }
        Ok(())
    }

    /// The policy's advantage of each token of a completion.
    ///
    /// # Panics
    /// If there is not one reward for each value.
    pub fn advantages(&self, rewards: &[f64], values: &[f64]) -> Vec<f64> {
        let adaptive = |alpha| length_adaptive_lambda(alpha, values.len());
        let lambda = self.length_adaptive_alpha.map_or(self.lambda_policy, adaptive);
        gae(rewards, values, self.gamma, lambda)
    }

    /// The value function's target at each token of a completion.
    ///
    /// # Panics
    /// If there is not one reward for each value.
    pub fn returns(&self, rewards: &[f64], values: &[f64]) -> Vec<f64> {
        let advantages = gae(rewards, values, self.gamma, self.lambda_value);
        advantages.iter().zip(values).map(|(advantage, value)| advantage + value).collect()
    }

    /// Half the squared distance of values from their targets, a mean over all tokens of a step; with
    /// `cliprange_value` the greater of that and the one of the value moved into the range (PPO).
    ///
    /// # Errors
    /// [`Error::Invalid`] if there is no token or a completion's lists differ in length.
    pub fn loss(&self, completions: &[Valued]) -> Result<TokenListLoss> {
        let tokens: usize = completions.iter().map(|row| row.values.len()).sum();
        let differs =
            |row: &Valued| [row.old_values.len(), row.returns.len()] != [row.values.len(); 2];
        if tokens == 0 || completions.iter().any(differs) {
            let message = "a value loss needs tokens, each with a value, an old value and a return";
            return Err(Error::invalid(message));
        }
        let range = self.cliprange_value.unwrap_or(f64::INFINITY);
        let count = tokens as f64;
        let (mut total, mut clipped) = (TokenListLoss::default(), Vec::with_capacity(tokens));
        for row in completions {
            let mut gradient = Vec::with_capacity(row.values.len());
            for ((value, old), target) in row.values.iter().zip(&row.old_values).zip(&row.returns) {
                let free = value - target;
                let bounded = value.clamp(old - range, old + range) - target;
                let is_clipped = bounded * bounded > free * free;
                total.loss += 0.5 * (free * free).max(bounded * bounded) / count;
                gradient.push(if is_clipped { 0.0 } else { free / count });
                clipped.push(is_clipped);
            }
            total.gradient.push(gradient);
        }
        total.metrics = metrics([("value/loss", total.loss), ("value/clip_ratio", share(clipped))]);
        Ok(total)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]

    use super::*;
    use crate::train::objective::finite_differences::{Uniform, assert_close, differences};

    #[test]
    fn lambda_1_gives_the_sums_of_rewards_to_come_and_0_one_step() {
        let mut uniform = Uniform(1);
        let (rewards, values) = (uniform.list(5, -1.0, 1.0), uniform.list(5, -1.0, 1.0));
        let config = ValueConfig { gamma: 0.9, ..ValueConfig::default() };
        let mut to_come = [0.0; 6];
        for t in (0..5).rev() {
            to_come[t] = rewards[t] + 0.9 * to_come[t + 1];
        }
        assert_close(&config.returns(&rewards, &values), &to_come[..5], "returns");
        let next = |t: usize| values.get(t + 1).map_or(0.0, |value| 0.9 * value);
        let one_step: Vec<f64> = (0..5).map(|t| rewards[t] + next(t) - values[t]).collect();
        let config = ValueConfig { lambda_policy: 0.0, ..config };
        assert_close(&config.advantages(&rewards, &values), &one_step, "advantages");
    }

    #[test]
    fn the_adaptive_lambda_grows_with_the_length() {
        assert_eq!(length_adaptive_lambda(0.05, 10), 0.0);
        assert_eq!(length_adaptive_lambda(0.05, 40), 0.5);
        let config = ValueConfig { length_adaptive_alpha: Some(1.0), ..ValueConfig::default() };
        let want = gae(&[0.0, 1.0], &[0.2, 0.4], 1.0, 0.5);
        assert_eq!(config.advantages(&[0.0, 1.0], &[0.2, 0.4]), want);
    }

    #[test]
    fn gradients_of_value_losses_are_those_of_finite_differences() {
        let mut uniform = Uniform(2);
        let valued = |len| Valued {
            values: uniform.list(len, -1.0, 1.0),
            old_values: uniform.list(len, -1.0, 1.0),
            returns: uniform.list(len, -1.0, 1.0),
        };
        let rows: Vec<Valued> = [4, 2, 7].map(valued).to_vec();
        for cliprange_value in [None, Some(0.3)] {
            let config = ValueConfig { cliprange_value, ..ValueConfig::default() };
            let found = config.loss(&rows).unwrap();
            let at: Vec<f64> = rows.iter().flat_map(|row| row.values.clone()).collect();
            let want = differences(&at, |values| {
                let (mut moved, mut values) = (rows.clone(), values.iter());
                for value in moved.iter_mut().flat_map(|row| &mut row.values) {
                    *value = *values.next().unwrap();
                }
                config.loss(&moved).unwrap().loss
            });
            assert_close(&found.gradient.concat(), &want, "values");
            let has_clipped = found.metrics["value/clip_ratio"] > 0.0;
            assert_eq!(has_clipped, cliprange_value.is_some());
        }
        assert!(ValueConfig::default().loss(&[]).is_err());
    }

    #[test]
    fn unsuitable_values_are_refused() {
        let default = ValueConfig::default();
        assert!(default.validate().is_ok());
        assert!(ValueConfig { gamma: 1.1, ..default.clone() }.validate().is_err());
        assert!(ValueConfig { cliprange_value: Some(0.0), ..default }.validate().is_err());
    }
}
