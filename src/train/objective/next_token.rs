//! Next-token cross-entropy with z-loss, in chunks that never hold two copies of all logits.
//!
//! For a chunk of tokens the logits, their softmax and the gradient of the loss are computed outside
//! autodiff; what goes on the tape is `sum(h * dh) + sum(W * dW)`, whose gradient is exactly `dh` and
//! `dW`. Memory is one chunk of logits instead of three copies of `[tokens, vocab]`.
//! Source: arXiv 2405.09818 section 2.3 (z-loss), arXiv 2204.02311.

use burn::optim::GradientsParams;
use burn::tensor::{DType, IndexingUpdateOp, Int, Tensor, TensorData};
use serde::{Deserialize, Serialize};

pub use crate::data::pack::NextTokenBatch;
use crate::data::pack::PackedBatch;
use crate::error::{Error, Result};
#[cfg(feature = "cpu")]
use crate::model::ops;
use crate::model::{CausalLm, ModelInput, mask};

/// Tokens whose logits exist at one time.
const CHUNK: usize = 1024;

/// Weights of the parts of the loss.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct LossConfig {
    /// On the mean over supervised tokens of `logsumexp(logits)^2`.
    pub z_loss: f64,
    /// On targets that are image codes.
    pub image_weight: f64,
    /// On all other targets.
    pub text_weight: f64,
}

impl Default for LossConfig {
    fn default() -> Self {
        Self { z_loss: 1e-5, image_weight: 1.0, text_weight: 1.0 }
    }
}

impl LossConfig {
    /// Checks the ranges.
    ///
    /// # Errors
    /// [`Error::Invalid`] with the key, its value and the range.
    pub fn validate(&self) -> Result<()> {
        let weights = [
            ("z_loss", self.z_loss),
            ("image_weight", self.image_weight),
            ("text_weight", self.text_weight),
        ];
        match weights.iter().find(|(_, weight)| !(*weight >= 0.0 && weight.is_finite())) {
            Some((key, weight)) => {
                Err(Error::invalid(format!("loss.{key} is {weight}; allowed: at least 0")))
            }
            None => Ok(()),
        }
    }
}

/// A loss to differentiate, and the sums behind it.
#[derive(Debug)]
pub struct NextTokenLoss {
    /// A scalar whose *gradient* is that of the loss; its value means nothing.
    pub surrogate: Tensor<1>,
    /// Weighted mean of the cross-entropy plus the z-loss, in nats.
    pub total: f64,
    /// Sum of the cross-entropy over image targets, in nats, and their number.
    pub image: (f64, usize),
    /// Sum of the cross-entropy over the other targets, in nats, and their number.
    pub text: (f64, usize),
    /// The same over all targets by source, in the order of the sources' numbers.
    pub sources: Vec<(f64, usize)>,
}

impl NextTokenLoss {
    fn of(surrogate: Tensor<1>, total: f64) -> Self {
        Self { surrogate, total, image: (0.0, 0), text: (0.0, 0), sources: Vec::new() }
    }
}

/// The objective.
#[derive(Clone, Debug)]
pub struct NextToken {
    /// Weights of the parts.
    pub config: LossConfig,
}

/// The predicted tokens of a batch: where their hidden state is, what they are, how much they count.
struct Targets {
    places: Vec<i32>,
    ids: Vec<i32>,
    weights: Vec<f32>,
    is_image: Vec<bool>,
    sources: Vec<u32>,
}

impl NextToken {
    /// The loss of `model` over `batch`. Without a target everything is 0.
    ///
    /// The tape is only there when `model` lies on an autodiff device.
    pub fn loss(&self, model: &CausalLm, batch: &NextTokenBatch) -> NextTokenLoss {
        self.of_hidden(model, model.hidden(input(model, &batch.packed)), batch)
    }

