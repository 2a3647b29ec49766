//! Pairs of answers as policy and reference score them, and what a loss over them returns.

use super::config::PreferenceConfig;
use crate::error::{Error, Result};
use crate::train::objective::metrics::Metrics;

/// Log-probabilities of an answer under the reference model, in nats.
#[derive(Clone, Debug, Default, PartialEq)]
pub enum Reference {
    /// Not computed: for losses without a reference.
    #[default]
    None,
    /// The sum over the tokens.
    Sum(f64),
    /// Of each token: for `ld_alpha`.
    Tokens(Vec<f64>),
}

/// An answer: the tokens that are learnt, its end included. Tokens that the grammar forces have
/// log-probability 0 and are best left out.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Answer {
    /// The policy's log-probability of each token in nats.
    pub log_probs: Vec<f64>,
    /// The same answer under the reference model.
    pub reference: Reference,
    /// `ln sum_v p_v^2` of the distribution that each token was drawn from: for `use_weighting`, otherwise
    /// empty.
    pub log_sum_sq_probs: Vec<f64>,
}

/// Two answers to one prompt.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Pair {
    /// The preferred answer.
    pub chosen: Answer,
    /// The other one.
    pub rejected: Answer,
    /// The policy's log-probabilities of the prompt's tokens before the chosen answer, which `orpo` counts
    /// in its negative log-likelihood; empty: it counts the answer alone.
    pub prompt_log_probs: Vec<f64>,
}

/// The derivatives of a loss with respect to the log-probabilities of a [`Pair`].
#[derive(Clone, Debug, Default, PartialEq)]
pub struct PairGradient {
    /// For each token of the chosen answer.
    pub chosen: Vec<f64>,
    /// For each token of the rejected answer.
    pub rejected: Vec<f64>,
    /// For each of `prompt_log_probs`.
    pub prompt: Vec<f64>,
}

/// The loss over pairs.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct PairLoss {
    /// The mean over pairs, of all losses together.
    pub loss: f64,
    /// One entry for each pair.
    pub gradient: Vec<PairGradient>,
    /// `rewards/{chosen,rejected,margins,accuracies}` and `logps/{chosen,rejected}`; `nll_loss` where a
    /// negative log-likelihood is a part; `log_odds_ratio` and `log_odds_chosen` of `orpo`.
    pub metrics: Metrics,
}

impl Answer {
    /// The sum of the policy's log-probabilities, each times its weight.
    pub(super) fn log_prob(&self, weights: &[f64]) -> f64 {
        weighted(&self.log_probs, weights)
    }

    /// The same sum under the reference; of a given sum the weights are taken to be 1.
    pub(super) fn reference(&self, weights: &[f64]) -> f64 {
        match &self.reference {
            Reference::None => 0.0,
            Reference::Sum(sum) => *sum,
            Reference::Tokens(log_probs) => weighted(log_probs, weights),
        }
    }

    /// Number of tokens.
    pub(super) fn len(&self) -> f64 {
        self.log_probs.len() as f64
    }

    /// Checks that the lists fit together and that what `config` needs is there.
    fn check(&self, config: &PreferenceConfig) -> std::result::Result<(), String> {
        let len = self.log_probs.len();
        let reference = match &self.reference {
            Reference::Tokens(log_probs) if log_probs.len() != len => {
                return Err(format!(
                    "{} reference log-probabilities for {len} tokens",
                    log_probs.len()
                ));
            }
            reference => reference,
        };
        if len == 0 {
            return Err("no tokens".to_owned());
        }
        if config.needs_reference() && matches!(reference, Reference::None) {
            return Err("no log-probability under the reference, which the loss needs".to_owned());
        }
        if config.needs_reference_tokens() && !matches!(reference, Reference::Tokens(_)) {
            return Err("ld_alpha needs the reference's log-probability of each token".to_owned());
        }
        if config.use_weighting && self.log_sum_sq_probs.len() != len {
            let found = self.log_sum_sq_probs.len();
            return Err(format!(
                "use_weighting needs a log_sum_sq_probs for each of {len} tokens, not {found}"
            ));
        }
        Ok(())
    }
}

/// Checks every pair.
///
/// # Errors
/// [`Error::Invalid`] with the number of the pair and what it lacks.
pub(super) fn check(config: &PreferenceConfig, pairs: &[Pair]) -> Result<()> {
    if pairs.is_empty() {
        return Err(Error::invalid("a preference loss needs a pair"));
    }
    for (number, pair) in pairs.iter().enumerate() {
        for (which, answer) in [("chosen", &pair.chosen), ("rejected", &pair.rejected)] {
            answer.check(config).map_err(|message| {
                Error::invalid(format!("pair {number}, {which} answer: {message}"))
            })?;
        }
    }
    Ok(())
}

fn weighted(values: &[f64], weights: &[f64]) -> f64 {
    values.iter().zip(weights).map(|(value, weight)| value * weight).sum()
}
