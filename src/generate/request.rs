//! Requests, events and results of generation.

use vq_tokenizer::Codes;

/// A prompt with the seed of its random stream.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Request {
    /// Ids from begin-of-text on; may end inside an image block.
    pub prompt: Vec<u32>,
    /// Seed of all random draws of this request.
    pub seed: u64,
}

/// A step of a request, in order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    /// A text id was drawn.
    Text(u32),
    /// An image began.
    ImageStart,
    /// A code of an image was drawn.
    ImageProgress {
        /// Codes of the image so far.
        done: usize,
        /// Codes of the whole image.
        total: usize,
    },
    /// An image was completed.
    Image(Codes),
    /// The request ended.
    End(EndReason),
}

/// Why a request ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum EndReason {
    /// This stop id was drawn; it is the last id of the row.
    Stop(u32),
    /// `max_new_tokens` ids were added.
    MaxNewTokens,
    /// The model's context is full.
    Context,
    /// The image of [`GenerationMode::ImageOnly`](super::GenerationMode::ImageOnly) is complete.
    ImageComplete,
}

/// The continuation of a prompt.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Generated {
    /// All new ids, the stop id included.
    pub ids: Vec<u32>,
    /// The completed images, in order.
    pub images: Vec<Codes>,
    /// Why it ended.
    pub end: EndReason,
}
