//! Packed answers, and the log-probabilities of their tokens under a model.

use std::ops::Range;

use burn::optim::GradientsParams;
use burn::tensor::Tensor;

use super::objective::{Activations, NextTokenBatch, Predictions, Targets, backward, hidden_of};
use crate::data::pack::{Document, PackedBatch, best_fit_decreasing};
use crate::model::{CausalLm, TokenStats};
use crate::tokenize::TokenSequence;

/// Row lengths are multiples of this, so that few shapes occur.
const STEP: usize = 64;

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

/// A document, and which of its tokens are scored.
#[derive(Clone, Debug)]
pub(super) struct Scored<'a> {
    /// Its ids.
    pub(super) ids: &'a [u32],
    /// For each id the number of the distribution that it is scored under, if it is; the first id never is.
    pub(super) distributions: Vec<Option<usize>>,
}

impl Scored<'_> {
    /// The numbers of the distributions of the tokens that are scored.
    fn scored(&self) -> impl Iterator<Item = usize> {
        self.distributions.iter().skip(1).flatten().copied()
    }
}

/// What a model says of the scored tokens of some documents.
#[derive(Debug)]
pub(super) struct Scores {
    /// For each document the statistics of its tokens.
    pub(super) stats: Vec<Vec<TokenStats>>,
    /// For each document `ln sum_v p_v^2` of its tokens' distributions, if they were asked for.
    pub(super) log_sums_of_squares: Vec<Vec<f64>>,
}

/// Documents in rows, and where the scored tokens of each are among the targets.
#[derive(Debug)]
pub(super) struct Answers<'a> {
    packed: PackedBatch,
    targets: Targets,
    /// For each target the number of its distribution.
    numbers: Vec<usize>,
    /// For each document the numbers of its targets.
    spans: Vec<Range<usize>>,
    distributions: &'a Distributions,
}

