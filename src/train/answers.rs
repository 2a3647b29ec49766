//! Packed answers, and what a model says of their tokens: log-probabilities, or the values of its score head.

use std::ops::Range;

use burn::optim::GradientsParams;
use burn::tensor::{DType, Tensor, TensorData};

use super::distributions::{ByDistribution, Distributions};
use super::objective::{Activations, NextTokenBatch, Targets, backward, hidden_of, predictors};
use crate::data::pack::{Document, PackedBatch, best_fit_decreasing};
use crate::model::{CausalLm, TokenStats};
use crate::tokenize::TokenSequence;

/// Row lengths are multiples of this, so that few shapes occur.
const STEP: usize = 32;

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

/// The derivatives of a loss with respect to what a model says of scored tokens, document by document.
#[derive(Clone, Debug)]
pub(super) struct Slopes {
    /// With respect to log-probabilities.
    pub(super) log_probs: Vec<Vec<f64>>,
    /// With respect to entropies, if the loss depends on them.
    pub(super) entropies: Option<Vec<Vec<f64>>>,
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

/// What answers are compared with under guidance: their targets of one distribution without the prompts.
///
/// It and the answers have one document to a row, so that these targets lie in one order.
#[derive(Debug)]
pub(super) struct Guidance<'a> {
    /// The targets without prompts.
    pub(super) alone: Answers<'a>,
    /// The number of the distribution.
    pub(super) number: usize,
    /// The strength.
    pub(super) scale: f64,
}

impl Guidance<'_> {
    /// `predictions` under guidance, which is computed by `model`, without gradients.
    fn applied<'p>(
        &self,
        mut predictions: ByDistribution<'p>,
        model: &CausalLm,
    ) -> ByDistribution<'p> {
        let hidden = hidden_of(model, &self.alone.packed);
        let alone = self.alone.predictions(model, hidden).parts.swap_remove(self.number);
        let parts = predictions.parts.into_iter().enumerate();
        let guided = parts.map(|(number, part)| match number == self.number {
            true => part.guided(&alone, self.scale),
            false => part,
        });
        predictions.parts = guided.collect();
        predictions
    }
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

    /// Packs `documents` into rows of at most `seq_len` tokens, each with one more after its last, so that the
    /// [values](Self::values) are those of the last tokens.
    pub(super) fn of_last_tokens(
        documents: &[&[u32]],
        seq_len: usize,
        distributions: &'a Distributions,
    ) -> Self {
        let followed = documents.iter().map(|ids| [ids, &[distributions.pad][..]].concat());
        let followed: Vec<Vec<u32>> = followed.collect();
        let scored = |ids: &'_ Vec<u32>| {
            let number = |at| (at == ids.len() - 1).then_some(0);
            (0..ids.len()).map(number).collect::<Vec<_>>()
        };
        let scored: Vec<Scored<'_>> =
            followed.iter().map(|ids| Scored { ids, distributions: scored(ids) }).collect();
        Self::pack(&scored, seq_len, distributions)
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
        let all = predictions.stats();
        let stats = self.spans.iter().map(|span| all[span.clone()].to_vec()).collect();
        let squares = match squares {
            true => self.by_document(&predictions.log_sums_of_squares()),
            false => vec![Vec::new(); self.spans.len()],
        };
        Scores { stats, log_sums_of_squares: squares }
    }

    /// As [`Self::scores`], under guidance.
    pub(super) fn guided_scores(&self, guidance: &Guidance<'_>, model: &CausalLm) -> Scores {
        let hidden = hidden_of(model, &self.packed);
        self.of(&guidance.applied(self.predictions(model, hidden), model), false)
    }

    /// As [`Self::gradients_of`], under guidance; `released` is `model` outside autodiff.
    pub(super) fn guided_gradients_of(
        &self,
        guidance: &Guidance<'_>,
        (model, released): (&CausalLm, &CausalLm),
        activations: Activations,
        slopes: &Slopes,
    ) -> (GradientsParams, Vec<Vec<TokenStats>>) {
        backward(model, &self.packed, activations, |hidden| {
            let predictions = guidance.applied(self.predictions(model, hidden), released);
            self.learnt(predictions, slopes)
        })
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
            (predictions.surrogate(&self.weights(&slopes)).0, value)
        })
    }

    /// The gradients of `model`, if the derivatives of the loss are known beforehand, and the statistics of each
    /// document's tokens.
    pub(super) fn gradients_of(
        &self,
        model: &CausalLm,
        activations: Activations,
        slopes: &Slopes,
    ) -> (GradientsParams, Vec<Vec<TokenStats>>) {
        backward(model, &self.packed, activations, |hidden| {
            self.learnt(self.predictions(model, hidden), slopes)
        })
    }

    /// What the score head of `model` says before each scored token of each document, without gradients.
    pub(super) fn values(&self, model: &CausalLm) -> Vec<Vec<f64>> {
        let hidden = hidden_of(model, &self.packed);
        self.by_document(&host(model.scores(predictors(hidden, &self.targets))))
    }

    /// The gradients of `model`, and the second value that `loss` returns; the first are the derivatives of the loss
    /// with respect to each of the score head's values, document by document.
    pub(super) fn value_gradients<T>(
        &self,
        model: &CausalLm,
        activations: Activations,
        loss: impl FnOnce(&[Vec<f64>]) -> (Vec<Vec<f64>>, T),
    ) -> (GradientsParams, T) {
        backward(model, &self.packed, activations, |hidden| {
            let values = model.scores(predictors(hidden, &self.targets));
            let (slopes, value) = loss(&self.by_document(&host(values.clone().inner())));
            let slopes: Vec<f32> = self.weights(&slopes).iter().map(|weight| -weight).collect();
            let slopes = TensorData::new(slopes, [self.targets.len()]);
            let slopes = Tensor::from_data(slopes, (&values.device(), DType::F32));
            ((values * slopes).sum(), value)
        })
    }

    /// The values of all targets, document by document.
    fn by_document(&self, values: &[f32]) -> Vec<Vec<f64>> {
        let of = |span: &Range<usize>| values[span.clone()].iter().map(|v| f64::from(*v)).collect();
        self.spans.iter().map(of).collect()
    }

    /// The surrogate of a loss with the derivatives `slopes`, and the statistics of each document's tokens.
    fn learnt(
        &self,
        predictions: ByDistribution<'_>,
        slopes: &Slopes,
    ) -> (Tensor<1>, Vec<Vec<TokenStats>>) {
        let predictions = match &slopes.entropies {
            Some(entropies) => {
                let slopes = self.weights(entropies);
                predictions.with_entropies(&slopes.iter().map(|w| -w).collect::<Vec<f32>>())
            }
            None => predictions,
        };
        let (surrogate, all) = predictions.surrogate(&self.weights(&slopes.log_probs));
        (surrogate, self.spans.iter().map(|span| all[span.clone()].to_vec()).collect())
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
        let targets = (&self.targets, &self.numbers[..]);
        ByDistribution::new(self.distributions, model, &hidden, targets)
    }
}

fn host(values: Tensor<1>) -> Vec<f32> {
    values.into_data().iter::<f32>().collect()
}
