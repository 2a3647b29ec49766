//! The interface between generation and a model.

use std::ops::Range;

use super::draw::{Draw, Drawn};
use crate::error::Result;

pub use crate::model::BLOCK;

/// Tokens of one lane that pass through the model together, and the logits wanted of them.
#[derive(Clone, Debug)]
pub struct Span<'a> {
    /// The blocks of the lane's keys and values, in order: those of token `t` are in `blocks[t / BLOCK]` at
    /// `t % BLOCK`. Blocks that only hold tokens before `start` may belong to other lanes as well.
    pub blocks: &'a [u32],
    /// The lane's tokens that the cache holds already, which is the position of the first of `ids`.
    pub start: usize,
    /// The new tokens; at least one.
    pub ids: &'a [u32],
    /// The number of ids, counted from the last one, whose logits are wanted.
    pub wanted: usize,
    /// The vocabulary ids whose logits are wanted.
    pub columns: Range<usize>,
}

/// A causal language model as the engine sees it: spans of ids in, logits of the wanted rows out.
///
/// Logits and drawn ids are on the host, so the engine needs no tensor type and tests can use a scripted model.
pub trait LanguageModel {
    /// Blocks of the keys and values of ids that the model has processed.
    type Cache;

    /// The number of logits per row; at least the number of ids in the vocabulary.
    fn vocab_size(&self) -> usize;

    /// Maximum number of ids in a lane, prompt and continuation together.
    fn context(&self) -> usize;

    /// Bytes of one block of [`BLOCK`] tokens.
    fn block_bytes(&self) -> usize;

    /// A cache of `blocks` blocks, allocated at once.
    fn new_cache(&self, blocks: usize) -> Self::Cache;

    /// Runs all spans in one pass: writes their keys and values to the cache and returns, for each span, the
    /// unmasked logits after each of its last `wanted` ids, each over `columns`.
    ///
    /// An id of a span sees the lane's tokens before it, in the cache and in the span, and nothing else. A
    /// row's logits do not depend on the other rows of the pass where the model promises so
    /// ([`ServingModel`](super::ServingModel) does for f32 on the CPU). No two spans are of one lane.
    ///
    /// # Shapes
    /// `[spans][wanted][columns]`.
    ///
    /// # Errors
    /// If an id, a block or a position is out of range, or the device fails.
    fn pass(&self, spans: &[Span<'_>], cache: &mut Self::Cache) -> Result<Vec<Vec<Vec<f32>>>>;

    /// Whether the model draws where its logits are, so that the engine had better ask for ids than for logits.
    fn draws(&self) -> bool {
        false
    }

    /// As [`pass`](Self::pass), but draws ids from the logits: for each of `draws` an id for each of its positions. The
    /// same ids as [`Draw::on_host`] draws, but for rounding where two ids are equally good.
    ///
    /// # Errors
    /// Those of [`pass`](Self::pass).
    fn pass_drawn(
        &self,
        spans: &[Span<'_>],
        draws: &[Draw],
        cache: &mut Self::Cache,
    ) -> Result<Vec<Vec<Drawn>>> {
        let logits = self.pass(spans, cache)?;
        let drawn = |draw: &Draw| {
            let row = |&span: &usize| -> &[f32] { &logits[span][draw.row] };
            let rows: Vec<&[f32]> = draw.spans.iter().map(row).collect();
            draw.on_host(spans[draw.spans[0]].columns.start as u32, &rows)
        };
        Ok(draws.iter().map(drawn).collect())
    }

    /// Makes every use of what the blocks hold visible, for tests of the engine: they are filled with NaN.
    fn poison(&self, blocks: &[u32], cache: &mut Self::Cache);
}
