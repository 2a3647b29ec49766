//! What the loss takes from each completion before it looks at tokens.

use super::completions::{Advantage, Completion};
use super::config::PolicyConfig;
use super::kinds::RatioLevel;
use crate::train::objective::metrics::mean;

/// A completion with its ratios.
pub(super) struct Row<'a> {
    pub completion: &'a Completion,
    /// Number of tokens that count: all or none.
    pub len: usize,
    /// `ln p - ln p_old` of each token that counts.
    pub log_ratios: Vec<f64>,
    /// Their mean, 0 where none counts.
    pub mean_log_ratio: f64,
    /// Ratios of old policy to sampler: one for each token that counts, one for all, or none without
    /// correction.
    pub sampler_ratios: Vec<f64>,
    /// Whether the whole completion is dropped from the policy's part of the loss unless its advantage is
    /// at least 0.
    pub is_off_policy: bool,
}

impl<'a> Row<'a> {
    pub fn new(completion: &'a Completion, config: &PolicyConfig) -> Self {
        let is_left_out = config.mask_truncated_completions && completion.is_truncated;
        let len = if is_left_out { 0 } else { completion.log_probs.len() };
        let log_probs = &completion.log_probs[..len];
        let minus = |other: &[f64]| -> Vec<f64> {
            log_probs.iter().zip(other).map(|(mine, other)| mine - other).collect()
        };
        let log_ratios = minus(completion.old());
        // Old policy to sampler is (policy to sampler) - (policy to old).
        let since_sampling = minus(completion.sampled());
        let sampler_ratios = match &config.sampler_correction {
            Some(correction) => {
                let sampled = since_sampling.iter().zip(&log_ratios).map(|(s, o)| s - o);
                correction.ratios(&sampled.collect::<Vec<f64>>())
            }
            None => Vec::new(),
        };
        let fallen = if len == 0 { 0.0 } else { -mean(since_sampling.iter().copied()) };
        Self {
            completion,
            len,
            mean_log_ratio: if len == 0 { 0.0 } else { mean(log_ratios.iter().copied()) },
            log_ratios,
            sampler_ratios,
            is_off_policy: config.off_policy_mask_threshold.is_some_and(|bound| fallen > bound),
        }
    }

    /// The logarithm of the importance ratio of a token.
    pub fn log_weight(&self, token: usize, level: RatioLevel) -> f64 {
        match level {
            RatioLevel::Token => self.log_ratios[token],
            RatioLevel::Sequence => self.mean_log_ratio,
        }
    }

    /// The factor on a token's loss from sampler correction and off-policy mask.
    pub fn factor(&self, token: usize, corrects: bool) -> f64 {
        if self.is_off_policy && self.completion.advantage.at(token) < 0.0 {
            return 0.0;
        }
        match self.sampler_ratios.as_slice() {
            [] => 1.0,
            _ if !corrects => 1.0,
            [ratio] => *ratio,
            ratios => ratios[token],
        }
    }

    /// Whether all tokens have one advantage.
    pub fn has_one_advantage(&self) -> bool {
        matches!(self.completion.advantage, Advantage::Completion(_))
    }
}