    /// The loss and `share` times its gradients with respect to every weight of `model`, which lies on an
    /// autodiff device.
    pub fn gradients(
        &self,
        model: &CausalLm,
        batch: &NextTokenBatch,
        share: f64,
    ) -> (GradientsParams, NextTokenLoss) {
        let mut loss = self.loss(model, batch);
        let surrogate = std::mem::replace(&mut loss.surrogate, Tensor::zeros([1], &model.device()));
        let gradients = (surrogate * share).backward();
        (GradientsParams::from_grads(gradients, model), loss)
    }

    /// The loss from the last hidden state after the final norm, `[rows, seq, hidden]`.
    pub(super) fn of_hidden(
        &self,
        model: &CausalLm,
        hidden: Tensor<3>,
        batch: &NextTokenBatch,
    ) -> NextTokenLoss {
        let [rows, seq, width] = hidden.dims();
        let targets = self.targets(batch);
        let count = targets.ids.len();
        if count == 0 {
            let surrogate = hidden.cast(DType::F32).sum() * 0.0;
            return NextTokenLoss::of(surrogate, 0.0);
        }
        let device = hidden.device();
        let places =
            Tensor::<1, Int>::from_data(TensorData::new(targets.places.clone(), [count]), &device);
        let hidden = hidden.reshape([rows * seq, width]).select(0, places).cast(DType::F32);
        let weight = model.output_weight().cast(DType::F32); // [vocab, hidden]
        let parts = self.chunks(hidden.clone().inner(), weight.clone().inner(), &targets);
        let surrogate =
            (hidden * like(parts.d_hidden)).sum() + (weight * like(parts.d_weight)).sum();
        let mut loss = NextTokenLoss::of(surrogate, parts.total);
        let most = targets.sources.iter().max().map_or(0, |source| *source as usize + 1);
        loss.sources.resize(most, (0.0, 0));
        for ((nll, is_image), source) in
            parts.nll.iter().zip(&targets.is_image).zip(&targets.sources)
        {
            let part = if *is_image { &mut loss.image } else { &mut loss.text };
            for part in [part, &mut loss.sources[*source as usize]] {
                part.0 += f64::from(*nll);
                part.1 += 1;
            }
        }
        loss
    }

    fn targets(&self, batch: &NextTokenBatch) -> Targets {
        let mut targets = Targets {
            places: vec![],
            ids: vec![],
            weights: vec![],
            is_image: vec![],
            sources: vec![],
        };
        let packed = &batch.packed;
        for token in (0..packed.ids.len()).filter(|&token| packed.loss_mask[token]) {
            let is_image = batch.is_image[token];
            let weight = if is_image { self.config.image_weight } else { self.config.text_weight };
            targets.places.push(token as i32 - 1);
            targets.ids.push(packed.ids[token] as i32);
            targets.weights.push(weight as f32);
            targets.is_image.push(is_image);
            targets.sources.push(packed.sources[token]);
        }
        targets
    }

    /// Loss and gradients, `hidden` `[count, hidden]` and `weight` `[vocab, hidden]` outside autodiff.
    fn chunks(&self, hidden: Tensor<2>, weight: Tensor<2>, targets: &Targets) -> Parts {
        let [count, _] = hidden.dims();
        let weight_sum: f32 = targets.weights.iter().sum();
        let norm = f64::from(weight_sum.max(f32::MIN_POSITIVE));
        let (mut total, mut nll) = (0.0, Vec::with_capacity(count));
        let mut d_hidden = Vec::new();
        let mut d_weight = Tensor::zeros(weight.dims(), &hidden.device());
        for start in (0..count).step_by(CHUNK) {
            let len = CHUNK.min(count - start);
            let h = hidden.clone().narrow(0, start, len); // [len, hidden]
            let logits = matmul(h.clone(), weight.clone().transpose()); // [len, vocab]
            let weights = &targets.weights[start..start + len];
            let scaled: Vec<f32> = weights.iter().map(|w| w / norm as f32).collect();
            let z = (2.0 * self.config.z_loss / count as f64) as f32;
            let ids = &targets.ids[start..start + len];
            let (d_logits, losses) = d_logits(logits, ids, &scaled, z); // [len, vocab]
            for ((nll, lse), weight) in losses.iter().zip(weights) {
                total += f64::from(nll * weight) / norm;
                total += self.config.z_loss * f64::from(lse * lse) / count as f64;
            }
            d_hidden.push(matmul(d_logits.clone(), weight.clone()));
            d_weight = add_matmul(d_weight, d_logits.transpose(), h);
            nll.extend(losses.iter().map(|(nll, _)| nll));
        }
        Parts { d_hidden: Tensor::cat(d_hidden, 0), d_weight, nll, total }
    }
}

