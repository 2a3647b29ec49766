//! The speed of a run.

use std::time::{Duration, Instant};

use crate::report::Metrics;

/// Measures units per second and the share of the device's peak performance that is used.
pub(super) struct Pace {
    /// Share of the device's peak that one unit per second uses, if known.
    share_per_rate: Option<f64>,
    /// Units per second of every step.
    rates: Vec<f32>,
    /// Units since the last report.
    units: usize,
    /// The time of the last report, moved forward by pauses.
    since: Instant,
}

impl Pace {
    /// A measurement that starts now; both arguments are in floating point operations.
    pub(super) fn new(peak_flops: Option<f64>, flops_per_unit: Option<f64>) -> Self {
        let share_per_rate = flops_per_unit.zip(peak_flops).map(|(flops, peak)| flops / peak);
        Self { share_per_rate, rates: Vec::new(), units: 0, since: Instant::now() }
    }

    /// Adds a step of `units` that took `time`.
    pub(super) fn add(&mut self, units: usize, time: Duration) {
        self.units += units;
        self.rates.push(units as f32 / time.as_secs_f32().max(1e-9));
    }

    /// Leaves `time` out of the current rate.
    pub(super) fn pause(&mut self, time: Duration) {
        self.since += time;
    }

    /// The rate since the last report and the share of the peak that it is.
    pub(super) fn take(&mut self, unit: &'static str) -> Metrics {
        let rate = self.units as f64 / self.since.elapsed().as_secs_f64().max(1e-9);
        (self.units, self.since) = (0, Instant::now());
        let mut metrics: Metrics = vec![(format!("{unit}_per_s_now").into(), rate)];
        metrics.extend(self.share_per_rate.map(|share| ("mfu".into(), share * rate)));
        metrics
    }

    /// The rate of the median step and the share of the peak that it is; `None` before a step.
    pub(super) fn median(&mut self) -> Option<(f64, Option<f64>)> {
        let middle = self.rates.len() / 2;
        if self.rates.is_empty() {
            return None;
        }
        let rate = f64::from(*self.rates.select_nth_unstable_by(middle, f32::total_cmp).1);
        Some((rate, self.share_per_rate.map(|share| share * rate)))
    }
}
