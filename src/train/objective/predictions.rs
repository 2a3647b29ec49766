//! Distributions over the next token, in chunks that never hold the logits of all tokens.
//!
//! For a chunk of tokens the logits, their softmax and the gradient of the loss are computed outside
//! autodiff; what goes on the tape is `sum(h * dh) + sum(W * dW)`, whose gradient is exactly `dh` and
//! `dW`. Memory is one chunk of logits instead of three copies of `[tokens, vocab]`.

use burn::tensor::{DType, Int, Tensor, TensorData};

use super::batch::Targets;
use crate::model::ops::{add_matmul, cross_entropy, matmul, token_stats};
use crate::model::{CausalLm, TokenStats};

/// Tokens whose logits exist at one time.
pub(super) const CHUNK: usize = 1024;

/// The distributions of the tokens that predict the targets of a batch: hidden states and the output
/// layer's weight, from which logits are computed a chunk at a time.
#[derive(Clone, Debug)]
pub struct Predictions {
    /// In f32, `[len, hidden]`; without targets all of them, so that they stay on the tape.
    hidden: Tensor<2>,
    /// In f32, `[vocab, hidden]`.
    weight: Tensor<2>,
    ids: Vec<i32>,
}

impl Predictions {
    /// The predictions of `targets` by `model`, whose last hidden states after the final norm are `hidden`.
    ///
    /// # Shapes
    /// `hidden` `[rows, seq, hidden]`
    ///
    /// # Panics
    /// If a predictor lies outside `rows * seq`.
    pub fn new(model: &CausalLm, hidden: Tensor<3>, targets: &Targets) -> Self {
        let [rows, seq, width] = hidden.dims();
        let mut hidden = hidden.reshape([rows * seq, width]);
        if !targets.is_empty() {
            let places: Vec<i32> = targets.predictors.iter().map(|&at| at as i32).collect();
            let places = TensorData::new(places, [targets.len()]);
            let places = Tensor::<1, Int>::from_data(places, &hidden.device());
            hidden = hidden.select(0, places); // [len, hidden]
        }
        Self {
            hidden: hidden.cast(DType::F32),
            weight: model.output_weight().cast(DType::F32),
            ids: targets.ids.iter().map(|&id| id as i32).collect(),
        }
    }

    /// The statistics of every target, in the order of the targets; no gradient.
    pub fn stats(&self) -> Vec<TokenStats> {
        let (hidden, weight) = (self.hidden.clone().inner(), self.weight.clone().inner());
        let weight = weight.transpose(); // [hidden, vocab]
        let mut stats = Vec::with_capacity(self.ids.len());
        for (first, ids) in chunks(&self.ids) {
            let hidden = hidden.clone().narrow(0, first, ids.len()); // [chunk, hidden]
            stats.extend(token_stats(matmul(hidden, weight.clone()), ids));
        }
        stats
    }

    /// A scalar whose *gradient* is that of
    ///
    /// ```text
    /// loss = sum_i -weights[i] * log_prob_i + z * sum_i log_sum_exp_i^2
    /// ```
    ///
    /// with respect to hidden states and output weight, and the statistics of every target. The
    /// scalar's value means nothing. Logits are computed once.
    ///
    /// A positive weight raises the target's probability, a negative one lowers it; with weight 0
    /// only the target's z-loss counts. With respect to the logits of target `y` the gradient is
    /// `weights[i] * (p_j - [j = y]) + 2 * z * log_sum_exp_i * p_j`.
    ///
    /// # Panics
    /// If there is not one weight for each target.
    pub fn surrogate(self, weights: &[f32], z: f64) -> (Tensor<1>, Vec<TokenStats>) {
        assert_eq!(weights.len(), self.ids.len(), "one weight for each target");
        if self.ids.is_empty() {
            return (self.hidden.sum() * 0.0, Vec::new());
        }
        let (hidden, weight) = (self.hidden.clone().inner(), self.weight.clone().inner());
        let mut stats = Vec::with_capacity(self.ids.len());
        let mut d_hidden = Vec::new();
        let mut d_weight = weight.zeros_like(); // [vocab, hidden]
        for (first, ids) in chunks(&self.ids) {
            let h = hidden.clone().narrow(0, first, ids.len()); // [chunk, hidden]
            let logits = matmul(h.clone(), weight.clone().transpose()); // [chunk, vocab]
            let weights = &weights[first..first + ids.len()];
            let (d_logits, found) = cross_entropy(logits, ids, weights, (2.0 * z) as f32);
            d_hidden.push(matmul(d_logits.clone(), weight.clone()));
            d_weight = add_matmul(d_weight, d_logits.transpose(), h);
            stats.extend(found);
        }
        let d_hidden = Tensor::cat(d_hidden, 0); // [len, hidden]
        let surrogate = (self.hidden * constant(d_hidden)).sum();
        (surrogate + (self.weight * constant(d_weight)).sum(), stats)
    }
}

/// The ids in chunks, each with the index of its first.
fn chunks(ids: &[i32]) -> impl Iterator<Item = (usize, &[i32])> {
    (0..).step_by(CHUNK).zip(ids.chunks(CHUNK))
}

/// A constant on the tape's device.
fn constant(values: Tensor<2>) -> Tensor<2> {
    Tensor::from_inner(values)
}
