//! Distributions over the next token, in chunks that never hold the logits of all tokens.
//!
//! For a chunk of tokens the logits, their softmax and the gradient of the loss are computed outside
//! autodiff; what goes on the tape is `sum(h * dh) + sum(W * dW)`, whose gradient is exactly `dh` and
//! `dW`. Memory is one chunk of logits instead of three copies of `[tokens, vocab]`.

use std::ops::Range;

use burn::tensor::{DType, Device, Int, Tensor, TensorData, activation};

use super::batch::Targets;
use crate::device::is_cpu;
use crate::model::ops::{self, add_matmul, cross_entropy, fetch_stats, matmul, token_stats};
use crate::model::{CausalLm, TokenStats};

/// Tokens whose logits exist at one time on the CPU, whose caches hold a part of a chunk.
pub(super) const CHUNK: usize = 1024;

/// Logits that exist at one time elsewhere, unless the output layer's weight has more elements: 64 MiB in f32. A
/// device's allocator takes pages of the size of the largest tensor.
const LOGITS: usize = 1 << 24;

/// Added to a logit, it makes its probability 0; infinity would make the entropy NaN.
const HIDDEN: f32 = -1e9;

/// The number of tokens whose logits exist at one time on `device`.
pub fn logit_rows(vocab: usize, hidden: usize, device: &Device) -> usize {
    if is_cpu(device) { CHUNK } else { (LOGITS / vocab).max(hidden) }
}

