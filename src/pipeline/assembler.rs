//! Text and images from the events of a request, which are over ids.

use image::RgbImage;
use vq_tokenizer::Codes;

use super::Pipeline;
use super::generate::PipelineEvent;
use super::text::TextStream;
use crate::error::Result;
use crate::generate::{Event, Request};
use crate::tokenize::Segment;

/// Turns the events of one request into text and images.
pub struct Assembler<'a> {
    pipeline: &'a Pipeline,
    stream: TextStream<'a>,
    /// The codes of the image in progress.
    begun: Codes,
}

impl Pipeline {
    /// For the events of `request` in an engine of this pipeline.
    pub fn assembler(&self, request: &Request) -> Assembler<'_> {
        let stream = TextStream::new(self.processor.text(), request.stop.clone());
        let begun = Codes { ids: Vec::new(), height: 0, width: 0 };
        Assembler { pipeline: self, stream, begun }
    }
}

impl Assembler<'_> {
    /// What is certain after `event`. Text that may be the beginning of a stop string is held back until that is known.
    ///
    /// # Errors
    /// If ids or codes cannot be decoded.
    pub fn push(&mut self, event: Event) -> Result<Vec<PipelineEvent>> {
        let mut certain = Vec::new();
        match event {
            Event::Text(id) => certain.extend(text(self.stream.push(id)?)),
            Event::ImageStart => {
                certain.extend(text(self.stream.finish()?));
                certain.push(PipelineEvent::ImageStart);
            }
            Event::ImageProgress { code, done, total, width } => {
                if done == 1 {
                    self.begun.ids.clear();
                }
                // A prompt may end within an image, whose rows then are not known here.
                if done == self.begun.ids.len() + 1 {
                    self.begun.ids.push(code);
                }
                self.begun.width = width;
                certain.push(PipelineEvent::ImageProgress { done, total });
            }
            Event::Image(codes) => {
                let images = self.pipeline.vq()?.decode(std::slice::from_ref(&codes))?;
                certain.extend(images.into_iter().map(PipelineEvent::Image));
            }
            Event::End(reason) => {
                certain.extend(text(self.stream.finish()?));
                certain.push(PipelineEvent::End(reason));
            }
            // For callers that want them; of a failed request the result is the error.
            Event::Logprobs(_) | Event::Failed => {}
        }
        Ok(certain)
    }

    /// The complete rows of the image in progress as an image of their own, which is as wide and less high; `None` before
    /// the first one. The rows near its lower edge change as more are drawn.
    ///
    /// # Errors
    /// If the checkpoint cannot decode images.
    pub fn rows_so_far(&self) -> Result<Option<RgbImage>> {
        let Codes { ids, width, .. } = &self.begun;
        let height = ids.len() / (*width).max(1);
        if height == 0 {
            return Ok(None);
        }
        let rows = Codes { ids: ids[..height * width].to_vec(), height, width: *width };
        Ok(self.pipeline.drawing_vq()?.decode(&[rows])?.pop())
    }
}

fn text(text: String) -> Option<PipelineEvent> {
    (!text.is_empty()).then_some(PipelineEvent::Text(text))
}

impl PipelineEvent {
    /// Adds text and images to `segments`.
    pub fn add_to(&self, segments: &mut Vec<Segment>) {
        match self {
            Self::Text(text) => match segments.last_mut() {
                Some(Segment::Text(last)) => last.push_str(text),
                _ => segments.push(Segment::Text(text.clone())),
            },
            Self::Image(image) => segments.push(Segment::Image(image.clone())),
            Self::End(_) | Self::ImageStart | Self::ImageProgress { .. } => {}
        }
    }
}

impl std::fmt::Debug for Assembler<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Assembler").finish_non_exhaustive()
    }
}
