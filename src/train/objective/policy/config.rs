//! The settings of losses over completions; keys and defaults are those of TRL 1.16 where it has them.

use serde::{Deserialize, Serialize};

use super::kinds::{PolicyLossType, RatioLevel};
use super::sampler::SamplerCorrection;
use crate::error::{Error, Result};

/// The greatest weight of `cispo` where `epsilon_high` is unset (arXiv 2510.13786; TRL would take `epsilon`).
const CISPO_MAX_RATIO: f64 = 5.0;

/// The greatest length of a completion where none is set, as in TRL.
const MAX_COMPLETION_LENGTH: usize = 512;

/// The loss over completions.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct PolicyConfig {
    /// The loss.
    pub loss_type: PolicyLossType,
    /// Over what the ratio is taken.
    pub importance_sampling_level: RatioLevel,
    /// The ratio is clipped at 1 minus this.
    pub epsilon: f64,
    /// The ratio is clipped at 1 plus this; unset: `epsilon`. Of `cispo` the greatest weight itself;
    /// unset: 5.
    pub epsilon_high: Option<f64>,
    /// Greatest ratio of a completion with a negative advantage, above `1 + epsilon_high` (arXiv
    /// 2505.07291); unset: no bound.
    pub delta: Option<f64>,
    /// Weight of the estimate `e^q - q - 1`, `q = ln p_ref - ln p`, of the divergence from the reference.
    pub beta: f64,
    /// Multiplies that estimate by the ratio, through which the gradient goes too (arXiv 2512.02556).
    pub use_bias_correction_kl: bool,
    /// Temperature of `sapo` for positive advantages.
    pub sapo_temperature_pos: f64,
    /// Temperature of `sapo` for the others.
    pub sapo_temperature_neg: f64,
    /// `k` of `vespo` for advantages of at least 0.
    pub vespo_k_pos: f64,
    /// `l` of `vespo` for advantages of at least 0.
    pub vespo_lambda_pos: f64,
    /// `k` of `vespo` for negative advantages.
    pub vespo_k_neg: f64,
    /// `l` of `vespo` for negative advantages.
    pub vespo_lambda_neg: f64,
    /// The most tokens of a completion, by which `dr_grpo` divides; in `[rl]` the greatest length of an answer if
    /// absent, elsewhere 512.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_completion_length: Option<usize>,
    /// Leaves out the tokens of completions that were cut off; their rewards still count in their group.
    pub mask_truncated_completions: bool,
    /// Share of the tokens, those of the greatest entropy, that the policy's part of the loss counts
    /// (arXiv 2506.01939).
    pub top_entropy_quantile: f64,
    /// Weight of the tokens' mean entropy, which is subtracted from the loss.
    pub entropy_coef: f64,
    /// Leaves out completions with a negative advantage whose mean log-probability has fallen by more than
    /// this since they were sampled (arXiv 2512.02556); unset: none.
    pub off_policy_mask_threshold: Option<f64>,
    /// Corrects for a sampler whose probabilities differ from those of training; unset: no correction.
    pub sampler_correction: Option<SamplerCorrection>,
}

impl Default for PolicyConfig {
    fn default() -> Self {
        Self {
            loss_type: PolicyLossType::Dapo,
            importance_sampling_level: RatioLevel::Token,
            epsilon: 0.2,
            epsilon_high: None,
            delta: None,
            beta: 0.0,
            use_bias_correction_kl: true,
            sapo_temperature_pos: 1.0,
            sapo_temperature_neg: 1.05,
            vespo_k_pos: 2.0,
            vespo_lambda_pos: 3.0,
            vespo_k_neg: 3.0,
            vespo_lambda_neg: 2.0,
            max_completion_length: None,
            mask_truncated_completions: false,
            top_entropy_quantile: 1.0,
            entropy_coef: 0.0,
            off_policy_mask_threshold: None,
            sampler_correction: None,
        }
    }
}

