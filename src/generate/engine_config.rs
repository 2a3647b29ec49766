//! The limits of an engine.

use super::window::Window;

/// The limits of an engine.
#[derive(Clone, Debug)]
pub struct EngineConfig {
    /// Maximum bytes of keys and values.
    pub cache_bytes: usize,
    /// Whether the first step allocates all of `cache_bytes`, rather than what the requests that are queued
    /// by then can use at once: at least what the largest of them needs, even if that is more.
    pub whole_cache: bool,
    /// Rows per pass, from 64 up. Running requests alone may need more, and a waiting prompt gets a chunk of up to
    /// 64 rows in any pass.
    pub rows: usize,
    /// How many ids are guessed ahead. What a constraint forces is run ahead as far as a pass has rows, unless this is
    /// off.
    pub window: Window,
    /// Whether prompts that begin alike share what they have in common.
    pub prefix_cache: bool,
    /// Fills blocks with NaN when their content is stale, for tests.
    pub poison_freed: bool,
}

impl Default for EngineConfig {
    fn default() -> Self {
        Self {
            cache_bytes: 1 << 30,
            whole_cache: true,
            rows: 256,
            window: Window::Auto,
            prefix_cache: true,
            poison_freed: false,
        }
    }
}
