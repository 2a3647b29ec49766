//! Sums over the pairs of a step.

use std::collections::BTreeMap;

use crate::model::TokenStats;
use crate::report::Metrics;
use crate::train::best::Better;
use crate::train::objective::preference::{PairGradient, PairLoss};

/// What a loss over some pairs returned.
#[derive(Default)]
pub(super) struct Sums {
    /// The loss.
    pub(super) loss: f64,
    /// The mean of each metric.
    pub(super) metrics: BTreeMap<String, f64>,
}

impl Sums {
    /// Adds what a loss returned over a `share` of the pairs.
    pub(super) fn add(&mut self, found: &PairLoss, share: f64) {
        self.loss += share * found.loss;
        found.metrics.iter().for_each(|(name, value)| self.add_metric(name, share * value));
    }

    /// Adds what the statistics say of the tokens of a `share` of the pairs.
    pub(super) fn add_stats(&mut self, stats: &[Vec<TokenStats>], share: f64) {
        let tokens: Vec<&TokenStats> = stats.iter().flatten().collect();
        let mean = |value: fn(&TokenStats) -> f64| {
            tokens.iter().map(|stats| value(stats)).sum::<f64>() / tokens.len().max(1) as f64
        };
        let entropy = mean(|stats| f64::from(stats.entropy));
        let accuracy = mean(|stats| f64::from(u8::from(stats.is_top)));
        self.add_metric("entropy", share * entropy);
        self.add_metric("mean_token_accuracy", share * accuracy);
    }

    fn add_metric(&mut self, name: &str, value: f64) {
        *self.metrics.entry(name.to_owned()).or_default() += value;
    }

    /// All of them.
    pub(super) fn metrics(&self) -> Metrics {
        let mut metrics: Metrics = vec![("loss".into(), self.loss)];
        metrics.extend(self.metrics.iter().map(|(name, mean)| (name.clone().into(), *mean)));
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

/// The metrics of an evaluation, each with its better direction.
pub(super) fn eval_metrics() -> Vec<(String, Better)> {
    let lower = ["loss", "logps/rejected", "rewards/rejected", "entropy", "nll_loss"];
    let higher = [
        "rewards/accuracies",
        "rewards/margins",
        "rewards/chosen",
        "logps/chosen",
        "log_odds_ratio",
        "log_odds_chosen",
        "mean_token_accuracy",
    ];
    let named = |names: &[&str], better| -> Vec<(String, Better)> {
        names.iter().map(|name| ((*name).to_owned(), better)).collect()
    };
    [named(&lower, Better::Lower), named(&higher, Better::Higher)].concat()
}