impl PolicyConfig {
    /// Checks ranges, and that settings fit together.
    ///
    /// # Errors
    /// [`Error::Invalid`] with the key, its value and what is allowed.
    pub fn validate(&self) -> Result<()> {
        self.validate_ranges()?;
        let error = |message: &str| Err(Error::invalid(format!("policy.{message}")));
        let is_luspo = self.loss_type == PolicyLossType::Luspo;
        let is_vespo = self.loss_type == PolicyLossType::Vespo;
        let of_sequences = self.importance_sampling_level == RatioLevel::Sequence;
        if is_luspo && !of_sequences {
            return error("loss_type luspo needs importance_sampling_level = \"sequence\"");
        }
        if is_vespo && of_sequences {
            return error("loss_type vespo needs importance_sampling_level = \"token\"");
        }
        if self.delta.is_some_and(|delta| !(self.loss_type.clips() && delta > 1.0 + self.high())) {
            return error("delta needs a loss that clips, and more than 1 + epsilon_high");
        }
        match &self.sampler_correction {
            Some(correction) if is_vespo && correction.mode.is_of_sequences() => error(
                "sampler_correction.mode of vespo is \"token_truncate\" or \"token_mask\" only",
            ),
            Some(correction) => correction.validate(),
            None => Ok(()),
        }
    }

    fn validate_ranges(&self) -> Result<()> {
        let error = |key: &str, value: f64, allowed: &str| {
            Err(Error::invalid(format!("policy.{key} is {value}; allowed: {allowed}")))
        };
        if !(0.0..=1.0).contains(&self.epsilon) {
            return error("epsilon", self.epsilon, "[0, 1]");
        }
        if !(0.0..=1.0).contains(&self.top_entropy_quantile) {
            return error("top_entropy_quantile", self.top_entropy_quantile, "[0, 1]");
        }
        let at_least_0 = [
            ("epsilon_high", self.high()),
            ("beta", self.beta),
            ("vespo_k_pos", self.vespo_k_pos),
            ("vespo_k_neg", self.vespo_k_neg),
            ("vespo_lambda_pos", self.vespo_lambda_pos),
            ("vespo_lambda_neg", self.vespo_lambda_neg),
            ("entropy_coef", self.entropy_coef),
            ("off_policy_mask_threshold", self.off_policy_mask_threshold.unwrap_or(0.0)),
        ];
        for (key, value) in at_least_0 {
            if !(value >= 0.0 && value.is_finite()) {
                return error(key, value, "at least 0");
            }
        }
        let above_0 = [
            ("sapo_temperature_pos", self.sapo_temperature_pos),
            ("sapo_temperature_neg", self.sapo_temperature_neg),
            ("max_completion_length", self.longest()),
        ];
        match above_0.iter().find(|(_, value)| !(*value > 0.0 && value.is_finite())) {
            Some((key, value)) => error(key, *value, "above 0"),
            None => Ok(()),
        }
    }

    /// The most tokens of a completion.
    pub(super) fn longest(&self) -> f64 {
        self.max_completion_length.unwrap_or(MAX_COMPLETION_LENGTH) as f64
    }

    /// The upper bound of ratios above 1, or of `cispo`'s weights.
    pub(super) fn high(&self) -> f64 {
        let unset = match self.loss_type {
            PolicyLossType::Cispo => CISPO_MAX_RATIO,
            _ => self.epsilon,
        };
        self.epsilon_high.unwrap_or(unset)
    }

    /// Whether the reference model has to score the completions.
    pub fn needs_reference(&self) -> bool {
        self.beta != 0.0
    }

    /// Whether the loss depends on the log-probabilities that completions were sampled with.
    pub fn needs_sampler(&self) -> bool {
        self.sampler_correction.is_some() || self.off_policy_mask_threshold.is_some()
    }

    /// Whether the entropies of the tokens' distributions are needed for the loss.
    pub fn needs_entropies(&self) -> bool {
        self.top_entropy_quantile < 1.0 || self.entropy_coef != 0.0
    }
}
