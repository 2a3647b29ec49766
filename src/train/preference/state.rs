//! What a checkpoint of a preference run holds besides weights and optimizer state.

use serde::{Deserialize, Serialize};

/// The progress of a run.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub(super) struct PreferenceState {
    /// Pairs drawn so far.
    pub(super) drawn: u64,
    /// Tokens trained on.
    pub(super) tokens: u64,
    /// Digest of both tokenizers.
    pub(super) tokenizer: String,
    /// Digest of the pairs, whose order follows from their number.
    pub(super) pairs: String,
    /// Whether the fall of the chosen answers' probability has been told.
    pub(super) warned: bool,
}
