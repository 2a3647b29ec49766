//! Questions and answers of a conversation.

use image::RgbImage;
use vq_tokenizer::Codes;

use crate::error::{Error, Result};
use crate::tokenize::{Encoded, Segment};

/// A user's turn.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Question {
    /// The text, taken literally; may be empty if there are images.
    pub text: String,
    /// Images, which stand where the layout of conversations places them.
    pub images: Vec<RgbImage>,
    /// Whether an image is to be drawn, rather than what the model decides.
    pub draw: bool,
}

impl Question {
    /// # Errors
    /// If there is nothing to answer, or nothing to draw.
    pub(super) fn check(&self) -> Result<()> {
        if self.text.is_empty() && (self.images.is_empty() || self.draw) {
            let needed = if self.draw { "text" } else { "text or an image" };
            return Err(Error::invalid(format!("the turn is empty; it needs {needed}")));
        }
        Ok(())
    }
}

/// A question with its answer.
#[derive(Clone, Debug)]
pub struct Exchange {
    pub(super) question: Question,
    /// The codes of the question's images.
    pub(super) codes: Vec<Codes>,
    pub(super) answer: Vec<Segment>,
    /// The ids of the answer, without the one that ended it.
    pub(super) ids: Vec<u32>,
    /// A number that no other exchange of the conversation has.
    pub(super) number: usize,
    /// The prompt of this exchange, if a chat template wrote it.
    pub(super) prompt: Option<Encoded>,
}

impl Exchange {
    /// The user's turn.
    pub fn question(&self) -> &Question {
        &self.question
    }

    /// The model's turn; empty if it ended at once.
    pub fn answer(&self) -> &[Segment] {
        &self.answer
    }
}
