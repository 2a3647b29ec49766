//! Packed answers, and the log-probabilities of their tokens under a model.

use std::ops::Range;

use burn::optim::GradientsParams;
use burn::tensor::Tensor;

use super::config::ImageLogProbs;
use crate::data::pack::{Document, PackedBatch, best_fit_decreasing};
use crate::error::{Error, Result};
use crate::model::{CausalLm, TokenStats};
use crate::tokenize::{TokenClass, TokenSequence, Vocabulary};
use crate::train::objective::{
    Activations, NextTokenBatch, Predictions, Targets, backward, hidden_of,
};

/// Row lengths are multiples of this, so that few shapes occur.
const STEP: usize = 64;

/// Which targets are scored under which distribution.
#[derive(Clone, Debug)]
pub(super) struct Scoring {
    /// The ids of image codes, if codes are scored among themselves.
    codes: Option<Range<usize>>,
    classes: Vec<TokenClass>,
    pad: u32,
}

impl Scoring {
    /// The scoring that `of_images` asks for.
    ///
    /// # Errors
    /// [`Error::Invalid`] if the ids of the image codes have gaps.
    pub(super) fn new(vocabulary: &Vocabulary, of_images: ImageLogProbs) -> Result<Self> {
        let ids = vocabulary.image_ids();
        let codes = match (of_images, ids.iter().min(), ids.iter().max()) {
            (ImageLogProbs::Allowed, Some(first), Some(last)) => {
                let range = *first as usize..*last as usize + 1;
                if range.len() != ids.len() {
                    return Err(Error::invalid(
                        "reference.image_log_probs is allowed, but the ids of the image codes have gaps; \
                         allowed here: full",
                    ));
                }
                Some(range)
            }
            _ => None,
        };
        let classes = (0..vocabulary.len() as u32).map(|id| vocabulary.class(id)).collect();
        Ok(Self { codes, classes, pad: vocabulary.special().pad })
    }

    fn class(&self, id: u32) -> TokenClass {
        self.classes[id as usize]
    }

    /// Whether a learnt token of an answer is scored.
    pub(super) fn scores(&self, id: u32) -> bool {
        let forced = matches!(self.class(id), TokenClass::BeginImage | TokenClass::EndImage);
        self.codes.is_none() || !forced
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
    /// For each document the numbers of its targets.
    spans: Vec<Range<usize>>,
    scoring: &'a Scoring,
}

impl<'a> Answers<'a> {
    /// Packs `documents` into rows of at most `seq_len` tokens, which none exceeds.
    pub(super) fn pack(documents: &[&TokenSequence], seq_len: usize, scoring: &'a Scoring) -> Self {
        let lens: Vec<usize> = documents.iter().map(|document| document.ids.len()).collect();
        let rows = best_fit_decreasing(&lens, seq_len);
        let used = |row: &Vec<usize>| row.iter().map(|index| lens[*index]).sum::<usize>();
        let longest = rows.iter().map(used).max().unwrap_or(0);
        let seq_len = longest.next_multiple_of(STEP).min(seq_len).max(longest);
        let scored = |document: &TokenSequence| {
            let mask = document.ids.iter().zip(&document.loss_mask);
            let loss_mask = mask.map(|(id, learnt)| *learnt && scoring.scores(*id)).collect();
            TokenSequence { ids: document.ids.clone(), loss_mask }
        };
        let scored: Vec<Document> =
            documents.iter().map(|document| scored(document).into()).collect();
        let of_row = |row: &Vec<usize>| row.iter().map(|index| &scored[*index]).collect();
        let in_rows: Vec<Vec<&Document>> = rows.iter().map(of_row).collect();
        let packed = PackedBatch::of_rows(&in_rows, seq_len, scoring.pad);
        let mut spans = vec![0..0; documents.len()];
        let mut from = 0;
        for index in rows.iter().flatten() {
            let learnt = scored[*index].tokens.loss_mask.iter().skip(1).filter(|learnt| **learnt);
            let to = from + learnt.count();
            spans[*index] = from..to;
            from = to;
        }
        let is_image =
            packed.ids.iter().map(|id| scoring.class(*id) == TokenClass::Image).collect();
        let batch = NextTokenBatch { packed, is_image };
        let targets = Targets::of(&batch);
        Self { packed: batch.packed, targets, spans, scoring }
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

    fn of(&self, predictions: &ByModality, squares: bool) -> Scores {
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
            let mut weights = vec![0.0; self.targets.len()];
            for (span, slopes) in self.spans.iter().zip(&slopes) {
                let of_document = weights[span.clone()].iter_mut().zip(slopes);
                of_document.for_each(|(weight, slope)| *weight = -*slope as f32);
            }
            (predictions.surrogate(&weights), value)
        })
    }

    fn predictions(&self, model: &CausalLm, hidden: Tensor<3>) -> ByModality {
        let Some(codes) = &self.scoring.codes else {
            let all = Predictions::new(model, hidden, &self.targets);
            return ByModality { all, codes: None, is_code: vec![false; self.targets.len()] };
        };
        let is_code = self.targets.is_image.clone();
        let of = |wanted: bool| self.targets.only(|number| is_code[number] == wanted);
        let others = Predictions::new(model, hidden.clone(), &of(false));
        let codes = Predictions::among(model, hidden, &of(true), codes.clone());
        ByModality { all: others, codes: Some(codes), is_code }
    }
}

/// The predictions of image codes, and of all other targets.
struct ByModality {
    all: Predictions,
    codes: Option<Predictions>,
    is_code: Vec<bool>,
}

impl ByModality {
    /// The statistics of all targets in their order.
    fn stats(&self) -> Vec<TokenStats> {
        self.joined(Predictions::stats)
    }

    /// As [`Predictions::log_sums_of_squares`] for all targets in their order.
    fn log_sums_of_squares(&self) -> Vec<f32> {
        self.joined(Predictions::log_sums_of_squares)
    }

    fn joined<T>(&self, values: impl Fn(&Predictions) -> Vec<T>) -> Vec<T> {
        let mut others = values(&self.all).into_iter();
        let mut codes = self.codes.iter().flat_map(values);
        let next = |is_code: &bool| if *is_code { codes.next() } else { others.next() };
        self.is_code.iter().filter_map(next).collect()
    }

    /// As [`Predictions::surrogate`] without z-loss.
    fn surrogate(self, weights: &[f32]) -> Tensor<1> {
        let of = |wanted: bool| -> Vec<f32> {
            let weights = weights.iter().zip(&self.is_code);
            weights.filter(|(_, is_code)| **is_code == wanted).map(|(weight, _)| *weight).collect()
        };
        let (others, codes) = (of(false), of(true));
        let (sum, _) = self.all.surrogate(&others, 0.0);
        match self.codes {
            Some(predictions) => sum + predictions.surrogate(&codes, 0.0).0,
            None => sum,
        }
    }
}
