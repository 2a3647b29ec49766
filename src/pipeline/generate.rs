//! Continuations of a prompt with text and images.

use image::RgbImage;

use super::Pipeline;
use crate::error::Result;
use crate::generate::{EndReason, Event, GenerationConfig, GenerationMode};
use crate::tokenize::{CodedSegment, Segment, StreamDecoder};

/// A step of a continuation, in order.
#[derive(Clone, Debug, PartialEq)]
pub enum PipelineEvent {
    /// More text; whole characters, never empty.
    Text(String),
    /// An image began.
    ImageStart,
    /// A code of the image was drawn.
    ImageProgress {
        /// Codes of the image so far.
        done: usize,
        /// Codes of the whole image.
        total: usize,
    },
    /// An image was completed.
    Image(RgbImage),
    /// The continuation ended.
    End(EndReason),
}

impl Pipeline {
    /// Continues `prompt` and returns what was added; `on_event` is called after every step, and its
    /// error ends generation. Unless the checkpoint can decode images, no image is begun.
    ///
    /// # Errors
    /// If an image cannot be encoded, the prompt does not fit the context, `config` is out of range
    /// or asks for an image that cannot be decoded, or with the error of `on_event`.
    pub fn generate(
        &self,
        prompt: &[Segment],
        config: &GenerationConfig,
        on_event: impl FnMut(PipelineEvent) -> Result<()>,
    ) -> Result<Vec<Segment>> {
        let images: Vec<RgbImage> = prompt
            .iter()
            .filter_map(|segment| match segment {
                Segment::Image(image) => Some(image.clone()),
                Segment::Text(_) => None,
            })
            .collect();
        let mut codes = self.encode(&images)?.into_iter();
        let coded = |segment: &Segment| match segment {
            Segment::Text(text) => CodedSegment::Text(text.clone()),
            Segment::Image(_) => {
                CodedSegment::Image(codes.next().expect("every image was encoded"))
            }
        };
        let segments: Vec<CodedSegment> = prompt.iter().map(coded).collect();
        self.generate_from_ids(&self.processor.encode(&segments)?, config, on_event)
    }

    /// As [`generate`](Self::generate), for a prompt in ids, such as a chat's.
    ///
    /// # Errors
    /// As [`generate`](Self::generate).
    pub fn generate_from_ids(
        &self,
        prompt: &[u32],
        config: &GenerationConfig,
        on_event: impl FnMut(PipelineEvent) -> Result<()>,
    ) -> Result<Vec<Segment>> {
        self.generate_noting(prompt, config, |_| Ok(()), on_event)
    }

    /// As [`generate_from_ids`](Self::generate_from_ids); `note` receives each step in ids first.
    pub(super) fn generate_noting(
        &self,
        prompt: &[u32],
        config: &GenerationConfig,
        mut note: impl FnMut(&Event) -> Result<()>,
        on_event: impl FnMut(PipelineEvent) -> Result<()>,
    ) -> Result<Vec<Segment>> {
        let mut config = config.clone();
        match (config.mode, self.drawing_vq()) {
            (GenerationMode::ImageOnly, vq) => {
                vq?;
            }
            (GenerationMode::Auto, Err(_)) => config.mode = GenerationMode::TextOnly,
            _ => {}
        }
        let mut assembler = SegmentAssembler {
            pipeline: self,
            stream: self.processor.text().stream(),
            text: String::new(),
            segments: Vec::new(),
            on_event,
        };
        self.generator()?.generate(prompt, &config, |event| {
            note(&event)?;
            assembler.push(event)
        })?;
        Ok(assembler.segments)
    }
}

/// Turns events over ids into events over text and images, and assembles their segments.
struct SegmentAssembler<'a, F> {
    pipeline: &'a Pipeline,
    stream: StreamDecoder<'a>,
    /// Text since the last image.
    text: String,
    segments: Vec<Segment>,
    on_event: F,
}

impl<F: FnMut(PipelineEvent) -> Result<()>> SegmentAssembler<'_, F> {
    fn push(&mut self, event: Event) -> Result<()> {
        match event {
            Event::Text(id) => {
                let text = self.stream.push(id)?;
                self.push_text(text)
            }
            Event::ImageStart => {
                self.end_text()?;
                (self.on_event)(PipelineEvent::ImageStart)
            }
            Event::ImageProgress { done, total } => {
                (self.on_event)(PipelineEvent::ImageProgress { done, total })
            }
            Event::Image(codes) => {
                for image in self.pipeline.vq()?.decode(std::slice::from_ref(&codes))? {
                    self.segments.push(Segment::Image(image.clone()));
                    (self.on_event)(PipelineEvent::Image(image))?;
                }
                Ok(())
            }
            Event::End(reason) => {
                self.end_text()?;
                (self.on_event)(PipelineEvent::End(reason))
            }
        }
    }

    fn push_text(&mut self, text: String) -> Result<()> {
        if text.is_empty() {
            return Ok(());
        }
        self.text.push_str(&text);
        (self.on_event)(PipelineEvent::Text(text))
    }

    fn end_text(&mut self) -> Result<()> {
        let rest = self.stream.finish()?;
        self.push_text(rest)?;
        if !self.text.is_empty() {
            self.segments.push(Segment::Text(std::mem::take(&mut self.text)));
        }
        Ok(())
    }
}
