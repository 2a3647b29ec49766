//! The losses over completions, under the names of TRL 1.16.

use serde::{Deserialize, Serialize};

/// A loss over the tokens of completions, and how it is averaged.
///
/// With the advantage `A`, the ratio `w` of policy to old policy and `clip(w)` = `w` within
/// [1 - epsilon, 1 + epsilon_high], the first five have the token loss `-min(w A, clip(w) A)`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum PolicyLossType {
    /// The mean over completions of their means over tokens: GRPO, arXiv 2402.03300.
    Grpo,
    /// The mean over all tokens of a batch, here of the step.
    Bnpo,
    /// The sum over tokens divided by completions times `max_completion_length`: Dr. GRPO, arXiv 2503.20783.
    DrGrpo,
    /// The mean over all tokens of the step: DAPO, arXiv 2503.14476.
    #[default]
    Dapo,
    /// The mean over completions of their sums over tokens, for ratios of sequences: LUSPO, arXiv 2602.05261.
    Luspo,
    /// `-min(w, epsilon_high) A ln p` with a constant weight, averaged like `dapo`: CISPO, arXiv 2506.13585.
    Cispo,
    /// `-4 s(t (w - 1)) A / t` with the logistic function `s`, averaged like `grpo`: SAPO, arXiv 2511.20347.
    Sapo,
    /// `-phi A ln p`, `ln phi = l + k ln W - l W` of the sequence's ratio `W`, a constant, averaged like
    /// `dapo`: VESPO, arXiv 2602.10693.
    Vespo,
}

impl PolicyLossType {
    /// Whether the loss clips ratios on either side.
    pub fn clips(self) -> bool {
        !matches!(self, Self::Cispo | Self::Sapo | Self::Vespo)
    }
}

/// Over what the ratio of policy to old policy is taken.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum RatioLevel {
    /// Each token has its own.
    #[default]
    Token,
    /// All tokens have the geometric mean over the completion: GSPO, arXiv 2507.18071.
    Sequence,
}
