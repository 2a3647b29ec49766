//! Metrics of ratios: how often they are clipped, and how far the sampler is from training. Source: TRL 1.16.

use super::config::PolicyConfig;
use super::kinds::{PolicyLossType, RatioLevel};
use super::rows::Row;
use super::surrogate::phi;
use crate::train::objective::metrics::{Metrics, mean};

/// Values of completions: one for each token that counts; or one for each completion, whether or not its
/// tokens count, where ratio and advantage are the same for all tokens.
struct Values(Vec<Vec<f64>>);

impl Values {
    /// `value` of ratio and advantage.
    fn new(rows: &[Row<'_>], level: RatioLevel, value: impl Fn(f64, f64) -> f64) -> Self {
        let of_sequences = level == RatioLevel::Sequence;
        let is_single = of_sequences && rows.iter().all(Row::has_one_advantage);
        let of_row = |row: &Row<'_>| {
            let at = |token: usize| row.completion.advantage.at(token);
            if is_single {
                return vec![value(row.mean_log_ratio.exp(), at(0))];
            }
            (0..row.len).map(|token| value(row.log_weight(token, level).exp(), at(token))).collect()
        };
        Self(rows.iter().map(of_row).collect())
    }

    /// The mean over all; 0 of none.
    fn mean(&self) -> f64 {
        let count = self.0.iter().map(Vec::len).sum::<usize>().max(1);
        self.0.iter().flatten().sum::<f64>() / count as f64
    }

    /// The mean of each completion that has values.
    fn of_completions(&self) -> impl Iterator<Item = f64> {
        self.0.iter().filter(|row| !row.is_empty()).map(|row| mean(row.iter().copied()))
    }
}

/// The metrics of the loss's kind.
pub(super) fn clip_metrics(config: &PolicyConfig, rows: &[Row<'_>]) -> Metrics {
    let level = config.importance_sampling_level;
    let mut found = Metrics::new();
    let mut insert = |name: &str, value: f64| found.insert(name.to_owned(), value);
    match config.loss_type {
        PolicyLossType::Sapo => {}
        PolicyLossType::Cispo => {
            let max = config.high();
            let is_clipped = |w: f64, advantage: f64| number(w > max && advantage > 0.0);
            insert("cispo_clip_ratio", Values::new(rows, level, is_clipped).mean());
        }
        PolicyLossType::Vespo => _ = insert("vespo/phi_seq_mean", phi_mean(config, rows)),
        _ => {
            // A ratio beyond a bound is cut off only where the advantage would carry it further.
            let (min, max) = (1.0 - config.epsilon, 1.0 + config.high());
            let is_low = |w: f64, advantage: f64| number(w < min && advantage < 0.0);
            let is_high = |w: f64, advantage: f64| number(w > max && advantage > 0.0);
            let (low, high) = (Values::new(rows, level, is_low), Values::new(rows, level, is_high));
            insert("clip_ratio/low_mean", low.mean());
            insert("clip_ratio/high_mean", high.mean());
            insert("clip_ratio/region_mean", low.mean() + high.mean());
            if low.of_completions().next().is_some() {
                insert("clip_ratio/low_min", low.of_completions().fold(1.0, f64::min));
                insert("clip_ratio/high_max", high.of_completions().fold(0.0, f64::max));
            }
        }
    }
    found
}

/// The mean of VESPO's weights over completions, or over tokens where these have advantages of their own.
fn phi_mean(config: &PolicyConfig, rows: &[Row<'_>]) -> f64 {
    let advantage = |row: &Row<'_>, token| row.completion.advantage.at(token);
    if rows.iter().all(Row::has_one_advantage) {
        return mean(rows.iter().map(|row| phi(config, row, advantage(row, 0))));
    }
    let tokens = rows
        .iter()
        .flat_map(|row| (0..row.len).map(move |token| phi(config, row, advantage(row, token))));
    mean(tokens)
}

fn number(is: bool) -> f64 {
    f64::from(u8::from(is))
}

/// The metrics of a correction: how far the log-probabilities are apart, and the ratios.
pub(super) fn sampling_metrics(rows: &[Row<'_>]) -> Metrics {
    let apart = rows.iter().flat_map(|row| {
        let old = &row.completion.old()[..row.len];
        old.iter().zip(row.completion.sampled()).map(|(old, sampled)| (old - sampled).abs())
    });
    let apart: Vec<f64> = apart.collect();
    let ratios: Vec<f64> = rows.iter().flat_map(|row| row.sampler_ratios.iter().copied()).collect();
    let mut found = Metrics::new();
    let mut insert = |name: &str, value: f64| found.insert(format!("sampling/{name}"), value);
    if !apart.is_empty() {
        insert("sampling_logp_difference/mean", mean(apart.iter().copied()));
        insert("sampling_logp_difference/max", apart.iter().copied().fold(0.0, f64::max));
    }
    if !ratios.is_empty() {
        insert("importance_sampling_ratio/min", ratios.iter().copied().fold(f64::MAX, f64::min));
        insert("importance_sampling_ratio/mean", mean(ratios.iter().copied()));
        insert("importance_sampling_ratio/max", ratios.iter().copied().fold(0.0, f64::max));
    }
    found
}
