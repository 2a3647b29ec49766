//! One request in progress.

use rand::SeedableRng;
use rand_chacha::ChaCha8Rng;
use vq_tokenizer::Codes;

use super::modality::{GenerationMode, ModalityRules, ModalityState};
use super::request::{EndReason, Generated, Request};
use crate::error::{Error, Result};

/// A request in progress.
pub(super) struct Row {
    /// The prompt and everything added to it.
    pub(super) ids: Vec<u32>,
    /// The position of the last begin-image id.
    pub(super) block_start: usize,
    pub(super) state: ModalityState,
    /// Maximum number of ids in this row.
    pub(super) limit: usize,
    pub(super) rng: ChaCha8Rng,
    pub(super) images: Vec<Codes>,
    pub(super) end: EndReason,
    prompt_len: usize,
}

impl Row {
    /// The row of `request` before the first step.
    ///
    /// # Errors
    /// If the prompt is malformed; [`Error::PromptTooLong`] if it leaves too little of `context`.
    pub(super) fn new(
        request: &Request,
        rules: &ModalityRules,
        max_new_tokens: Option<usize>,
        context: usize,
    ) -> Result<Self> {
        let ids = request.prompt.clone();
        let state = rules.state_after(&ids)?;
        let len = ids.len();
        let image_only = rules.mode() == GenerationMode::ImageOnly;
        // A requested image is completed regardless of max_new_tokens.
        let needed = match state {
            ModalityState::Text if !image_only => 1,
            _ => rules.least_to_complete(state),
        };
        if len + needed > context {
            return Err(Error::PromptTooLong { prompt: len, needed, context });
        }
        let any_size = image_only && rules.blocks().are_sized();
        let budget = max_new_tokens.filter(|_| !any_size).unwrap_or(context).max(needed);
        Ok(Self {
            block_start: ids.iter().rposition(|&id| id == rules.begin_image()).unwrap_or(0),
            ids,
            state,
            limit: len.saturating_add(budget).min(context),
            prompt_len: len,
            rng: ChaCha8Rng::seed_from_u64(request.seed),
            images: Vec::new(),
            end: EndReason::Context,
        })
    }

    /// How many more ids the row may have.
    pub(super) fn available(&self) -> usize {
        self.limit - self.ids.len()
    }

    /// The continuation of the prompt.
    pub(super) fn finish(self) -> Generated {
        let ids = self.ids[self.prompt_len..].to_vec();
        Generated { ids, images: self.images, end: self.end }
    }
}
