//! The engine: requests in, events out, one pass of the model per step.

use super::language_model::LanguageModel;
use super::request::{Event, Generated, Request, RequestId};
use super::window::Window;
use crate::error::{Error, Result};
use crate::tokenize::{ImageBlocks, Vocabulary};

/// The limits of an engine.
#[derive(Clone, Debug)]
pub struct EngineConfig {
    /// Maximum bytes of keys and values.
    pub cache_bytes: usize,
    /// Rows per pass, unless running requests alone need more.
    pub rows: usize,
    /// How many ids are guessed ahead.
    pub window: Window,
    /// Whether prompts that begin alike share what they have in common.
    pub prefix_cache: bool,
}

impl Default for EngineConfig {
    fn default() -> Self {
        Self { cache_bytes: 1 << 30, rows: 256, window: Window::Auto, prefix_cache: true }
    }
}

/// Requests in progress.
#[derive(Debug)]
pub struct Engine<'a, M: LanguageModel> {
    model: &'a M,
    vocabulary: &'a Vocabulary,
    blocks: ImageBlocks,
}

impl<'a, M: LanguageModel> Engine<'a, M> {
    /// An engine for image blocks in the layout `blocks`.
    ///
    /// # Errors
    /// If the model has fewer logits than the vocabulary has ids, or the grid has no codes.
    pub fn new(
        model: &'a M,
        vocabulary: &'a Vocabulary,
        blocks: impl Into<ImageBlocks>,
        _config: EngineConfig,
    ) -> Result<Self> {
        Ok(Self { model, vocabulary, blocks: blocks.into() })
    }

    /// Queues `request`.
    ///
    /// # Errors
    /// If its settings are out of range, its prompt is malformed or it can never fit.
    pub fn admit(&mut self, request: Request) -> Result<RequestId> {
        let _ = (self.model, self.vocabulary, &self.blocks, request);
        Err(Error::invalid("not built yet"))
    }

    /// Runs one pass of the model; returns what happened, in order.
    ///
    /// # Errors
    /// If the model fails.
    pub fn step(&mut self) -> Result<Vec<(RequestId, Event)>> {
        Err(Error::invalid("not built yet"))
    }

    /// Ends a request; whether it was still running or waiting.
    pub fn cancel(&mut self, id: RequestId) -> bool {
        let _ = id;
        false
    }

    /// Whether no request is running or waiting.
    pub fn is_idle(&self) -> bool {
        true
    }

    /// The result of a request that has ended, once.
    pub fn take(&mut self, id: RequestId) -> Option<Result<Generated>> {
        let _ = id;
        None
    }
}