/// The distributions of the tokens that predict the targets of a batch: hidden states and the output
/// layer's weight, from which logits are computed a chunk at a time.
#[derive(Clone, Debug)]
pub struct Predictions {
    /// In f32, `[len, hidden]`; without targets all of them, so that they stay on the tape.
    hidden: Tensor<2>,
    /// In f32, `[vocab, hidden]`.
    weight: Tensor<2>,
    /// Of the targets, `[len]` in i32, off the tape.
    ids: Tensor<1, Int>,
    len: usize,
    /// Added to the logits to hide ids, `[1, vocab]`, off the tape.
    hiding: Option<Tensor<2>>,
    /// The derivatives of the loss with respect to the entropies, `[len, 1]`, off the tape.
    entropy_slopes: Option<Tensor<2>>,
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
        let weight = model.output_weight();
        let all = 0..weight.dims()[0];
        Self::of(weight, hidden, targets, all)
    }

    /// As [`Self::new`], with distributions over the ids in `among` only, as when other ids are not allowed.
    ///
    /// # Panics
    /// As [`Self::new`]; if a target is not among them.
    pub fn among(
        model: &CausalLm,
        hidden: Tensor<3>,
        targets: &Targets,
        among: Range<usize>,
    ) -> Self {
        let weight = model.output_weight().narrow(0, among.start, among.len());
        Self::of(weight, hidden, targets, among)
    }

    /// `weight` has the rows of `ids`.
    fn of(weight: Tensor<2>, hidden: Tensor<3>, targets: &Targets, ids: Range<usize>) -> Self {
        assert!(
            targets.ids.iter().all(|id| ids.contains(&(*id as usize))),
            "targets among {ids:?}"
        );
        let ids: Vec<i32> = targets.ids.iter().map(|&id| id as i32 - ids.start as i32).collect();
        let ids = TensorData::new(ids, [targets.len()]);
        let ids = Tensor::from_data(ids, (&hidden.device().inner(), DType::I32));
        Self {
            hidden: predictors(hidden, targets),
            weight: weight.cast(DType::F32),
            ids,
            len: targets.len(),
            hiding: None,
            entropy_slopes: None,
        }
    }

    /// The same with logits divided by `temperature`.
    #[must_use]
    pub fn at_temperature(self, temperature: f64) -> Self {
        // Logits are linear in the hidden states.
        let hidden = if temperature == 1.0 { self.hidden } else { self.hidden / temperature };
        Self { hidden, ..self }
    }

    /// The predictions of the same targets under guidance: `other + scale (self - other)`, of logits. `other` is a
    /// constant: no gradient goes through its hidden states.
    ///
    /// # Panics
    /// If `other` has another number of targets.
    #[must_use]
    pub fn guided(self, other: &Self, scale: f64) -> Self {
        assert_eq!(self.len, other.len, "both branches have the same targets");
        let other = match self.hidden.device().is_autodiff() && !other.hidden.device().is_autodiff()
        {
            true => Tensor::from_inner(other.hidden.clone()),
            false => other.hidden.clone().detach(),
        };
        // Logits are linear in the hidden states.
        let hidden = match self.len {
            0 => self.hidden,
            _ => other.clone() + (self.hidden - other) * scale,
        };
        Self { hidden, ..self }
    }

    /// The same with distributions over the ids only for which `allowed` is true; ids beyond its end are not
    /// allowed. All targets must be.
    #[must_use]
    pub fn only(self, allowed: &[bool]) -> Self {
        let vocab = self.weight.dims()[0];
        let is_allowed = |id: usize| allowed.get(id).copied().unwrap_or(false);
        let row: Vec<f32> =
            (0..vocab).map(|id| if is_allowed(id) { 0.0 } else { HIDDEN }).collect();
        let row = TensorData::new(row, [1, vocab]);
        let hiding = Tensor::from_data(row, (&self.ids.device(), DType::F32));
        Self { hiding: Some(hiding), ..self }
    }

    /// The same for a [surrogate](Self::surrogate) that also has the gradient of `sum_i slopes[i] * entropy_i`.
    ///
    /// # Panics
    /// If there is not one slope for each target.
    #[must_use]
    pub fn with_entropies(self, slopes: &[f32]) -> Self {
        assert_eq!(slopes.len(), self.len, "one slope for each target");
        let slopes = TensorData::new(slopes.to_vec(), [self.len, 1]);
        let slopes = Tensor::from_data(slopes, (&self.ids.device(), DType::F32));
        Self { entropy_slopes: Some(slopes), ..self }
    }

    /// The gradient of the entropies' part of the loss with respect to a chunk's logits, if there is one:
    /// `-slope p_j (ln p_j + entropy)`.
    fn of_entropies(&self, logits: &Tensor<2>, first: usize) -> Option<Tensor<2>> {
        let slopes = self.entropy_slopes.clone()?.narrow(0, first, logits.dims()[0]);
        let log_probs = activation::log_softmax(logits.clone(), 1); // [len, vocab]
        let probs = log_probs.clone().exp();
        let entropies = -(probs.clone() * log_probs.clone()).sum_dim(1); // [len, 1]
        Some(probs * (log_probs + entropies) * -slopes)
    }

    /// The logits of a chunk, from the transposed weight.
    fn logits(&self, hidden: Tensor<2>, weight: Tensor<2>) -> Tensor<2> {
        let logits = matmul(hidden, weight); // [len, vocab]
        match &self.hiding {
            Some(hiding) => logits + hiding.clone(),
            None => logits,
        }
    }

    /// The chunks, each as its first target and their number.
    fn chunks(&self) -> impl Iterator<Item = (usize, usize)> + use<> {
        let ([vocab, hidden], len) = (self.weight.dims(), self.len);
        let chunk = logit_rows(vocab, hidden, &self.ids.device());
        (0..len).step_by(chunk).map(move |first| (first, chunk.min(len - first)))
    }

    /// The statistics of every target, in the order of the targets; no gradient.
    pub fn stats(&self) -> Vec<TokenStats> {
        let (hidden, weight) = (self.hidden.clone().inner(), self.weight.clone().inner());
        let weight = weight.transpose(); // [hidden, vocab]
        let stats = self.chunks().map(|(first, len)| {
            let hidden = hidden.clone().narrow(0, first, len); // [len, hidden]
            let ids = self.ids.clone().narrow(0, first, len);
            token_stats(self.logits(hidden, weight.clone()), ids)
        });
        joined(stats.collect())
    }

    /// `ln sum_v p_v^2` of the distribution of every target, in the order of the targets; no gradient.
    pub fn log_sums_of_squares(&self) -> Vec<f32> {
        let (hidden, weight) = (self.hidden.clone().inner(), self.weight.clone().inner());
        let weight = weight.transpose(); // [hidden, vocab]
        let of_chunk = |(first, len)| {
            let logits = self.logits(hidden.clone().narrow(0, first, len), weight.clone());
            let squares = activation::log_softmax(logits, 1) * 2.0;
            squares.exp().sum_dim(1).log().into_data().iter::<f32>().collect::<Vec<_>>()
        };
        self.chunks().flat_map(of_chunk).collect()
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
        assert_eq!(weights.len(), self.len, "one weight for each target");
        if self.len == 0 {
            return (self.hidden.sum() * 0.0, Vec::new());
        }
        let (hidden, weight) = (self.hidden.clone().inner(), self.weight.clone().inner());
        let weights = TensorData::new(weights.to_vec(), [self.len]);
        let weights = Tensor::<1>::from_data(weights, (&hidden.device(), DType::F32));
        let (mut stats, mut d_hidden, mut d_weight) = (Vec::new(), Vec::new(), None);
        for (first, len) in self.chunks() {
            let h = hidden.clone().narrow(0, first, len); // [len, hidden]
            let logits = self.logits(h.clone(), weight.clone().transpose()); // [len, vocab]
            let ids = self.ids.clone().narrow(0, first, len);
            let weights = weights.clone().narrow(0, first, len);
            let of_entropies = self.of_entropies(&logits, first);
            let (d_logits, found) = cross_entropy(logits, ids, weights, (2.0 * z) as f32);
            let d_logits = match of_entropies {
                Some(more) => d_logits + more,
                None => d_logits,
            };
            d_hidden.push(matmul(d_logits.clone(), weight.clone()));
            if self.weight.is_tracked() {
                let d_logits = d_logits.transpose();
                d_weight = Some(match d_weight {
                    Some(sum) => add_matmul(sum, d_logits, h),
                    None => matmul(d_logits, h),
                });
            }
            stats.push(found);
        }
        let d_hidden = Tensor::cat(d_hidden, 0); // [len, hidden]
        let surrogate = (self.hidden * constant(d_hidden)).sum();
        let surrogate = match d_weight {
            Some(d_weight) => surrogate + (self.weight * constant(d_weight)).sum(), // [vocab, hidden]
            None => surrogate, // the output layer is frozen
        };
        (surrogate, joined(stats))
    }
}

/// The hidden states that predict `targets`, in f32; without targets all of them, so that they stay on the tape.
///
/// # Shapes
/// `hidden` `[rows, seq, hidden]`; returns `[len, hidden]`.
pub(in crate::train) fn predictors(hidden: Tensor<3>, targets: &Targets) -> Tensor<2> {
    let [rows, seq, width] = hidden.dims();
    let hidden = hidden.reshape([rows * seq, width]);
    if targets.is_empty() {
        return hidden.cast(DType::F32);
    }
    let places: Vec<i32> = targets.predictors.iter().map(|&at| at as i32).collect();
    let places = TensorData::new(places, [targets.len()]);
    let places = Tensor::<1, Int>::from_data(places, &hidden.device());
    ops::rows(hidden, places, DType::F32).cast(DType::F32)
}

/// The statistics of all chunks, which waits for the device once.
fn joined(stats: Vec<Tensor<2>>) -> Vec<TokenStats> {
    if stats.is_empty() { Vec::new() } else { fetch_stats(Tensor::cat(stats, 0)) }
}

/// A constant on the tape's device.
fn constant(values: Tensor<2>) -> Tensor<2> {
    Tensor::from_inner(values)
}
