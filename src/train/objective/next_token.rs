//! Next-token cross-entropy with z-loss.
//!
//! With the weight `w` of each target by its modality, over all targets of a step:
//!
//! ```text
//! loss = sum_i -w_i * log_prob_i / sum_i w_i  +  z_loss * mean_i log_sum_exp_i^2
//! ```
//!
//! in nats. A step of several micro-batches divides by the sums over all of them, so that the split into
//! micro-batches changes nothing but the order of summation.
//!
//! Training a model with experts adds their load-balancing loss times the `router_aux_loss_coef` of its configuration,
//! and their z-loss times [`LossConfig::router_z_loss`], both over all tokens of documents. Only for the first does the
//! split into micro-batches matter; see [`RouterTerms`].
//! Source: arXiv 2405.09818 section 2.3 (z-loss), arXiv 2204.02311.

use std::ops::AddAssign;

use burn::optim::GradientsParams;
use serde::{Deserialize, Serialize};

use super::backward::{Activations, Additions, backward_with};
use super::batch::{NextTokenBatch, Targets, input};
use super::neftune::noise;
use super::predictions::Predictions;
use super::routers::{RouterSums, RouterTerms};
use crate::error::{Error, Result};
use crate::model::{CausalLm, ExpertLoads, ExpertsConfig, RouterScores, TokenStats};

/// Weights of the parts of the loss.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct LossConfig {
    /// On the mean over targets of `logsumexp(logits)^2`.
    pub z_loss: f64,
    /// On targets that are image codes.
    pub image_weight: f64,
    /// On all other targets.
    pub text_weight: f64,
    /// Strength `a` of noise on the embeddings of texts while training, 5 to 15 (NEFTune, arXiv 2310.05914): uniform
    /// within `a / sqrt(length width)`, with the length of the document, where TRL takes that of the padded row. 0: none.
    #[serde(skip_serializing_if = "is_0")]
    pub neftune_noise_alpha: f64,
    /// On the mean over tokens and sparse layers of `logsumexp(router logits)^2` (arXiv 2202.08906 equation 5).
    #[serde(skip_serializing_if = "is_0")]
    pub router_z_loss: f64,
    /// How far each step moves the selection bias of an expert that had more or fewer tokens of the step than the mean
    /// of its layer (DeepSeek-V3, arXiv 2412.19437 section 2.1.2; 0.001 there). Not a loss: it balances without one.
    #[serde(skip_serializing_if = "is_0")]
    pub bias_update_speed: f64,
}

fn is_0(number: &f64) -> bool {
    *number == 0.0
}

impl Default for LossConfig {
    fn default() -> Self {
        Self {
            z_loss: 1e-5,
            image_weight: 1.0,
            text_weight: 1.0,
            neftune_noise_alpha: 0.0,
            router_z_loss: 0.0,
            bias_update_speed: 0.0,
        }
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
            ("neftune_noise_alpha", self.neftune_noise_alpha),
            ("router_z_loss", self.router_z_loss),
            ("bias_update_speed", self.bias_update_speed),
        ];
        match weights.iter().find(|(_, weight)| !(*weight >= 0.0 && weight.is_finite())) {
            Some((key, weight)) => {
                Err(Error::invalid(format!("loss.{key} is {weight}; allowed: at least 0")))
            }
            None => Ok(()),
        }
    }

    /// Checks that a model with `experts` has what the loss is about.
    ///
    /// # Errors
    /// [`Error::Invalid`] with the key and what it needs.
    pub(in crate::train) fn validate_for(&self, experts: Option<&ExpertsConfig>) -> Result<()> {
        let has_bias = experts.is_some_and(|experts| experts.scores == RouterScores::Sigmoid);
        let sigmoid = "[model.experts] with scores = \"sigmoid\"";
        let needs = [
            ("router_z_loss", self.router_z_loss, experts.is_some(), "[model.experts]"),
            ("bias_update_speed", self.bias_update_speed, has_bias, sigmoid),
        ];
        match needs.iter().find(|(_, value, has, _)| *value != 0.0 && !has) {
            Some((key, value, _, needs)) => {
                Err(Error::invalid(format!("loss.{key} is {value}; it needs {needs}")))
            }
            None => Ok(()),
        }
    }

    /// The weight of a target, as the kernels compute with it.
    fn weight(&self, is_image: bool) -> f32 {
        (if is_image { self.image_weight } else { self.text_weight }) as f32
    }
}

