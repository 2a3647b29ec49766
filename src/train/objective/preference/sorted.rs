//! Alignment by optimal transport (AOT, arXiv 2406.05882): sorted values are compared in place of pairs.
//!
//! The gradient of each comparison goes to the answers whose values it compares. Source: TRL 1.16.

use super::config::PreferenceConfig;
use super::scores::ScoredPair;
use super::terms::{Term, smoothed};

/// The sorted gaps between answers under the policy against those under the reference.
pub(super) fn paired(pairs: &[ScoredPair], config: &PreferenceConfig) -> Vec<Term> {
    let gaps = |of: fn(&ScoredPair) -> f64| -> Vec<f64> { pairs.iter().map(of).collect() };
    let policy = gaps(|pair| pair.chosen.log_prob - pair.rejected.log_prob);
    let reference = gaps(|pair| pair.chosen.reference - pair.rejected.reference);
    let mut terms = vec![Term::default(); pairs.len()];
    for (mine, theirs) in order(&policy).into_iter().zip(order(&reference)) {
        let (loss, slope) = compare(policy[mine], reference[theirs], config);
        terms[mine] = Term { loss, chosen: slope, rejected: -slope };
    }
    terms
}

/// The sorted log-ratios of the chosen answers against those of the rejected ones.
pub(super) fn unpaired(pairs: &[ScoredPair], config: &PreferenceConfig) -> Vec<Term> {
    let chosen: Vec<f64> = pairs.iter().map(|pair| pair.chosen.log_ratio).collect();
    let rejected: Vec<f64> = pairs.iter().map(|pair| pair.rejected.log_ratio).collect();
    let mut terms = vec![Term::default(); pairs.len()];
    for (c, r) in order(&chosen).into_iter().zip(order(&rejected)) {
        let (loss, slope) = compare(chosen[c], rejected[r], config);
        (terms[c].loss, terms[c].chosen) = (loss, slope);
        terms[r].rejected = -slope;
    }
    terms
}

fn compare(greater: f64, less: f64, config: &PreferenceConfig) -> (f64, f64) {
    smoothed(greater - less, config.beta, config.label_smoothing)
}

/// The places of `values` in ascending order.
fn order(values: &[f64]) -> Vec<usize> {
    let mut places: Vec<usize> = (0..values.len()).collect();
    places.sort_by(|a, b| values[*a].total_cmp(&values[*b]));
    places
}
