//! Text and images from the events of a request, which are over ids.

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
}

impl Pipeline {
    /// For the events of `request` in an engine of this pipeline.
    pub fn assembler(&self, request: &Request) -> Assembler<'_> {
        let stream = TextStream::new(self.processor.text(), request.stop.clone());
        Assembler { pipeline: self, stream }
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
            Event::ImageProgress { done, total } => {
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
            // The request's result is the error.
            Event::Failed => {}
        }
        Ok(certain)
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
