//! Sums over the pairs of a step.

use std::collections::BTreeMap;

use super::losses::Found;
use crate::model::TokenStats;
use crate::report::Metrics;
use crate::train::best::Better;
use crate::train::objective::Metrics as LossMetrics;

/// What a loss over some pairs returned.
#[derive(Default)]
pub(super) struct Sums {
    /// The loss.
    pub(super) loss: f64,
    /// The weighted sum of each metric and its weight: not every part has every metric.
    metrics: BTreeMap<String, (f64, f64)>,
}

impl Sums {
    /// Adds what a loss returned over a `share` of the pairs.
    pub(super) fn add(&mut self, loss: f64, metrics: &LossMetrics, share: f64) {
        self.loss += share * loss;
        metrics.iter().for_each(|(name, value)| self.add_metric(name, *value, share));
    }

    /// Adds what the statistics say of the tokens of a `share` of the pairs.
    pub(super) fn add_stats(&mut self, stats: &[Vec<TokenStats>], share: f64) {
        let tokens: Vec<&TokenStats> = stats.iter().flatten().collect();
        let mean = |value: fn(&TokenStats) -> f64| {
            tokens.iter().map(|stats| value(stats)).sum::<f64>() / tokens.len().max(1) as f64
        };
        let entropy = mean(|stats| f64::from(stats.entropy));
        let accuracy = mean(|stats| f64::from(u8::from(stats.is_top)));
        self.add_metric("entropy", entropy, share);
        self.add_metric("mean_token_accuracy", accuracy, share);
    }

    fn add_metric(&mut self, name: &str, value: f64, share: f64) {
        let (sum, weight) = self.metrics.entry(name.to_owned()).or_default();
        (*sum, *weight) = (*sum + share * value, *weight + share);
    }

    /// The mean of a metric.
    pub(super) fn metric(&self, name: &str) -> Option<f64> {
        self.metrics.get(name).map(|(sum, weight)| sum / weight)
    }

    /// All of them.
    pub(super) fn metrics(&self) -> Metrics {
        let mut metrics: Metrics = vec![("loss".into(), self.loss)];
        let means = self.metrics.iter().map(|(name, (sum, weight))| (name, sum / weight));
        metrics.extend(means.map(|(name, mean)| (name.clone().into(), mean)));
        metrics
    }
}

/// The derivatives of the loss by document, those of a micro-batch that is `share` of the step.
pub(super) fn slopes(found: Option<&Found>, documents: usize, share: f64) -> Vec<Vec<f64>> {
    let Some(found) = found else { return vec![Vec::new(); documents] };
    let scaled = |slopes: &Vec<f64>| slopes.iter().map(|slope| share * slope).collect();
    found.slopes.iter().map(scaled).collect()
}

/// The metrics of an evaluation, each with its better direction.
pub(super) fn eval_metrics() -> Vec<(String, Better)> {
    let lower = ["loss", "logps/rejected", "rewards/rejected", "entropy", "nll_loss", "kl"];
    let higher = [
        "rewards/accuracies",
        "rewards/margins",
        "rewards/chosen",
        "logps/chosen",
        "log_odds_ratio",
        "log_odds_chosen",
        "mean_token_accuracy",
        "accuracy",
        "margin",
        "min_reward",
        "mean_reward",
        "max_reward",
    ];
    let named = |names: &[&str], better| -> Vec<(String, Better)> {
        names.iter().map(|name| ((*name).to_owned(), better)).collect()
    };
    [named(&lower, Better::Lower), named(&higher, Better::Higher)].concat()
}
