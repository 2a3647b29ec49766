//! What clients are told of an answer, step by step.

use std::sync::Arc;

use serde_json::{Value, json};

use super::logprobs::{Names, Pending, Told};
use super::rows::Shown;
use crate::generate::{EndReason, Event, Request};
use crate::pipeline::{Assembler, PipelineEvent};
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
    /// The reason.
    Ended(usize, &'static str),
    /// All have ended.
    Usage(Usage),
}

/// How many tokens a request took.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Usage {
    pub(super) prompt: usize,
    pub(super) generated: usize,
}

impl Usage {
    pub(super) fn to_json(self) -> Value {
        json!({
            "prompt_tokens": self.prompt,
            "completion_tokens": self.generated,
            "total_tokens": self.prompt + self.generated,
        })
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
}

impl<'a> Teller<'a> {
    /// For the answer with the number `index`, by `request`; the rows of each image are shown `partial` times.
    ///
    /// # Errors
    /// If log-probabilities are asked for and the tokenizer's decoder refuses an id.
    pub(super) fn new(
        work: &'a Work,
        partial: usize,
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
                Part::Text(index, text, told)
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
            PipelineEvent::ImageStart | PipelineEvent::ImageProgress { .. } => {
                return Ok(Vec::new());
            }
            PipelineEvent::End(reason) => {
                let rest = match reason {
                    EndReason::StopString(_) => Vec::new(),
                    _ => self.pending.rest(),
                };
                let rest = (!rest.is_empty()).then(|| Part::Text(index, String::new(), rest));
                let ended = Part::Ended(index, finish_reason(reason));
                return Ok(rest.into_iter().chain([ended]).collect());
            }
        };
        Ok(vec![part])
    }
}

/// Whether `done` codes of `total` complete one of [`STEPS`] equal parts, but the last.
fn is_step(done: usize, total: usize) -> bool {
    done < total && done * STEPS / total != (done - 1) * STEPS / total
}
