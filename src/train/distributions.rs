//! The distributions that tokens of answers are scored under, and a model's predictions under them.

use std::ops::Range;

use burn::tensor::Tensor;

use super::objective::{Predictions, Targets};
use crate::model::{CausalLm, TokenStats};

/// The ids that a token is chosen among.
#[derive(Clone, Debug)]
pub(super) enum Support {
    /// All of the vocabulary.
    All,
    /// Those of a range.
    Range(Range<usize>),
    /// Those for which the list is true.
    Only(Vec<bool>),
}

/// The distributions that tokens are scored under.
#[derive(Clone, Debug)]
pub(super) struct Distributions {
    /// The ids of each, which share all probability.
    pub(super) supports: Vec<Support>,
    /// Divides the logits.
    pub(super) temperature: f64,
    /// The id that fills rows.
    pub(super) pad: u32,
}

impl Distributions {
    /// The distribution over all ids; `pad` fills rows.
    pub(super) fn all(pad: u32) -> Self {
        Self { supports: vec![Support::All], temperature: 1.0, pad }
    }
}

/// The predictions of the targets of each distribution.
pub(super) struct ByDistribution<'a> {
    pub(super) parts: Vec<Predictions>,
    /// For each target the number of its part.
    numbers: &'a [usize],
}

impl<'a> ByDistribution<'a> {
    /// What `model`, whose last hidden states are `hidden`, predicts of `targets`, each under the distribution with its
    /// number in `numbers`.
    pub(super) fn new(
        distributions: &Distributions,
        model: &CausalLm,
        hidden: &Tensor<3>,
        (targets, numbers): (&Targets, &'a [usize]),
    ) -> Self {
        let of = |(number, support): (usize, &Support)| {
            let targets = targets.only(|target| numbers[target] == number);
            let hidden = hidden.clone();
            let predictions = match support {
                Support::All => Predictions::new(model, hidden, &targets),
                Support::Only(allowed) => Predictions::new(model, hidden, &targets).only(allowed),
                Support::Range(ids) => Predictions::among(model, hidden, &targets, ids.clone()),
            };
            predictions.at_temperature(distributions.temperature)
        };
        let parts = distributions.supports.iter().enumerate().map(of).collect();
        Self { parts, numbers }
    }

    /// The statistics of all targets in their order.
    pub(super) fn stats(&self) -> Vec<TokenStats> {
        self.joined(Predictions::stats)
    }

    /// As [`Predictions::log_sums_of_squares`] for all targets in their order.
    pub(super) fn log_sums_of_squares(&self) -> Vec<f32> {
        self.joined(Predictions::log_sums_of_squares)
    }

    fn joined<T>(&self, values: impl Fn(&Predictions) -> Vec<T>) -> Vec<T> {
        in_order(self.numbers, self.parts.iter().map(values).collect())
    }

    /// As [`Predictions::with_entropies`], for all targets in their order.
    pub(super) fn with_entropies(mut self, slopes: &[f32]) -> Self {
        let parts = self.parts.into_iter().enumerate();
        let of = |(number, part): (usize, Predictions)| {
            part.with_entropies(&of_number(slopes, self.numbers, number))
        };
        self.parts = parts.map(of).collect();
        self
    }

    /// As [`Predictions::surrogate`] without z-loss, for all targets in their order.
    pub(super) fn surrogate(self, weights: &[f32]) -> (Tensor<1>, Vec<TokenStats>) {
        let of = |(number, part): (usize, Predictions)| {
            part.surrogate(&of_number(weights, self.numbers, number), 0.0)
        };
        let (parts, stats): (Vec<_>, Vec<_>) = self.parts.into_iter().enumerate().map(of).unzip();
        let sum = parts.into_iter().reduce(|sum, part| sum + part);
        (sum.expect("there is a distribution"), in_order(self.numbers, stats))
    }
}

/// The values of all targets in their order, from those of each distribution.
fn in_order<T>(numbers: &[usize], parts: Vec<Vec<T>>) -> Vec<T> {
    let mut parts: Vec<_> = parts.into_iter().map(Vec::into_iter).collect();
    numbers.iter().filter_map(|number| parts[*number].next()).collect()
}

/// Those of `values` whose targets have the distribution `number`.
fn of_number(values: &[f32], numbers: &[usize], number: usize) -> Vec<f32> {
    let numbered = values.iter().zip(numbers);
    numbered.filter(|(_, of)| **of == number).map(|(value, _)| *value).collect()
}
