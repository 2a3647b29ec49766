//! The interface between generation and a model.

use crate::error::Result;

/// A causal language model as the generator sees it: rows of ids in, logits of the next id out.
///
/// Logits are on the host, so the generator needs no tensor type and tests can use a scripted model.
pub trait LanguageModel {
    /// The keys and values of the ids that the model has processed.
    type Cache;

    /// The number of logits per row; at least the number of ids in the vocabulary.
    fn vocab_size(&self) -> usize;

    /// Maximum number of ids in a row, prompt and continuation together.
    fn context(&self) -> usize;

    /// An empty cache for `batch` rows and `capacity` columns, allocated at once.
    ///
    /// Each call of [`next_logits`](Self::next_logits) fills as many columns as its longest row
    /// has ids. If rows differ in length, columns can outnumber [`context`](Self::context); the
    /// positions of a row's ids never do.
    fn new_cache(&self, batch: usize, capacity: usize) -> Self::Cache;

    /// Appends `rows[r]` to row `r` of the cache and returns the logits after its last id, one
    /// vector of [`vocab_size`](Self::vocab_size) values per row, unmasked.
    ///
    /// Rows may differ in length in every call: shorter ones are padded on the left with columns
    /// that no id attends to, and positions count a row's own ids from 0. Nothing is appended for
    /// an empty row, and its logits are meaningless. At least one row has ids; `rows.len()` is the
    /// cache's batch.
    ///
    /// # Errors
    /// If columns or positions run out, or the device fails.
    fn next_logits(&self, rows: &[Vec<u32>], cache: &mut Self::Cache) -> Result<Vec<Vec<f32>>>;
}
