//! Entropy: which tokens have most of it, and a coefficient that holds it at a target.

use serde::{Deserialize, Serialize};

use super::rows::Row;
use crate::error::{Error, Result};

/// The entropy that a token needs to be in the share `top` of the most uncertain ones: the quantile
/// `1 - top` of all tokens that count, interpolated between neighbours (arXiv 2506.01939, TRL 1.16).
/// Without a bound or entropies every token is.
pub(super) fn threshold(rows: &[Row<'_>], top: f64) -> f64 {
    let entropies =
        rows.iter().filter_map(|row| Some(&row.completion.entropies.as_ref()?[..row.len]));
    let mut entropies: Vec<f64> = entropies.flatten().copied().collect();
    if top >= 1.0 || entropies.is_empty() {
        return f64::NEG_INFINITY;
    }
    entropies.sort_by(f64::total_cmp);
    let rank = (1.0 - top) * (entropies.len() - 1) as f64;
    // Rounding errors of the rank must not lift the threshold above the token that it falls on.
    let rank = if (rank - rank.round()).abs() < 1e-9 { rank.round() } else { rank };
    let below = entropies[rank.floor() as usize];
    let above = entropies[rank.ceil() as usize];
    below + rank.fract() * (above - below)
}

/// Settings of a coefficient that follows the entropy (Skywork-OR1, arXiv 2505.22312); keys and defaults
/// are those of TRL 1.16.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct EntropyControlConfig {
    /// Mean entropy in nats per token at or below which the coefficient acts. Language models have 2 to 10.
    pub entropy_target: f64,
    /// By how much the coefficient moves at each step.
    pub entropy_coef_delta: f64,
    /// Least coefficient.
    pub entropy_coef_min: f64,
    /// Greatest coefficient.
    pub entropy_coef_max: f64,
}

impl Default for EntropyControlConfig {
    fn default() -> Self {
        Self {
            entropy_target: 0.2,
            entropy_coef_delta: 0.005,
            entropy_coef_min: 0.0,
            entropy_coef_max: 1.0,
        }
    }
}

impl EntropyControlConfig {
    /// Checks the ranges.
    ///
    /// # Errors
    /// [`Error::Invalid`] with the key, its value and the range.
    pub fn validate(&self) -> Result<()> {
        let values = [
            ("entropy_target", self.entropy_target),
            ("entropy_coef_delta", self.entropy_coef_delta),
            ("entropy_coef_min", self.entropy_coef_min),
            ("entropy_coef_max", self.entropy_coef_max),
        ];
        if let Some((key, value)) = values.iter().find(|(_, v)| !(*v >= 0.0 && v.is_finite())) {
            let message = format!("entropy_control.{key} is {value}; allowed: at least 0");
            return Err(Error::invalid(message));
        }
        if self.entropy_coef_min > self.entropy_coef_max {
            let (min, max) = (self.entropy_coef_min, self.entropy_coef_max);
            let (key, allowed) = ("entropy_control.entropy_coef_min", "entropy_coef_max");
            let message = format!("{key} is {min}; allowed: at most {allowed}, {max}");
            return Err(Error::invalid(message));
        }
        Ok(())
    }
}

/// A coefficient that rises while the entropy is at or below its target and falls while it is above; part
/// of a run's state. Numbers are kept as bits, since JSON may round them.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct EntropyControl {
    coefficient: u64,
    /// Of the last step; none before the first.
    last_entropy: Option<u64>,
}

impl EntropyControl {
    /// A control that starts with `entropy_coef`.
    pub fn new(entropy_coef: f64) -> Self {
        Self { coefficient: entropy_coef.to_bits(), last_entropy: None }
    }

    /// The coefficient of the next step's loss: 0 unless the last step's entropy was at or below the target.
    pub fn applied(&self, config: &EntropyControlConfig) -> f64 {
        let last_entropy = self.last_entropy.map(f64::from_bits);
        let is_low = last_entropy.is_some_and(|entropy| entropy <= config.entropy_target);
        if is_low { self.coefficient() } else { 0.0 }
    }

    /// The coefficient itself, for the log.
    pub fn coefficient(&self) -> f64 {
        f64::from_bits(self.coefficient)
    }

    /// Moves the coefficient after a step whose tokens had the mean `entropy`.
    pub fn update(&mut self, entropy: f64, config: &EntropyControlConfig) {
        let delta = config.entropy_coef_delta;
        let by = if entropy <= config.entropy_target { delta } else { -delta };
        let range = [config.entropy_coef_min, config.entropy_coef_max];
        let moved = (self.coefficient() + by).clamp(range[0], range[1]);
        (self.coefficient, self.last_entropy) = (moved.to_bits(), Some(entropy.to_bits()));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_coefficient_follows_the_entropy_and_acts_below_the_target_only() {
        let config =
            EntropyControlConfig { entropy_target: 1.0, ..EntropyControlConfig::default() };
        let mut control = EntropyControl::new(0.002);
        assert_eq!(control.applied(&config), 0.0);
        control.update(0.9, &config);
        assert!((control.applied(&config) - 0.007).abs() < 1e-12);
        control.update(1.1, &config);
        assert!((control.coefficient() - 0.002).abs() < 1e-12);
        assert_eq!(control.applied(&config), 0.0);
        control.update(1.1, &config);
        assert_eq!(control.coefficient(), 0.0);
        (0..300).for_each(|_| control.update(0.5, &config));
        assert_eq!(control.applied(&config), 1.0);
    }

    #[test]
    fn unsuitable_values_are_refused() {
        let default = EntropyControlConfig::default();
        assert!(default.validate().is_ok());
        let reversed = EntropyControlConfig { entropy_coef_min: 2.0, ..default.clone() };
        assert!(reversed.validate().is_err());
        assert!(EntropyControlConfig { entropy_target: -1.0, ..default }.validate().is_err());
    }
}
