//! Questions and answers of a conversation.

use image::RgbImage;
use vq_tokenizer::Codes;

use super::tools::{ToolCall, ToolResult};
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
    /// What functions that the last answer called have returned; it comes before the text.
    pub results: Vec<ToolResult>,
}

impl Question {
    /// # Errors
    /// If there is nothing to answer, or nothing to draw.
    pub(super) fn check(&self) -> Result<()> {
        let has_results = !self.results.is_empty() && !self.draw;
        if !has_results && self.text.is_empty() && (self.images.is_empty() || self.draw) {
            let needed = if self.draw { "text" } else { "text or an image" };
            return Err(Error::invalid(format!("the turn is empty; it needs {needed}")));
        }
        Ok(())
    }

    /// The same with results as text, for a layout that does not have them.
    pub(super) fn with_results_as_text(self) -> Self {
        let texts = self.results.into_iter().map(|result| result.text);
        let text = texts.chain([self.text]).filter(|text| !text.is_empty());
        let text = text.collect::<Vec<_>>().join("\n");
        Self { text, results: Vec::new(), ..self }
    }
}

/// A question with its answer.
#[derive(Clone, Debug)]
pub struct Exchange {
    pub(super) question: Question,
    /// The codes of the question's images.
    pub(super) codes: Vec<Codes>,
    pub(super) answer: Vec<Segment>,
    /// The calls at the end of the answer, if the chat template writes them.
    pub(super) calls: Vec<ToolCall>,
    /// The ids of the answer before its calls, without the one that ended it.
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

/// A question, the codes of its images, and how its answer begins.
#[derive(Clone, Copy)]
pub(super) struct Asked<'a> {
    pub(super) question: &'a Question,
    pub(super) codes: &'a [Codes],
    pub(super) begun: &'a str,
}
