//! The learning rate as a pure function of the step.

use serde::{Deserialize, Serialize};

use crate::error::{Error, Result};

/// A linear warm-up followed by a decay.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct ScheduleConfig {
    /// The decay after the warm-up.
    pub kind: ScheduleKind,
    /// Steps in which the learning rate rises linearly from 0.
    pub warmup: usize,
    /// Share of all steps, in [0, 1], over which `wsd` decays linearly at the end.
    pub decay_share: f64,
    /// The learning rate at the end as a share of the peak, in [0, 1].
    pub final_share: f64,
}

/// Kinds of decay.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ScheduleKind {
    /// Stays at the peak.
    Constant,
    /// Half a cosine down to `final_share`.
    Cosine,
    /// Falls by the same factor every step, to `final_share`, which must be above 0.
    Exponential,
    /// Warm-up, stable, decay (arXiv 2404.06395): at the peak until the last `decay_share` of the steps.
    Wsd,
}

impl Default for ScheduleConfig {
    fn default() -> Self {
        Self { kind: ScheduleKind::Cosine, warmup: 0, decay_share: 0.2, final_share: 0.1 }
    }
}

impl ScheduleConfig {
    /// Checks the ranges.
    ///
    /// # Errors
    /// [`Error::Invalid`] with the key, its value and the range.
    pub fn validate(&self) -> Result<()> {
        for (key, value) in [("decay_share", self.decay_share), ("final_share", self.final_share)] {
            if !(0.0..=1.0).contains(&value) {
                return Err(Error::invalid(format!("schedule.{key} is {value}; allowed: [0, 1]")));
            }
        }
        if self.kind == ScheduleKind::Exponential && self.final_share == 0.0 {
            let message = "schedule.final_share is 0; the exponential schedule needs more than 0";
            return Err(Error::invalid(message));
        }
        Ok(())
    }

    /// The factor in [0, 1] on the peak learning rate at `step` (from 0) of `steps`.
    pub fn factor(&self, step: usize, steps: usize) -> f64 {
        if step < self.warmup {
            return (step + 1) as f64 / self.warmup as f64;
        }
        let decayed = |progress: f64| 1.0 - (1.0 - self.final_share) * progress;
        let span = steps.saturating_sub(self.warmup).max(1) as f64;
        let progress = (step.saturating_sub(self.warmup) as f64 / span).min(1.0);
        match self.kind {
            ScheduleKind::Constant => 1.0,
            ScheduleKind::Cosine => decayed(0.5 * (1.0 - (std::f64::consts::PI * progress).cos())),
            ScheduleKind::Exponential => self.final_share.powf(progress),
            ScheduleKind::Wsd => {
                let span = (steps as f64 * self.decay_share).max(1.0);
                let start = steps as f64 - span;
                decayed(((step as f64 - start) / span).clamp(0.0, 1.0))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn warmup_rises_to_the_peak_and_cosine_falls_to_the_final_share() {
        let schedule = ScheduleConfig { warmup: 10, ..ScheduleConfig::default() };
        assert!((schedule.factor(0, 110) - 0.1).abs() < 1e-12);
        assert!((schedule.factor(9, 110) - 1.0).abs() < 1e-12);
        assert!((schedule.factor(60, 110) - 0.55).abs() < 1e-12);
        assert!((schedule.factor(110, 110) - 0.1).abs() < 1e-12);
    }

    #[test]
    fn exponential_falls_by_the_same_factor_every_step() {
        let kind = ScheduleKind::Exponential;
        let schedule = ScheduleConfig { kind, final_share: 0.01, ..ScheduleConfig::default() };
        assert!((schedule.factor(50, 100) - 0.1).abs() < 1e-12);
        let factor = schedule.factor(31, 100) / schedule.factor(30, 100);
        assert!((schedule.factor(81, 100) / schedule.factor(80, 100) - factor).abs() < 1e-12);
        assert!((schedule.factor(100, 100) - 0.01).abs() < 1e-12);
        assert!(ScheduleConfig { final_share: 0.0, ..schedule }.validate().is_err());
    }

    #[test]
    fn wsd_stays_at_the_peak_until_its_decay() {
        let schedule = ScheduleConfig {
            kind: ScheduleKind::Wsd,
            warmup: 0,
            decay_share: 0.2,
            final_share: 0.0,
        };
        assert_eq!(schedule.factor(79, 100), 1.0);
        assert!((schedule.factor(90, 100) - 0.5).abs() < 1e-12);
        assert!(schedule.factor(100, 100).abs() < 1e-12);
    }
}
