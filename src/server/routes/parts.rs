//! What clients are told of an answer, step by step.

use std::sync::Arc;

use serde::Serialize;
use utoipa::ToSchema;

use super::logprobs::{Names, Pending, Told};
use super::rows::Shown;
use super::tools;
use crate::generate::{EndReason, Event, Request};
use crate::pipeline::{Assembler, CallPiece, CallReader, PipelineEvent, ToolCall};
use crate::server::fault::Fault;
use crate::server::image_data::png_in_base64;
use crate::server::work::Work;
use crate::server::worker::finish_reason;
use crate::tokenize::TokenBytes;

/// How often an image in progress is told of.
const STEPS: usize = 16;

/// A step of one of the answers to a request, by its number.
#[derive(Debug)]
pub(super) enum Part {
    /// More text, and its tokens, if they are asked for.
    Text(usize, String, Vec<Told>),
    /// Codes so far, and of the whole image; the rows so far as PNG in base64, if they are shown.
    Progress(usize, [usize; 2], Option<String>),
    /// A PNG image in base64.
    Image(usize, String),
    /// A call of a function, and its tokens, if they are asked for.
    Call(usize, ToolCall, Vec<Told>),
    /// The reason.
    Ended(usize, &'static str),
    /// All have ended.
    Usage(Usage),
}

/// How many tokens a request took, codes of images included.
#[derive(Clone, Copy, Debug, Default, Serialize, ToSchema)]
pub(super) struct Usage {
    prompt_tokens: usize,
    completion_tokens: usize,
    total_tokens: usize,
}

impl Usage {
    pub(super) fn new(prompt: usize, generated: usize) -> Self {
        let total_tokens = prompt + generated;
        Self { prompt_tokens: prompt, completion_tokens: generated, total_tokens }
    }
}

/// Makes the parts of one answer from the events of its request.
pub(super) struct Teller<'a> {
    work: &'a Work,
    index: usize,
    assembler: Assembler<'a>,
    pending: Pending,
    /// Of the ids, if log-probabilities are told.
    bytes: Option<Arc<TokenBytes>>,
    /// How many times the rows of each image are shown.
    partial: usize,
    shown: Shown,
    /// If functions may be called.
    reader: Option<CallReader>,
    /// Tokens of the text that the reader holds back.
    held: Vec<Told>,
    has_called: bool,
}

impl<'a> Teller<'a> {
    /// For the answer with the number `index`, by `request`; the rows of each image are shown `partial` times, and `reader`
    /// finds calls.
    ///
    /// # Errors
    /// If log-probabilities are asked for and the tokenizer's decoder refuses an id.
    pub(super) fn new(
        work: &'a Work,
        (partial, reader): (usize, Option<CallReader>),
        index: usize,
        request: &Request,
    ) -> Result<Self, Fault> {
        let pipeline = work.pipeline();
        let bytes = request.logprobs.map(|_| pipeline.token_bytes());
        Ok(Self {
            work,
            index,
            assembler: pipeline.assembler(request),
            pending: Pending::default(),
            bytes: bytes.transpose()?,
            partial,
            shown: Shown::of(partial),
            reader,
            held: Vec::new(),
            has_called: false,
        })
    }

    /// What is certain after `event`.
    ///
    /// # Errors
    /// If an image cannot be decoded, or the answer is late.
    pub(super) fn parts(&mut self, event: Event) -> Result<Vec<Part>, Fault> {
        let is_shown = match event {
            Event::Logprobs(logprobs) => {
                self.pending.announce(logprobs);
                return Ok(Vec::new());
            }
            Event::Text(id) => {
                if let Some(bytes) = &self.bytes {
                    let vocabulary = self.work.pipeline().processor().vocabulary();
                    self.pending.push(&Names { bytes, vocabulary }, id);
                }
                false
            }
            Event::ImageStart => {
                self.shown = Shown::of(self.partial);
                false
            }
            Event::ImageProgress { done, total, width, .. } => {
                self.shown.next(done, total, width).is_some()
            }
            _ => false,
        };
        let certain = match event {
            Event::Image(_) => {
                self.work.decode(|| self.assembler.push(event).map_err(Fault::failed))
            }
            event => self.assembler.push(event).map_err(Fault::failed),
        };
        let mut parts = Vec::new();
        for event in certain? {
            parts.extend(self.part(event, is_shown)?);
        }
        Ok(parts)
    }

    fn part(&mut self, event: PipelineEvent, is_shown: bool) -> Result<Vec<Part>, Fault> {
        let index = self.index;
        let part = match event {
            PipelineEvent::Text(text) => {
                let told = self.pending.take(&text);
                let Some(reader) = &mut self.reader else {
                    return Ok(vec![Part::Text(index, text, told)]);
                };
                let pieces = reader.push(&text);
                self.held.extend(told);
                return Ok(self.read(pieces));
            }
            PipelineEvent::Image(image) => {
                self.work.state().metrics.drawn(&self.work.model().name);
                Part::Image(index, png_in_base64(&image)?)
            }
            PipelineEvent::ImageProgress { done, total } if is_shown || is_step(done, total) => {
                let rows = match is_shown {
                    true => {
                        self.work.in_turn(|| self.assembler.rows_so_far().map_err(Fault::failed))?
                    }
                    false => None,
                };
                let rows = rows.map(|rows| png_in_base64(&rows)).transpose()?;
                Part::Progress(index, [done, total], rows)
            }
            PipelineEvent::ImageProgress { .. } => return Ok(Vec::new()),
            PipelineEvent::ImageStart => return Ok(self.finish_text()),
            PipelineEvent::End(reason) => {
                let mut parts = self.finish_text();
                if !matches!(reason, EndReason::StopString(_)) {
                    self.held.extend(self.pending.rest());
                }
                let rest = std::mem::take(&mut self.held);
                if !rest.is_empty() {
                    parts.push(Part::Text(index, String::new(), rest));
                }
                let reason = match finish_reason(reason) {
                    "stop" if self.has_called => "tool_calls",
                    reason => reason,
                };
                parts.push(Part::Ended(index, reason));
                return Ok(parts);
            }
        };
        Ok(vec![part])
    }
}

impl Teller<'_> {
    /// The end of a text.
    fn finish_text(&mut self) -> Vec<Part> {
        let pieces = self.reader.as_mut().map(CallReader::finish).unwrap_or_default();
        self.read(pieces)
    }

    /// The parts that `pieces` are; the first has the tokens that were held back.
    fn read(&mut self, pieces: Vec<CallPiece>) -> Vec<Part> {
        let part = |piece| {
            let told = std::mem::take(&mut self.held);
            match piece {
                CallPiece::Text(text) => Part::Text(self.index, text, told),
                CallPiece::Call { name, arguments } => {
                    self.has_called = true;
                    Part::Call(self.index, ToolCall { id: tools::new_id(), name, arguments }, told)
                }
            }
        };
        pieces.into_iter().map(part).collect()
    }
}

/// Whether `done` codes of `total` complete one of [`STEPS`] equal parts, but the last.
fn is_step(done: usize, total: usize) -> bool {
    done < total && done * STEPS / total != (done - 1) * STEPS / total
}