struct Parts {
    d_hidden: Tensor<2>,
    d_weight: Tensor<2>,
    nll: Vec<f32>,
    total: f64,
}

/// The gradient of `sum_i weights[i] * nll_i + z / 2 * lse_i^2` with respect to `logits`
/// `[len, vocab]`, and `nll` and `lse` of every row.
fn d_logits(
    logits: Tensor<2>,
    ids: &[i32],
    weights: &[f32],
    z: f32,
) -> (Tensor<2>, Vec<(f32, f32)>) {
    #[cfg(feature = "cpu")]
    if ops::applies(&logits) {
        return ops::cross_entropy(logits, ids, weights, z);
    }
    let (device, len) = (logits.device(), ids.len());
    let ids = Tensor::<2, Int>::from_data(TensorData::new(ids.to_vec(), [len, 1]), &device);
    let largest = logits.clone().max_dim(1); // [len, 1]
    let exp = (logits.clone() - largest.clone()).exp();
    let sum = exp.clone().sum_dim(1);
    let lse = largest + sum.clone().log(); // [len, 1]
    let nll = (lse.clone() - logits.gather(1, ids.clone())).into_data();
    let losses: Vec<(f32, f32)> = nll.iter().zip(lse.into_data().iter()).collect();
    let on_all = weights.iter().zip(&losses).map(|(w, (_, lse))| w + z * lse).collect();
    let on_target = weights.iter().map(|w| -w).collect();
    let column = |values: Vec<f32>| Tensor::from_data(TensorData::new(values, [len, 1]), &device);
    let all = exp * (column(on_all) / sum);
    (all.scatter(1, ids, column(on_target), IndexingUpdateOp::Add), losses)
}

/// `lhs rhs` outside autodiff.
fn matmul(lhs: Tensor<2>, rhs: Tensor<2>) -> Tensor<2> {
    #[cfg(feature = "cpu")]
    if ops::applies(&lhs) {
        return ops::matmul(lhs, rhs);
    }
    lhs.matmul(rhs)
}

/// `sum + lhs rhs` outside autodiff.
fn add_matmul(sum: Tensor<2>, lhs: Tensor<2>, rhs: Tensor<2>) -> Tensor<2> {
    #[cfg(feature = "cpu")]
    if ops::applies(&sum) {
        return ops::add_matmul(sum, lhs, rhs);
    }
    sum + lhs.matmul(rhs)
}

/// A constant on the tape's device.
fn like(constant: Tensor<2>) -> Tensor<2> {
    Tensor::from_inner(constant)
}

/// The batch as tensors on the device of `model`.
pub(super) fn input(model: &CausalLm, batch: &PackedBatch) -> ModelInput<'static> {
    let device = model.device();
    let tensor = |values: &[u32]| {
        let values: Vec<i32> = values.iter().map(|&v| v as i32).collect();
        let shape = [batch.rows, batch.seq_len];
        Tensor::<2, Int>::from_data(TensorData::new(values, shape), &device)
    };
    ModelInput {
        ids: tensor(&batch.ids),
        positions: tensor(&batch.positions),
        mask: Some(mask::packed(&batch.document_ids, batch.rows, &device)),
        cache: None,
    }
}
