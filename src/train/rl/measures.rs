//! What is logged of answers and updates, by TRL's names where it has them.

use std::collections::{BTreeMap, HashSet};

use super::rollouts::{Answer, total};
use super::sampler::CODES;
use super::state::{Row, numbers};
use crate::model::TokenStats;
use crate::report;
use crate::train::objective::Metrics;
use crate::train::objective::policy::length::length_metrics;

/// Means of values by name, over the steps since the last report.
#[derive(Debug, Default)]
pub(super) struct Means(BTreeMap<String, (f64, usize)>);

impl Means {
    pub(super) fn add(&mut self, name: &str, value: f64) {
        let (sum, count) = self.0.entry(name.to_owned()).or_default();
        (*sum, *count) = (*sum + value, *count + 1);
    }

    pub(super) fn extend(&mut self, metrics: &Metrics) {
        metrics.iter().for_each(|(name, value)| self.add(name, *value));
    }

    pub(super) fn metrics(&self) -> report::Metrics {
        let mean = |(name, (sum, count)): (&String, &(f64, usize))| {
            (name.clone().into(), sum / *count as f64)
        };
        self.0.iter().map(mean).collect()
    }
}

/// Lengths of answers, and how much those of a group differ: the share of different ones, and of codes that differ
/// between two images.
pub(super) fn of_answers(groups: &[Vec<Answer>]) -> Metrics {
    let lengths = groups.iter().flatten().map(|answer| (answer.ids.len(), answer.is_truncated));
    let mut found = length_metrics(&lengths.collect::<Vec<_>>());
    let distinct = |group: &Vec<Answer>| {
        let different: HashSet<&[u32]> = group.iter().map(|answer| &answer.ids[..]).collect();
        different.len() as f64 / group.len() as f64
    };
    insert_mean(&mut found, "diversity/distinct", groups.iter().map(distinct));
    insert_mean(&mut found, "diversity/hamming", groups.iter().filter_map(|group| hamming(group)));
    found
}

/// The mean share of codes that differ between two first images of a group of one size; `None` without two.
fn hamming(group: &[Answer]) -> Option<f64> {
    let images: Vec<&[u32]> =
        group.iter().filter_map(|answer| Some(&answer.codes.first()?.ids[..])).collect();
    let (mut sum, mut count) = (0.0, 0);
    for (at, one) in images.iter().enumerate() {
        for other in images[..at].iter().filter(|other| other.len() == one.len()) {
            let differing = one.iter().zip(*other).filter(|(a, b)| a != b).count();
            sum += differing as f64 / one.len().max(1) as f64;
            count += 1;
        }
    }
    (count > 0).then(|| sum / f64::from(count))
}

/// Entropies, divergences from the reference and the sampler's lead in log-probability, of image codes and of text.
/// `scored` has for each row the distributions of its scored tokens.
pub(super) fn by_modality(
    rows: &[Row],
    stats: &[Vec<TokenStats>],
    scored: &[Vec<usize>],
) -> Metrics {
    let mut sums = Means::default();
    for ((row, stats), scored) in rows.iter().zip(stats).zip(scored) {
        let reference = row.reference.as_deref().map(numbers);
        let sampler = row.sampler.as_deref().map(numbers);
        for (at, (stats, number)) in stats.iter().zip(scored).enumerate() {
            let modality = if *number == CODES { "image" } else { "text" };
            let log_prob = f64::from(stats.log_prob);
            sums.add(&format!("entropy/{modality}"), f64::from(stats.entropy));
            if let Some(reference) = &reference {
                let q = reference[at] - log_prob;
                sums.add(&format!("kl/{modality}"), q.exp_m1() - q);
            }
            if let Some(sampler) = &sampler {
                sums.add("sampling/logp_gap", sampler[at] - log_prob);
            }
        }
    }
    sums.metrics().into_iter().map(|(name, value)| (name.into_owned(), value)).collect()
}

/// The mean weighted reward of `answers` that have one, and that of each of the rewards `names`.
pub(super) fn rewards(answers: &[&Answer], names: &[&str], weights: &[f64]) -> Metrics {
    let mut found = Metrics::new();
    let totals = answers.iter().filter_map(|answer| total(&answer.rewards, weights));
    insert_mean(&mut found, "reward", totals);
    for (at, name) in names.iter().enumerate() {
        let column = answers.iter().filter_map(|answer| answer.rewards[at]);
        insert_mean(&mut found, &format!("rewards/{name}/mean"), column);
    }
    found
}

fn insert_mean(found: &mut Metrics, name: &str, values: impl Iterator<Item = f64>) {
    let (sum, count) = values.fold((0.0, 0), |(sum, count), value| (sum + value, count + 1));
    if count > 0 {
        found.insert(name.to_owned(), sum / f64::from(count));
    }
}
