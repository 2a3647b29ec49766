//! What a checkpoint of a language-model run holds besides weights and optimizer state.

use std::path::Path;

use serde::{Deserialize, Serialize};

use super::trained::TRAINER_DIR;
use crate::data::StreamState;
use crate::error::{Error, Result};
use crate::files::{read_json, write_json};

/// File in the [trainer directory](TRAINER_DIR).
const FILE: &str = "state.json";

/// The progress of a run.
#[derive(Serialize, Deserialize)]
pub(super) struct LanguageState {
    /// Position in the data.
    pub(super) stream: StreamState,
    /// Tokens trained on.
    pub(super) tokens: u64,
    /// Digest of both tokenizers; empty in checkpoints of earlier versions.
    #[serde(default)]
    pub(super) tokenizer: String,
}

impl LanguageState {
    /// Writes the state to the checkpoint `dir`, whose `trainer` directory exists.
    ///
    /// # Errors
    /// Those of the file system.
    pub(super) fn save(&self, dir: &Path) -> Result<()> {
        write_json(&dir.join(TRAINER_DIR).join(FILE), self)
    }

    /// Reads the state of the checkpoint `dir` for a run with the tokenizers of digest `tokenizer`.
    ///
    /// # Errors
    /// Those of the file; [`Error::File`] if the checkpoint has other tokenizers.
    pub(super) fn load(dir: &Path, tokenizer: &str) -> Result<Self> {
        let state: Self = read_json(&dir.join(TRAINER_DIR).join(FILE))?;
        if !state.tokenizer.is_empty() && state.tokenizer != tokenizer {
            let message = format!(
                "was trained with the tokenizer {}, tokenizer.checkpoint and tokenizer.text are {tokenizer} now; \
                 name those that it began with, or choose another run.name",
                state.tokenizer
            );
            return Err(Error::file(dir, message));
        }
        Ok(state)
    }
}
