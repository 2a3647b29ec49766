//! Drawing text and images from a language model: one loop for single, batched and guided work.
//!
//! The model is asked for logits only ([`LanguageModel`]); which ids may follow is decided by the
//! state machine in [`modality`], how one is drawn by [`sampling`], and how the branches of
//! classifier-free guidance are mixed by [`guidance`]. [`generator`] joins them. The rules are
//! those of the original release (facebookresearch/chameleon, `chameleon/inference/`).

pub mod config;
mod decoder;
pub mod generator;
pub mod guidance;
pub mod modality;
mod preset;
pub mod prompt;
mod rows;
pub mod sampling;
mod serving;

pub use config::{GenerationConfig, GenerationMode, SamplingConfig};
pub use generator::{EndReason, Event, Generated, Generator, Request};
pub use guidance::{Branch, Guidance};
pub use modality::{ModalityRules, ModalityState};
pub use preset::Preset;
pub use prompt::{FormPiece, PromptForms};
pub use serving::{ServingCache, ServingModel};

use crate::error::Result;

/// A causal language model as the generator sees it: rows of ids in, next-id logits out.
///
/// The values live on the host, so that the generator needs no tensor type and tests can use a
/// scripted model.
pub trait LanguageModel {
    /// What the model remembers about the rows it was given.
    type Cache;

    /// How many logits there are per row; at least the number of ids of the vocabulary.
    fn vocab_size(&self) -> usize;

    /// The most ids that one row may hold, prompt and continuation together.
    fn context(&self) -> usize;

    /// An empty cache for `batch` rows and `capacity` columns, allocated at once.
    ///
    /// Every call of [`next_logits`](Self::next_logits) fills as many columns as its longest row
    /// has ids. With rows of unequal length the columns can outnumber
    /// [`context`](Self::context); the positions of a row's ids never do.
    fn new_cache(&self, batch: usize, capacity: usize) -> Self::Cache;

    /// Appends `rows[r]` to row `r` of the cache and returns the logits after its last id, one
    /// vector of [`vocab_size`](Self::vocab_size) values per row, unmasked.
    ///
    /// Rows may differ in length at every call: shorter ones are padded on the left with columns
    /// that no id ever attends to, and positions count a row's own ids from 0. An empty row sits
    /// the call out: nothing is appended to it, and what is returned for it has no meaning. At
    /// least one row has ids. `rows.len()` is the cache's batch.
    ///
    /// # Errors
    /// When the columns or a row's positions are exhausted, or the device fails.
    fn next_logits(&self, rows: &[Vec<u32>], cache: &mut Self::Cache) -> Result<Vec<Vec<f32>>>;
}
