//! Metrics that all losses over pairs log.

use crate::train::objective::metrics::{Metrics, mean, metrics, share};

/// The metrics of every pairwise loss, of the rewards and log-probabilities of chosen and rejected answers.
/// A tie is not an accurate pair.
pub(super) fn reward_metrics(rewards: &[(f64, f64)], log_probs: &[(f64, f64)]) -> Metrics {
    let chosen = |values: &[(f64, f64)]| mean(values.iter().map(|(chosen, _)| *chosen));
    let rejected = |values: &[(f64, f64)]| mean(values.iter().map(|(_, rejected)| *rejected));
    metrics([
        ("rewards/chosen", chosen(rewards)),
        ("rewards/rejected", rejected(rewards)),
        ("rewards/margins", mean(rewards.iter().map(|(chosen, rejected)| chosen - rejected))),
        ("rewards/accuracies", share(rewards.iter().map(|(chosen, rejected)| chosen > rejected))),
        ("logps/chosen", chosen(log_probs)),
        ("logps/rejected", rejected(log_probs)),
    ])
}