impl<'a> Answers<'a> {
    /// Packs `documents` into rows of at most `seq_len` tokens, which none exceeds.
    pub(super) fn pack(
        documents: &[Scored<'_>],
        seq_len: usize,
        distributions: &'a Distributions,
    ) -> Self {
        let lens: Vec<usize> = documents.iter().map(|document| document.ids.len()).collect();
        let rows = best_fit_decreasing(&lens, seq_len);
        Self::in_rows(documents, &rows, seq_len, distributions)
    }

    /// Places each document in a row of its own, so that targets lie in the order of documents.
    pub(super) fn one_by_one(
        documents: &[Scored<'_>],
        seq_len: usize,
        distributions: &'a Distributions,
    ) -> Self {
        let rows: Vec<Vec<usize>> = (0..documents.len()).map(|index| vec![index]).collect();
        Self::in_rows(documents, &rows, seq_len, distributions)
    }

    /// Places the documents of each of `rows`, given by their numbers.
    fn in_rows(
        documents: &[Scored<'_>],
        rows: &[Vec<usize>],
        seq_len: usize,
        distributions: &'a Distributions,
    ) -> Self {
        let lens: Vec<usize> = documents.iter().map(|document| document.ids.len()).collect();
        let used = |row: &Vec<usize>| row.iter().map(|index| lens[*index]).sum::<usize>();
        let longest = rows.iter().map(used).max().unwrap_or(0);
        let seq_len = longest.next_multiple_of(STEP).min(seq_len).max(longest);
        let masked = |Scored { ids, distributions }: &Scored<'_>| {
            let loss_mask = distributions.iter().map(Option::is_some).collect();
            Document::from(TokenSequence { ids: ids.to_vec(), loss_mask })
        };
        let masked: Vec<Document> = documents.iter().map(masked).collect();
        let of_row = |row: &Vec<usize>| row.iter().map(|index| &masked[*index]).collect();
        let in_rows: Vec<Vec<&Document>> = rows.iter().map(of_row).collect();
        let packed = PackedBatch::of_rows(&in_rows, seq_len, distributions.pad);
        let (mut spans, mut numbers) = (vec![0..0; documents.len()], Vec::new());
        for index in rows.iter().flatten() {
            let from = numbers.len();
            numbers.extend(documents[*index].scored());
            spans[*index] = from..numbers.len();
        }
        let is_image = vec![false; packed.ids.len()]; // only losses by modality read it
        let batch = NextTokenBatch { packed, is_image };
        let targets = Targets::of(&batch);
        Self { packed: batch.packed, targets, numbers, spans, distributions }
    }

    /// The number of documents.
    pub(super) fn len(&self) -> usize {
        self.spans.len()
    }

    /// The number of tokens without padding.
    pub(super) fn num_tokens(&self) -> usize {
        self.packed.num_tokens()
    }

    /// What `model` says of the scored tokens of each document, without gradients; `squares` as in [`Scores`].
    pub(super) fn scores(&self, model: &CausalLm, squares: bool) -> Scores {
        let hidden = hidden_of(model, &self.packed);
        self.of(&self.predictions(model, hidden), squares)
    }

    fn of(&self, predictions: &ByDistribution<'_>, squares: bool) -> Scores {
        let by_document = |values: Vec<f32>| -> Vec<Vec<f64>> {
            let of =
                |span: &Range<usize>| values[span.clone()].iter().map(|v| f64::from(*v)).collect();
            self.spans.iter().map(of).collect()
        };
        let all = predictions.stats();
        let stats = self.spans.iter().map(|span| all[span.clone()].to_vec()).collect();
        let squares = match squares {
            true => by_document(predictions.log_sums_of_squares()),
            false => vec![Vec::new(); self.spans.len()],
        };
        Scores { stats, log_sums_of_squares: squares }
    }

    /// The statistics of the targets of distribution `number` under guidance of strength `scale` away from those of
    /// `other`, in the order of the targets. Both have one document to a row and the same targets of this distribution.
    pub(super) fn guided_stats(
        &self,
        other: &Self,
        model: &CausalLm,
        (number, scale): (usize, f64),
    ) -> Vec<TokenStats> {
        let of = |answers: &Self| {
            let hidden = hidden_of(model, &answers.packed);
            answers.predictions(model, hidden).parts.swap_remove(number)
        };
        of(self).guided(&of(other), scale).stats()
    }

    /// The gradients of `model`, and the second value that `loss` returns; the first are the derivatives of the loss
    /// with respect to each token's log-probability, document by document.
    pub(super) fn gradients<T>(
        &self,
        model: &CausalLm,
        activations: Activations,
        squares: bool,
        loss: impl FnOnce(&Scores) -> (Vec<Vec<f64>>, T),
    ) -> (GradientsParams, T) {
        backward(model, &self.packed, activations, |hidden| {
            let predictions = self.predictions(model, hidden);
            let (slopes, value) = loss(&self.of(&predictions, squares));
            (predictions.surrogate(&self.weights(&slopes)), value)
        })
    }

    /// The gradients of `model`, if the derivatives of the loss are known beforehand.
    pub(super) fn gradients_of(
        &self,
        model: &CausalLm,
        activations: Activations,
        slopes: &[Vec<f64>],
    ) -> GradientsParams {
        let weights = self.weights(slopes);
        let loss = |hidden| (self.predictions(model, hidden).surrogate(&weights), ());
        backward(model, &self.packed, activations, loss).0
    }

    /// The weight of each target, from the derivatives of the loss.
    fn weights(&self, slopes: &[Vec<f64>]) -> Vec<f32> {
        let mut weights = vec![0.0; self.targets.len()];
        for (span, slopes) in self.spans.iter().zip(slopes) {
            let of_document = weights[span.clone()].iter_mut().zip(slopes);
            of_document.for_each(|(weight, slope)| *weight = -*slope as f32);
        }
        weights
    }

    fn predictions(&self, model: &CausalLm, hidden: Tensor<3>) -> ByDistribution<'_> {
        let of = |(number, support): (usize, &Support)| {
            let targets = self.targets.only(|target| self.numbers[target] == number);
            let hidden = hidden.clone();
            let predictions = match support {
                Support::All => Predictions::new(model, hidden, &targets),
                Support::Only(allowed) => Predictions::new(model, hidden, &targets).only(allowed),
                Support::Range(ids) => Predictions::among(model, hidden, &targets, ids.clone()),
            };
            predictions.at_temperature(self.distributions.temperature)
        };
        let parts = self.distributions.supports.iter().enumerate().map(of).collect();
        ByDistribution { parts, numbers: &self.numbers }
    }
}

/// The predictions of the targets of each distribution.
struct ByDistribution<'a> {
    parts: Vec<Predictions>,
    /// For each target the number of its part.
    numbers: &'a [usize],
}

impl ByDistribution<'_> {
    /// The statistics of all targets in their order.
    fn stats(&self) -> Vec<TokenStats> {
        self.joined(Predictions::stats)
    }

    /// As [`Predictions::log_sums_of_squares`] for all targets in their order.
    fn log_sums_of_squares(&self) -> Vec<f32> {
        self.joined(Predictions::log_sums_of_squares)
    }

    fn joined<T>(&self, values: impl Fn(&Predictions) -> Vec<T>) -> Vec<T> {
        let mut parts: Vec<_> = self.parts.iter().map(|part| values(part).into_iter()).collect();
        self.numbers.iter().filter_map(|number| parts[*number].next()).collect()
    }

    /// As [`Predictions::surrogate`] without z-loss.
    fn surrogate(self, weights: &[f32]) -> Tensor<1> {
        let of = |(number, part): (usize, Predictions)| {
            let weights = weights.iter().zip(self.numbers);
            let weights = weights.filter(|(_, of)| **of == number).map(|(weight, _)| *weight);
            part.surrogate(&weights.collect::<Vec<f32>>(), 0.0).0
        };
        let sums = self.parts.into_iter().enumerate().map(of);
        sums.reduce(|sum, part| sum + part).expect("there is a distribution")
    }
}