/// A sum of cross-entropies in nats and the number of targets it is over.
pub type LossSum = (f64, usize);

/// The divisors of the sums of an optimizer step.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Normalizer {
    /// Sum of the targets' weights, which divides the cross-entropy.
    pub weight: f64,
    /// Number of targets, which divides the z-loss.
    pub targets: usize,
    /// Number of tokens of documents, which divides the losses of routers.
    pub tokens: usize,
}

/// What a micro-batch is a part of.
#[derive(Clone, Copy, Debug)]
pub struct MicroBatch<'a> {
    /// The divisors of the step.
    pub normalizer: Normalizer,
    /// Loads of experts in the earlier micro-batches of the step.
    pub earlier: &'a ExpertLoads,
    /// How the backward pass obtains activations.
    pub activations: Activations,
    /// Seed of the configured noise on the embeddings; `None` for none.
    pub seed: Option<u64>,
}

/// The loss of some rows.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct NextTokenLoss {
    /// Their part of the step's loss in nats, z-loss included, and in training the losses of routers: parts of one
    /// step add up to the loss.
    pub total: f64,
    /// Cross-entropy of image targets, unweighted.
    pub image: LossSum,
    /// Cross-entropy of the other targets, unweighted.
    pub text: LossSum,
    /// Cross-entropy of all targets by source, in the order of the sources' numbers.
    pub sources: Vec<LossSum>,
    /// In training, what routers did.
    pub routers: RouterSums,
}

impl AddAssign for NextTokenLoss {
    fn add_assign(&mut self, other: Self) {
        self.total += other.total;
        add(&mut self.image, other.image);
        add(&mut self.text, other.text);
        add_each(&mut self.sources, &other.sources);
        self.routers += &other.routers;
    }
}

/// Adds each of `more` to the sum at its index.
pub(in crate::train) fn add_each(sums: &mut Vec<LossSum>, more: &[LossSum]) {
    sums.resize(sums.len().max(more.len()), (0.0, 0));
    sums.iter_mut().zip(more).for_each(|(sum, more)| add(sum, *more));
}

fn add(sum: &mut LossSum, more: LossSum) {
    sum.0 += more.0;
    sum.1 += more.1;
}

/// The targets of `batch` and the cross-entropy of each in nats, without gradients.
pub fn cross_entropies(model: &CausalLm, batch: &NextTokenBatch) -> (Targets, Vec<f32>) {
    let (targets, stats) = stats_of(model, batch);
    (targets, stats.iter().map(|stats| -stats.log_prob).collect())
}

fn stats_of(model: &CausalLm, batch: &NextTokenBatch) -> (Targets, Vec<TokenStats>) {
    let hidden = model.hidden(input(model, &batch.packed)); // [rows, seq, hidden]
    let targets = Targets::of(batch);
    let stats = Predictions::new(model, hidden, &targets).stats();
    (targets, stats)
}

/// The objective of pre-training and supervised fine-tuning.
#[derive(Clone, Debug)]
pub struct NextToken {
    /// Weights of the parts.
    pub config: LossConfig,
}

impl NextToken {
    /// The normaliser of a step over all of `batches`.
    pub fn normalizer(&self, batches: &[NextTokenBatch]) -> Normalizer {
        let mut sums = Normalizer::default();
        for batch in batches {
            sums.tokens += batch.packed.num_tokens();
            let tokens = batch.packed.loss_mask.iter().zip(&batch.is_image);
            for (_, &is_image) in tokens.filter(|(is_target, _)| **is_target) {
                sums.weight += f64::from(self.config.weight(is_image));
                sums.targets += 1;
            }
        }
        sums
    }

