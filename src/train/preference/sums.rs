//! Sums over the pairs of a step.

use std::collections::BTreeMap;

use crate::model::TokenStats;
use crate::report::Metrics;
use crate::train::objective::preference::{PairGradient, PairLoss};

/// What a loss over some pairs returned.
#[derive(Default)]
pub(super) struct Sums {
    /// The loss.
    pub(super) loss: f64,
    /// The sum of each metric, and of how many values.
    pub(super) metrics: BTreeMap<String, (f64, usize)>,
}

impl Sums {
    /// Adds the loss over `pairs` of several calls, each of which weighs `share`.
    pub(super) fn add(&mut self, found: &PairLoss, share: f64) {
        self.loss += share * found.loss;
        for (name, value) in &found.metrics {
            let sum = self.metrics.entry(name.clone()).or_default();
            *sum = (sum.0 + value, sum.1 + 1);
        }
    }

    /// Adds what the statistics say of all answers' tokens.
    pub(super) fn add_stats(&mut self, stats: &[Vec<TokenStats>]) {
        let tokens: Vec<&TokenStats> = stats.iter().flatten().collect();
        let mean = |value: fn(&TokenStats) -> f64| {
            tokens.iter().map(|stats| value(stats)).sum::<f64>() / tokens.len().max(1) as f64
        };
        let entropy = mean(|stats| f64::from(stats.entropy));
        let accuracy = mean(|stats| f64::from(u8::from(stats.is_top)));
        for (name, value) in [("entropy", entropy), ("mean_token_accuracy", accuracy)] {
            let sum = self.metrics.entry(name.to_owned()).or_default();
            *sum = (sum.0 + value, sum.1 + 1);
        }
    }

    /// The means.
    pub(super) fn metrics(&self) -> Metrics {
        let mut metrics: Metrics = vec![("loss".into(), self.loss)];
        for (name, (sum, count)) in &self.metrics {
            metrics.push((name.clone().into(), sum / *count as f64));
        }
        metrics
    }
}

/// The derivatives of the loss by document, those of a micro-batch that is `share` of the step.
pub(super) fn slopes(found: Option<&PairLoss>, documents: usize, share: f64) -> Vec<Vec<f64>> {
    let Some(found) = found else { return vec![Vec::new(); documents] };
    let scaled = |slopes: &[f64]| slopes.iter().map(|slope| share * slope).collect();
    let of = |pair: &PairGradient| [scaled(&pair.chosen), scaled(&pair.rejected)];
    found.gradient.iter().flat_map(of).collect()
}
