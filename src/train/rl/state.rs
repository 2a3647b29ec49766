//! What a checkpoint holds besides weights and optimizer state.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::rollouts::{Answer, total};
use crate::data::Prompt;
use crate::model::TokenStats;
use crate::train::objective::policy::EntropyControl;
use crate::train::reward::Failures;

/// The progress of a run.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub(super) struct RlState {
    /// Prompts drawn so far.
    pub(super) drawn: u64,
    /// Tokens trained on.
    pub(super) tokens: u64,
    /// Steps without an update, since the rewards of every group were equal.
    pub(super) without_signal: u64,
    /// Digest of both tokenizers.
    pub(super) tokenizer: String,
    /// What has gone wrong with rewards, by their names.
    #[serde(default)]
    pub(super) failures: BTreeMap<String, Failures>,
    /// What holds the entropy at its target, after the first update.
    #[serde(default)]
    pub(super) entropy: Option<EntropyControl>,
    /// The answers that the next update is on; `None` if new ones are to be drawn.
    pub(super) batch: Option<Batch>,
}

/// Answers to learn from.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub(super) struct Batch {
    /// Updates so far.
    pub(super) iteration: usize,
    /// The answers, group by group.
    pub(super) rows: Vec<Row>,
}

/// An answer to learn from. Numbers are kept as bits, since JSON may round them.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub(super) struct Row {
    /// Prompt and answer.
    pub(super) ids: Vec<u32>,
    /// Number of ids of the prompt.
    pub(super) prompt_len: usize,
    /// Whether the answer was cut off.
    pub(super) is_truncated: bool,
    /// The advantage.
    pub(super) advantage: u64,
    /// The log-probabilities before the first update, if there are several.
    pub(super) old: Option<Vec<u32>>,
    /// Those of the reference, if the loss needs it.
    pub(super) reference: Option<Vec<u32>>,
    /// Those that the answer was drawn with, if they differ from the policy's.
    pub(super) sampler: Option<Vec<u32>>,
    /// The weighted sum of the rewards, if there is one.
    #[serde(default)]
    pub(super) reward: Option<u64>,
    /// What the value function said before the first update, if there is one.
    #[serde(default)]
    pub(super) values: Option<Vec<u32>>,
}

impl Row {
    /// The weighted sum of the rewards.
    pub(super) fn reward(&self) -> Option<f64> {
        self.reward.map(f64::from_bits)
    }
}

impl Batch {
    /// Answers to `prompts` with their advantages; rewards have the weights `weights`.
    pub(super) fn of<'a>(
        answers: impl Iterator<Item = (&'a Answer, f64)>,
        prompts: &[Prompt],
        weights: &[f64],
    ) -> Self {
        let row = |(answer, advantage): (&Answer, f64)| {
            let prompt = &prompts[answer.prompt].ids;
            Row {
                ids: [&prompt[..], &answer.ids].concat(),
                prompt_len: prompt.len(),
                is_truncated: answer.is_truncated,
                advantage: advantage.to_bits(),
                reward: total(&answer.rewards, weights).map(f64::to_bits),
                ..Row::default()
            }
        };
        Self { iteration: 0, rows: answers.map(row).collect() }
    }
}

/// The bits of numbers that were computed in f32.
pub(super) fn bits_of(numbers: &[f64]) -> Vec<u32> {
    numbers.iter().map(|number| (*number as f32).to_bits()).collect()
}

/// The bits of log-probabilities.
pub(super) fn bits(stats: &[TokenStats]) -> Vec<u32> {
    stats.iter().map(|stats| stats.log_prob.to_bits()).collect()
}

/// The numbers with these bits.
pub(super) fn numbers(bits: &[u32]) -> Vec<f64> {
    bits.iter().map(|bits| f64::from(f32::from_bits(*bits))).collect()
}
