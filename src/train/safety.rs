//! Bad steps: what counts as a spike of the loss, and how often a run may rewind.

use std::collections::VecDeque;

use serde::{Deserialize, Serialize};

use crate::error::{Error, Result};

/// Number of recent losses that a loss is compared with.
const WINDOW: usize = 128;
/// Number of losses needed before anything counts as a spike.
const FEWEST: usize = 32;
/// Standard deviation of a normal distribution per median absolute deviation.
const TO_STANDARD_DEVIATION: f64 = 1.4826;
/// Lower bound of the deviation as a share of the median, because otherwise any change of a nearly
/// constant loss would be a spike.
const LEAST_DEVIATION: f64 = 0.01;

/// Handling of bad steps.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct SafetyConfig {
    /// Consecutive steps with a loss or gradient that is not finite, which are skipped, before the run
    /// rewinds to its last good checkpoint.
    pub max_skipped: usize,
    /// A loss this many deviations above the median of the last 128 is suspicious; 0 turns this off.
    /// A deviation is 1.48 times the median distance from the median.
    pub spike_deviations: f64,
    /// Consecutive suspicious losses that make a spike: the run rewinds to the last checkpoint before
    /// them and skips the batches since.
    pub spike_patience: usize,
    /// Rewinds to the same checkpoint before the run fails.
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
            return Err(Error::invalid("safety.spike_patience is 0; it must be at least 1"));
        }
        Ok(())
    }
}

/// Watches the losses of a run for spikes. Part of its checkpoints, so that a resumed run decides as an
/// uninterrupted one.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct SpikeDetector {
    /// In f32, which JSON keeps to the last bit.
    losses: VecDeque<f32>,
    suspicious: usize,
    /// The step of the first of the consecutive suspicious losses.
    since: usize,
    phase: usize,
}

impl SpikeDetector {
    /// Adds the loss of `step`; returns whether it completes a spike. Losses of different phases are not
    /// compared, because loss function or data have changed.
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

    /// The number of consecutive suspicious losses.
    pub fn suspicious(&self) -> usize {
        self.suspicious
    }

    /// The step, from 0, of the first of them, which is the number of good steps.
    pub fn since(&self) -> usize {
        self.since
    }

    /// Accepts a spike that no rewind can undo: later losses are compared with those from now on.
    pub fn accept(&mut self) {
        *self = Self { phase: self.phase, ..Self::default() };
    }

    /// Median and deviation of the losses.
    fn spread(&self) -> (f64, f64) {
        let middle = median(self.losses.iter().map(|loss| f64::from(*loss)));
        let distance = median(self.losses.iter().map(|loss| (f64::from(*loss) - middle).abs()));
        let least = LEAST_DEVIATION * middle.abs();
        (middle, (TO_STANDARD_DEVIATION * distance).max(least))
    }
}

/// The median of `values`, which are not empty.
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
    fn neither_noise_nor_a_single_high_loss_is_a_spike() {
        let (mut detector, config) = (SpikeDetector::default(), SafetyConfig::default());
        for step in 0..500 {
            assert!(!detector.is_spike(step, loss(step), 0, &config), "{step}");
            if step % 50 == 49 {
                assert!(!detector.is_spike(step, 50.0, 0, &config), "a single one");
                assert_eq!(detector.suspicious(), 1);
            }
        }
    }

    #[test]
    fn losses_that_stay_high_are_a_spike_until_the_phase_changes() {
        let (mut detector, config) = (SpikeDetector::default(), SafetyConfig::default());
        (0..200).for_each(|step| assert!(!detector.is_spike(step, loss(step), 0, &config)));
        let spikes: Vec<bool> =
            (200..204).map(|step| detector.is_spike(step, 9.0, 0, &config)).collect();
        assert_eq!(spikes, [false, false, false, true]);
        assert_eq!(detector.since(), 200);
        assert!(
            !detector.is_spike(204, 9.0, 1, &config),
            "losses of another phase are not compared"
        );
        let off = SafetyConfig { spike_deviations: 0.0, ..config };
        let mut detector = SpikeDetector::default();
        (0..100).for_each(|step| assert!(!detector.is_spike(step, loss(step), 0, &off)));
        (0..20).for_each(|step| assert!(!detector.is_spike(step, 1e9, 0, &off)));
    }
}
