//! The settings of losses over pairs; keys and defaults are those of TRL 1.16 where it has them.

use serde::{Deserialize, Serialize};

use super::kinds::{Divergence, PreferenceLoss, one_or_more};
use crate::error::{Error, Result};

/// The losses over pairs.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct PreferenceConfig {
    /// One loss or several, which are added up.
    #[serde(deserialize_with = "one_or_more")]
    pub loss_type: Vec<PreferenceLoss>,
    /// The weight of each loss; empty: 1 each. MPO (arXiv 2411.10442): `sigmoid` 0.8, `bco_pair` 0.2,
    /// `sft` 1.
    pub loss_weights: Vec<f64>,
    /// Above 0; the greater, the closer the policy stays to the reference.
    pub beta: f64,
    /// Probability in [0, 0.5) that a label is wrong.
    pub label_smoothing: f64,
    /// What replaces the log-ratios.
    pub f_divergence_type: Divergence,
    /// `a` of `alpha_divergence`.
    pub f_alpha_divergence_coef: f64,
    /// Weight in [0, 1] of an answer's tokens beyond the length of the other answer (LD-DPO, arXiv
    /// 2409.06411); needs the reference's log-probability of each token.
    pub ld_alpha: Option<f64>,
    /// Weighs each pair by how likely the policy is to give its answers (WPO, arXiv 2406.11827).
    pub use_weighting: bool,
    /// Temperature of `discopop`.
    pub discopop_tau: f64,
    /// Target margin of `simpo`, which is not multiplied by `beta`.
    pub simpo_gamma: f64,
    /// Weight of the negative log-likelihood in `cpo` (unset: 1) and `simpo` (unset: 0, as in its paper;
    /// TRL has 1).
    pub cpo_alpha: Option<f64>,
}

impl Default for PreferenceConfig {
    fn default() -> Self {
        Self {
            loss_type: vec![PreferenceLoss::Sigmoid],
            loss_weights: Vec::new(),
            beta: 0.1,
            label_smoothing: 0.0,
            f_divergence_type: Divergence::ReverseKl,
            f_alpha_divergence_coef: 0.5,
            ld_alpha: None,
            use_weighting: false,
            discopop_tau: 0.05,
            simpo_gamma: 0.5,
            cpo_alpha: None,
        }
    }
}

impl PreferenceConfig {
    /// Checks ranges, and that every setting is read by one of the losses.
    ///
    /// # Errors
    /// [`Error::Invalid`] with the key, its value and what is allowed.
    pub fn validate(&self) -> Result<()> {
        self.validate_ranges()?;
        let any = |test: fn(PreferenceLoss) -> bool| self.loss_type.iter().any(|loss| test(*loss));
        let all = |test: fn(PreferenceLoss) -> bool| self.loss_type.iter().all(|loss| test(*loss));
        let (smoothing, alone) = (self.label_smoothing, self.loss_type.len() == 1);
        let reference_free = any(PreferenceLoss::is_reference_free);
        let has_divergence = self.f_divergence_type != Divergence::ReverseKl;
        let exo = any(|loss| loss == PreferenceLoss::ExoPair);
        let refused = [
            (
                reference_free && !alone,
                "loss_type has a loss without a reference beside others; name it alone",
            ),
            (
                smoothing > 0.0 && !any(PreferenceLoss::smooths_labels),
                "label_smoothing is read by conservative, robust, exo_pair, aot, aot_unpaired, cpo \
                 and simpo only; for smoothed DPO set loss_type = \"conservative\"",
            ),
            (
                smoothing == 0.0 && exo,
                "label_smoothing is 0; exo_pair needs more than 0, such as 0.001",
            ),
            (
                has_divergence && !all(PreferenceLoss::allows_divergence),
                "f_divergence_type needs losses of the answers' difference: sigmoid, conservative, \
                 robust, hinge, ipo, sigmoid_norm, exo_pair, discopop, sft",
            ),
            (self.ld_alpha.is_some() && reference_free, "ld_alpha needs a loss with a reference"),
            (
                self.use_weighting && (reference_free || any(PreferenceLoss::sorts)),
                "use_weighting needs a loss with a reference that does not sort the pairs",
            ),
            (
                self.cpo_alpha.is_some() && !any(PreferenceLoss::adds_likelihood),
                "cpo_alpha is read by cpo, cpo_hinge, cpo_ipo and simpo only",
            ),
        ];
        match refused.iter().find(|(is_refused, _)| *is_refused) {
            Some((_, message)) => Err(Error::invalid(format!("preference.{message}"))),
            None => Ok(()),
        }
    }

    fn validate_ranges(&self) -> Result<()> {
        let error = |key: &str, value: String, allowed: &str| {
            Err(Error::invalid(format!("preference.{key} is {value}; allowed: {allowed}")))
        };
        if self.loss_type.is_empty() {
            return error("loss_type", "empty".to_owned(), "one loss or more");
        }
        let (losses, weights) = (self.loss_type.len(), &self.loss_weights);
        if !weights.is_empty() && weights.len() != losses {
            let count = format!("a list of {}", weights.len());
            return error("loss_weights", count, "one for each loss, or none");
        }
        if let Some(weight) = weights.iter().find(|weight| !is_at_least_0(**weight)) {
            return error("loss_weights", weight.to_string(), "at least 0");
        }
        for (key, value) in [("beta", self.beta), ("discopop_tau", self.discopop_tau)] {
            if !(value > 0.0 && value.is_finite()) {
                return error(key, value.to_string(), "above 0");
            }
        }
        let cpo_alpha = self.cpo_alpha.unwrap_or(0.0);
        for (key, value) in [("simpo_gamma", self.simpo_gamma), ("cpo_alpha", cpo_alpha)] {
            if !is_at_least_0(value) {
                return error(key, value.to_string(), "at least 0");
            }
        }
        if !(0.0..0.5).contains(&self.label_smoothing) {
            return error("label_smoothing", self.label_smoothing.to_string(), "[0, 0.5)");
        }
        if !self.f_alpha_divergence_coef.is_finite() {
            let value = self.f_alpha_divergence_coef.to_string();
            return error("f_alpha_divergence_coef", value, "a finite number");
        }
        match self.ld_alpha.filter(|alpha| !(0.0..=1.0).contains(alpha)) {
            Some(alpha) => error("ld_alpha", alpha.to_string(), "[0, 1]"),
            None => Ok(()),
        }
    }

    /// Each loss and its weight.
    pub(super) fn losses(&self) -> impl Iterator<Item = (PreferenceLoss, f64)> {
        let weights = self.loss_weights.iter().copied().chain(std::iter::repeat(1.0));
        self.loss_type.iter().copied().zip(weights)
    }

    /// The loss, where it is one without a reference.
    pub(super) fn reference_free(&self) -> Option<PreferenceLoss> {
        self.loss_type.first().copied().filter(|loss| loss.is_reference_free())
    }

    /// Whether the reference model has to score the answers.
    pub fn needs_reference(&self) -> bool {
        self.reference_free().is_none()
    }

    /// Whether the reference's log-probability of each token is needed, not their sum alone.
    pub fn needs_reference_tokens(&self) -> bool {
        self.ld_alpha.is_some()
    }
}

fn is_at_least_0(value: f64) -> bool {
    value >= 0.0 && value.is_finite()
}