    /// The loss of `model` over `batch` alone, without gradients. Without a target everything is 0.
    pub fn loss(&self, model: &CausalLm, batch: &NextTokenBatch) -> NextTokenLoss {
        let (targets, stats) = stats_of(model, batch);
        let normalizer = self.normalizer(std::slice::from_ref(batch));
        self.sums(&targets, &stats, normalizer)
    }

    /// The gradients of every weight of `model`, which lies on an autodiff device, over a micro-batch of a
    /// step whose sums are `normalizer`, and the micro-batch's part of the loss. Both add up over the step.
    pub fn gradients(
        &self,
        model: &CausalLm,
        batch: &NextTokenBatch,
        normalizer: Normalizer,
        activations: Activations,
    ) -> (GradientsParams, NextTokenLoss) {
        let earlier = &ExpertLoads::default();
        self.gradients_of(model, batch, MicroBatch { normalizer, earlier, activations, seed: None })
    }

    /// As [`Self::gradients`] for a micro-batch after others, and with noise.
    pub fn gradients_of(
        &self,
        model: &CausalLm,
        batch: &NextTokenBatch,
        MicroBatch { normalizer, earlier, activations, seed }: MicroBatch<'_>,
    ) -> (GradientsParams, NextTokenLoss) {
        let targets = Targets::of(batch);
        let norm = divisor(normalizer) as f32;
        let weight = |&is_image: &bool| self.config.weight(is_image) / norm;
        let weights: Vec<f32> = targets.is_image.iter().map(weight).collect();
        let z = self.config.z_loss / normalizer.targets.max(1) as f64;
        let alpha = self.config.neftune_noise_alpha;
        let noise = seed.filter(|_| alpha > 0.0).map(|seed| noise(batch, model, alpha, seed));
        let experts = model.experts();
        let balance = experts.map_or(0.0, |experts| experts.router_aux_loss_coef);
        let routers = RouterTerms {
            factors: [balance, self.config.router_z_loss],
            choices: experts.map(ExpertsConfig::choices).unwrap_or_default(),
            tokens: normalizer.tokens,
            earlier,
            is_image: &batch.is_image,
        };
        let additions = Additions { noise, routers: Some(routers) };
        let loss = |hidden| {
            let predictions = Predictions::new(model, hidden, &targets);
            let (surrogate, stats) = predictions.surrogate(&weights, z);
            (surrogate, self.sums(&targets, &stats, normalizer))
        };
        let (gradients, mut loss, (routers, added)) =
            backward_with(model, &batch.packed, activations, additions, loss);
        loss.total += added;
        (gradients, NextTokenLoss { routers, ..loss })
    }

    fn sums(
        &self,
        targets: &Targets,
        stats: &[TokenStats],
        normalizer: Normalizer,
    ) -> NextTokenLoss {
        let (norm, count) = (divisor(normalizer), normalizer.targets as f64);
        let mut loss = NextTokenLoss::default();
        let num_sources = targets.sources.iter().max().map_or(0, |source| *source as usize + 1);
        loss.sources.resize(num_sources, (0.0, 0));
        for (target, TokenStats { log_prob, log_sum_exp, .. }) in stats.iter().enumerate() {
            let (nll, is_image) = (-log_prob, targets.is_image[target]);
            loss.total += f64::from(nll * self.config.weight(is_image)) / norm;
            loss.total += self.config.z_loss * f64::from(log_sum_exp * log_sum_exp) / count;
            let modality = if is_image { &mut loss.image } else { &mut loss.text };
            for sum in [modality, &mut loss.sources[targets.sources[target] as usize]] {
                add(sum, (f64::from(nll), 1));
            }
        }
        loss
    }
}

/// The sum of weights, but not 0: where all weights are 0, so is the loss.
fn divisor(normalizer: Normalizer) -> f64 {
    normalizer.weight.max(f64::from(f32::MIN_POSITIVE))
}
