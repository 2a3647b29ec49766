//! Requests, events and results of generation.

use vq_tokenizer::Codes;

use super::config::GenerationConfig;
use super::constraint::Constraint;
use super::stop::StopStrings;

/// A prompt and how it is to be continued.
#[derive(Clone, Debug, Default)]
pub struct Request {
    /// Ids from begin-of-text on; may end inside an image block.
    pub prompt: Vec<u32>,
    /// Mode, limits, sampling, guidance and seed of this request.
    pub config: GenerationConfig,
    /// What is known of the first image to be drawn: the id of each code in raster order, or `None` where it is
    /// to be drawn. Empty, or as long as the image has codes.
    pub kept: Vec<Option<u32>>,
    /// The ids before the image block in the branch of guidance that lacks the prompt: those of a prompt that images
    /// are guided away from. Empty for the ids that models learn in its place.
    pub negative: Vec<u32>,
    /// Restricts the text ids; with one, no image is begun.
    pub constraint: Option<Box<dyn Constraint>>,
    /// Texts that end the request.
    pub stop: Option<StopStrings>,
    /// With each text id its log-probability and those of so many of the most likely ids in its place; `None` for neither.
    pub logprobs: Option<usize>,
    /// Requests with different salts share nothing of their prompts, such as those of different users: that a
    /// beginning is known can be timed.
    pub salt: u64,
}

impl Request {
    /// The continuation of `prompt` with the settings `config`.
    pub fn new(prompt: Vec<u32>, config: GenerationConfig) -> Self {
        Self { prompt, config, ..Self::default() }
    }
}

/// A request of one engine.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RequestId(pub(super) u64);

impl RequestId {
    /// The number of requests that the engine admitted before this one.
    pub fn index(self) -> usize {
        self.0 as usize
    }
}

/// Log-probabilities in nats of the id of a place and of the most likely ones: the model's own over all its ids, before
/// settings, rules and constraints.
#[derive(Clone, Debug, PartialEq)]
pub struct Logprobs {
    /// That of the id.
    pub of_id: f32,
    /// The most likely ids with theirs, the highest first; among equal ones the lowest id first.
    pub top: Vec<(u32, f32)>,
}

/// A step of a request, in order.
#[derive(Clone, Debug, PartialEq)]
pub enum Event {
    /// The log-probabilities of the text id that is the next event, if the request asks for them.
    Logprobs(Logprobs),
    /// A text id was drawn.
    Text(u32),
    /// An image began.
    ImageStart,
    /// A code of an image was drawn.
    ImageProgress {
        /// The code.
        code: u32,
        /// Codes of the image so far.
        done: usize,
        /// Codes of the whole image.
        total: usize,
        /// Codes of one of its rows.
        width: usize,
    },
    /// An image was completed.
    Image(Codes),
    /// The request ended.
    End(EndReason),
    /// The request failed; its result is the error.
    Failed,
}

/// Why a request ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum EndReason {
    /// This stop id was drawn; it is the last id of the row.
    Stop(u32),
    /// This one of the request's stop strings was completed; the text ends before it.
    StopString(usize),
    /// The constraint is fulfilled and allows no further id.
    Constraint,
    /// `max_new_tokens` ids were added.
    MaxNewTokens,
    /// The model's context is full.
    Context,
    /// The image of [`GenerationMode::ImageOnly`](super::GenerationMode::ImageOnly) is complete.
    ImageComplete,
    /// It was cancelled.
    Cancelled,
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
