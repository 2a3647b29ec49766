//! Length, intervals and schedule of a run.

use super::config::RunConfig;
use super::safety::SafetyConfig;
use super::schedule::ScheduleConfig;

/// The sections of a recipe that the training loop follows.
#[derive(Clone, Copy, Debug)]
pub struct Plan<'a> {
    /// Name, length and intervals.
    pub run: &'a RunConfig,
    /// The learning rate over time.
    pub schedule: &'a ScheduleConfig,
    /// Handling of bad steps.
    pub safety: &'a SafetyConfig,
    /// The learning rate that the schedule's factor multiplies.
    pub peak_lr: f64,
    /// Peak performance of the device in floating point operations per second, to report the share
    /// in use.
    pub peak_flops: Option<f64>,
}
