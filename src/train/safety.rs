//! When a step goes wrong: what counts as a spike of the loss, and how often a run may go back.

use std::collections::VecDeque;

use serde::{Deserialize, Serialize};

use crate::error::{Error, Result};

/// Losses that a spike is measured against.
const WINDOW: usize = 128;
/// Losses without which nothing is called a spike.
const FEWEST: usize = 32;
/// From the median absolute deviation to the standard deviation of a normal distribution.
const TO_STANDARD_DEVIATION: f64 = 1.4826;
/// A deviation is never taken to be less than this share of the median: a loss that hardly moves would
/// make a spike of anything.
const LEAST_DEVIATION: f64 = 0.01;

/// What to do when a step goes wrong.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct SafetyConfig {
    /// Steps in a row whose loss or gradient is no number that are left out before the run goes back to
    /// its last good checkpoint.
    pub max_skipped: usize,
    /// A loss so many deviations above the median of the last 128 is suspicious; 0 turns this off.
    /// Deviations are robust: 1.48 times the median distance from the median.
    pub spike_deviations: f64,
    /// Suspicious losses in a row that make a spike: the run goes back to the last checkpoint before
    /// them and leaves out the batches since.
    pub spike_patience: usize,
    /// Times that a run may go back to the same checkpoint; then it ends.
    pub max_rewinds: usize,
}

impl Default for SafetyConfig {
    fn default() -> Self {
        Self { max_skipped: 8, spike_deviations: 12.0, spike_patience: 4, max_rewinds: 3 }
    }
}

impl SafetyConfig {
    /// Checks the ranges.
    ///
    /// # Errors
    /// [`Error::Invalid`] with the key, its value and the range.
    pub fn validate(&self) -> Result<()> {
        let deviations = self.spike_deviations;
        if !(deviations >= 0.0 && deviations.is_finite()) {
            let message = format!("safety.spike_deviations is {deviations}; allowed: at least 0");
            return Err(Error::invalid(message));
        }
        if self.spike_patience == 0 {
            let message = "safety.spike_patience is 0; it must be at least 1".to_owned();
            return Err(Error::invalid(message));
        }
        Ok(())
    }
}

/// Watches the losses of a run. Part of its checkpoints, so that a resumed run judges as it would have.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct SpikeDetector {
    /// In f32, which JSON gives back to the last bit.
    losses: VecDeque<f32>,
    suspicious: usize,
    /// The step of the first suspicious loss in a row.
    since: usize,
    phase: usize,
}

impl SpikeDetector {
    /// Takes in the loss of `step`; whether it makes a spike. Losses of another `phase` are not compared: what
    /// is minimised or learnt from has changed.
    pub fn is_spike(
        &mut self,
        step: usize,
        loss: f64,
        phase: usize,
        config: &SafetyConfig,
    ) -> bool {
        if phase != self.phase {
            *self = Self { phase, ..Self::default() };
        }
        if config.spike_deviations > 0.0 && self.losses.len() >= FEWEST {
            let (median, deviation) = self.spread();
            if loss > median + config.spike_deviations * deviation {
                if self.suspicious == 0 {
                    self.since = step;
                }
                self.suspicious += 1;
                return self.suspicious >= config.spike_patience;
            }
        }
        self.suspicious = 0;
        self.losses.push_back(loss as f32);
        if self.losses.len() > WINDOW {
            self.losses.pop_front();
        }
        false
    }

    /// Suspicious losses in a row up to now.
    pub fn suspicious(&self) -> usize {
        self.suspicious
    }

    /// The step, from 0, of the first of them: so many steps were good.
    pub fn since(&self) -> usize {
        self.since
    }

    /// A spike that there is no way back from: what comes is compared with what came from now on.
    pub fn accept(&mut self) {
        *self = Self { phase: self.phase, ..Self::default() };
    }

    /// Median and robust deviation of the losses.
    fn spread(&self) -> (f64, f64) {
        let middle = median(self.losses.iter().map(|loss| f64::from(*loss)));
        let distance = median(self.losses.iter().map(|loss| (f64::from(*loss) - middle).abs()));
        let least = LEAST_DEVIATION * middle.abs();
        (middle, (TO_STANDARD_DEVIATION * distance).max(least))
    }
}

/// The middle one of `values`, of which there is at least one.
fn median(values: impl Iterator<Item = f64>) -> f64 {
    let mut values: Vec<f64> = values.collect();
    let middle = values.len() / 2;
    *values.select_nth_unstable_by(middle, f64::total_cmp).1
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A falling, noisy loss.
    fn loss(step: usize) -> f64 {
        5.0 / (1.0 + step as f64 / 50.0) + 0.1 * ((step * 7919 % 13) as f64 / 13.0 - 0.5)
    }

    #[test]
    fn a_noisy_fall_is_no_spike_and_one_bad_loss_is_none() {
        let (mut detector, config) = (SpikeDetector::default(), SafetyConfig::default());
        for step in 0..500 {
            assert!(!detector.is_spike(step, loss(step), 0, &config), "{step}");
            if step % 50 == 49 {
                assert!(!detector.is_spike(step, 50.0, 0, &config), "one alone");
                assert_eq!(detector.suspicious(), 1);
            }
        }
    }

    #[test]
    fn losses_that_stay_high_are_a_spike_until_the_phase_changes() {
        let (mut detector, config) = (SpikeDetector::default(), SafetyConfig::default());
        (0..200).for_each(|step| assert!(!detector.is_spike(step, loss(step), 0, &config)));
        let told: Vec<bool> =
            (200..204).map(|step| detector.is_spike(step, 9.0, 0, &config)).collect();
        assert_eq!(told, [false, false, false, true]);
        assert_eq!(detector.since(), 200);
        assert!(!detector.is_spike(204, 9.0, 1, &config), "another phase has losses of its own");
        let off = SafetyConfig { spike_deviations: 0.0, ..config };
        let mut detector = SpikeDetector::default();
        (0..100).for_each(|step| assert!(!detector.is_spike(step, loss(step), 0, &off)));
        (0..20).for_each(|step| assert!(!detector.is_spike(step, 1e9, 0, &off)));
    }
}
