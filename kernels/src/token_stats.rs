//! Statistics of a distribution over the next token.

/// The distribution `softmax(logits)` over one token and its target, from finite logits.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct TokenStats {
    /// Log-probability of the target in nats, at most 0: `logits[target] - log_sum_exp`.
    pub log_prob: f32,
    /// `ln(sum_j exp(logits[j]))`, which the z-loss squares.
    pub log_sum_exp: f32,
    /// Entropy of the distribution in nats, from 0 to `ln(vocab)`: `-sum_j p_j ln(p_j)`.
    pub entropy: f32,
    /// Whether no other token has a larger logit than the target.
    pub is_top: bool,
}
