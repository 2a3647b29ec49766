//! The objectives of language-model training.
//!
//! Every objective over token probabilities uses the same three steps:
//!
//! 1. [`Predictions`] picks the hidden states that predict the [`Targets`] of a batch.
//! 2. [`Predictions::stats`] gives each target's log-probability, the entropy of its distribution and whether
//!    it was the top choice, a chunk of logits at a time and without gradients.
//! 3. [`Predictions::surrogate`] takes a signed weight for each target and puts the gradient of
//!    `sum_i -weight_i * log_prob_i` on the tape.
//!
//! An objective whose weights depend on the log-probabilities (preference, clipped policy gradient)
//! takes all three and computes the logits twice; one whose weights are known beforehand
//! ([`NextToken`]) skips the second, since the third returns the same statistics. [`backward`]
//! carries the gradient through the model, with or without activation checkpointing. An objective
//! that needs no probabilities (a value function) passes its own scalar of the hidden states to
//! [`backward`].
//!
//! The losses of post-training are plain functions in f64, without a model: [`preference`] and [`policy`] of
//! the log-probabilities of tokens, with the gradient whose negative is the weights of step 3, and
//! [`reward_model`] and [`policy::value`] of scalars of the hidden states.

mod backward;
mod batch;
#[cfg(test)]
mod finite_differences;
mod logistic;
mod metrics;
mod neftune;
mod next_token;
pub mod policy;
mod predictions;
pub mod preference;
pub mod reward_model;
mod routers;
#[cfg(test)]
mod tests;

pub(super) use backward::hidden_of;
pub use backward::{Activations, Additions, backward, backward_with};
pub(super) use batch::input;
pub use batch::{NextTokenBatch, Targets};
pub use metrics::Metrics;
pub(super) use metrics::mean;
pub(super) use next_token::add_each;
pub use next_token::{
    LossConfig, LossSum, MicroBatch, NextToken, NextTokenLoss, Normalizer, cross_entropies,
};
pub(super) use predictions::predictors;
pub use predictions::{Predictions, logit_rows};
pub use routers::{RouterSums, RouterTerms};

pub use crate::model::TokenStats;
