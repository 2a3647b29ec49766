//! Counters of an engine.

/// What an engine has done, and what it holds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct EngineStats {
    /// Passes of the model.
    pub passes: usize,
    /// Rows of all passes.
    pub rows: usize,
    /// Passes of requests inside images, counted per request.
    pub image_passes: usize,
    /// Ids of images that were drawn in them.
    pub image_ids: usize,
    /// Passes of requests outside images, after their prompts, counted per request.
    pub text_passes: usize,
    /// Text ids that were drawn in them.
    pub text_ids: usize,
    /// Tokens of prompts that another prompt had computed.
    pub prefix_hits: usize,
    /// Blocks of running requests.
    pub blocks_used: usize,
    /// All blocks; 0 before the first step.
    pub blocks_total: usize,
    /// Requests that have been started and have not ended.
    pub running: usize,
    /// Requests that have not been started.
    pub waiting: usize,
}
