//! What a rendered document is, and what decides it besides template and sample.

use serde::{Deserialize, Serialize};

use crate::tokenize::CodedSegment;

/// Which segments of a document the loss counts.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Loss {
    /// All of them.
    #[default]
    All,
    /// Answers: everything after a separator that ends a prompt, up to and including the
    /// separator that ends the answer (so that the model learns to stop).
    Answers,
    /// The last answer, with what closes it.
    LastAnswer,
    /// Answers and all images. An image at the start of a document is learned without a prompt,
    /// as classifier-free guidance needs; the text of prompts is not learned.
    // The first name is part of the identity of token shards and of evaluations.
    #[serde(rename = "pictures-and-answers", alias = "images-and-answers")]
    ImagesAndAnswers,
}

/// Options of [`Template::render`](crate::tokenize::Template::render).
#[derive(Clone, Copy, Debug, Default)]
pub struct RenderOptions {
    /// Which segments the loss counts.
    pub loss: Loss,
    /// Maximum number of entries of a repeated part, or of pairs where its entries are prompts and answers
    /// in turn; of a longer list, a random subset is kept in order.
    pub max_turns: Option<usize>,
}

/// A document with the targets of its loss.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Rendered {
    /// Texts, images and separators; adjacent texts are joined unless the loss counts only one.
    pub segments: Vec<CodedSegment>,
    /// For each segment, whether the loss counts it.
    pub supervised: Vec<bool>,
}
