//! Completions as policy, old policy, reference and sampler score them, and what a loss over them returns.

use super::config::PolicyConfig;
use crate::error::{Error, Result};
use crate::train::objective::metrics::Metrics;

/// How much better than expected a completion is.
#[derive(Clone, Debug, PartialEq)]
pub enum Advantage {
    /// Of the completion, for each of its tokens (GRPO).
    Completion(f64),
    /// Of each token ([`value::advantages`](super::value::ValueConfig::advantages)).
    Tokens(Vec<f64>),
}

impl Advantage {
    /// That of a token.
    pub(super) fn at(&self, token: usize) -> f64 {
        match self {
            Self::Completion(advantage) => *advantage,
            Self::Tokens(advantages) => advantages[token],
        }
    }
}

/// A sampled completion: the tokens that are learnt, with log-probabilities in nats at the sampling
/// temperature. Tokens that the grammar forces are best left out.
#[derive(Clone, Debug, PartialEq)]
pub struct Completion {
    /// Under the policy.
    pub log_probs: Vec<f64>,
    /// Under the policy before the first update on these completions; unset: the policy itself, so that the
    /// ratio is 1 with a gradient.
    pub old_log_probs: Option<Vec<f64>>,
    /// Under the reference, for `beta`.
    pub ref_log_probs: Option<Vec<f64>>,
    /// As the sampler computed them, for `sampler_correction` and `off_policy_mask_threshold`.
    pub sampler_log_probs: Option<Vec<f64>>,
    /// Entropy in nats of each token's distribution.
    pub entropies: Option<Vec<f64>>,
    /// The advantage.
    pub advantage: Advantage,
    /// Whether the completion was cut off at the greatest length.
    pub is_truncated: bool,
}

impl Completion {
    /// A completion of the current policy.
    pub fn new(log_probs: Vec<f64>, advantage: f64) -> Self {
        Self {
            log_probs,
            old_log_probs: None,
            ref_log_probs: None,
            sampler_log_probs: None,
            entropies: None,
            advantage: Advantage::Completion(advantage),
            is_truncated: false,
        }
    }

    /// The old policy's log-probabilities.
    pub(super) fn old(&self) -> &[f64] {
        self.old_log_probs.as_ref().unwrap_or(&self.log_probs)
    }

    /// The log-probabilities that the completion was sampled with.
    pub(super) fn sampled(&self) -> &[f64] {
        self.sampler_log_probs.as_deref().unwrap_or_else(|| self.old())
    }

    fn check(&self, config: &PolicyConfig, has_bonus: bool) -> std::result::Result<(), String> {
        let len = self.log_probs.len();
        let advantages = match &self.advantage {
            Advantage::Completion(_) => None,
            Advantage::Tokens(advantages) => Some(advantages),
        };
        let lists = [
            ("advantages", advantages, false),
            ("old_log_probs", self.old_log_probs.as_ref(), false),
            ("ref_log_probs", self.ref_log_probs.as_ref(), config.needs_reference()),
            (
                "sampler_log_probs",
                self.sampler_log_probs.as_ref(),
                config.sampler_correction.is_some(),
            ),
            ("entropies", self.entropies.as_ref(), has_bonus || config.needs_entropies()),
        ];
        if len == 0 {
            return Err("no tokens".to_owned());
        }
        for (name, list, is_needed) in lists {
            match list {
                Some(list) if list.len() != len => {
                    return Err(format!("{} {name} for {len} tokens", list.len()));
                }
                None if is_needed => return Err(format!("the loss needs {name}")),
                _ => {}
            }
        }
        Ok(())
    }
}

/// The loss over completions.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct PolicyLoss {
    /// The loss.
    pub loss: f64,
    /// The derivative with respect to each token's log-probability, a list for each completion.
    pub gradient: Vec<Vec<f64>>,
    /// The derivative with respect to each token's entropy: not 0 only with an entropy coefficient.
    pub entropy_gradient: Vec<Vec<f64>>,
    /// Mean entropy of the tokens that an entropy coefficient acts on, if entropies were given: what
    /// [`EntropyControl`](super::EntropyControl) takes.
    pub entropy: Option<f64>,
    /// `kl`, `entropy`, `clip_ratio/{low_mean,high_mean,region_mean,low_min,high_max}`, `cispo_clip_ratio`,
    /// `vespo/phi_seq_mean`, `policy_loss` and `entropy_coef`,
    /// `sampling/importance_sampling_ratio/{min,mean,max}` and
    /// `sampling/sampling_logp_difference/{mean,max}`, where they apply.
    pub metrics: Metrics,
}

/// Checks every completion; `has_bonus` says whether entropies are a part of the loss.
///
/// # Errors
/// [`Error::Invalid`] with the number of the completion and what it lacks.
pub(super) fn check(
    config: &PolicyConfig,
    completions: &[Completion],
    has_bonus: bool,
) -> Result<()> {
    if completions.is_empty() {
        return Err(Error::invalid("a policy loss needs a completion"));
    }
    for (number, completion) in completions.iter().enumerate() {
        completion
            .check(config, has_bonus)
            .map_err(|message| Error::invalid(format!("completion {number}: {message}")))?;
    }
    Ok(())
}
