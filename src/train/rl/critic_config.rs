//! The settings of a value function beside the policy.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use crate::error::{Error, Result};
use crate::train::objective::policy::value::ValueConfig;

/// The `[rl.critic]` section: advantages of tokens from a value function, in place of those of groups (PPO
/// arXiv 1707.06347, VAPO arXiv 2504.05118).
///
/// The value function is a model of its own with a score head; with an adapter it is another adapter of a second copy of
/// the same base.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct CriticConfig {
    /// The checkpoint that it begins with, of the policy's sizes, or an adapter of `run.init`, which alone is the
    /// beginning if absent. A reward model brings its head.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub init: Option<PathBuf>,
    /// Its learning rate divided by the policy's.
    pub lr_ratio: f64,
    /// Steps at the start in which it alone learns from answers of the policy as it is (value pre-training).
    pub warmup_steps: usize,
    /// Whether the advantages of a step are shifted and scaled to mean 0 and deviation 1 over all tokens.
    pub whiten_advantages: bool,
    /// Discount, lambdas and losses.
    pub value: ValueConfig,
}

impl Default for CriticConfig {
    fn default() -> Self {
        Self {
            init: None,
            lr_ratio: 2.0,
            warmup_steps: 50,
            whiten_advantages: true,
            value: ValueConfig::default(),
        }
    }
}

impl CriticConfig {
    /// Checks the ranges.
    ///
    /// # Errors
    /// [`Error::Invalid`] with the key, its value and the range.
    pub fn validate(&self) -> Result<()> {
        let ratio = self.lr_ratio;
        if !(ratio > 0.0 && ratio.is_finite()) {
            return Err(Error::invalid(format!("critic.lr_ratio is {ratio}; allowed: above 0")));
        }
        self.value.validate().map_err(Error::because("critic"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn settings_out_of_range_are_refused() {
        let default = CriticConfig::default();
        assert!(default.validate().is_ok());
        assert!(CriticConfig { lr_ratio: 0.0, ..default.clone() }.validate().is_err());
        let value = ValueConfig { gamma: 2.0, ..ValueConfig::default() };
        let message = CriticConfig { value, ..default }.validate().map_err(|e| e.to_string());
        assert_eq!(message, Err("critic: value.gamma is 2; allowed: [0, 1]".to_owned()));
    }
}
