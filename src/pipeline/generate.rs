//! Continuations of a prompt with text and images.

use image::RgbImage;

use super::Pipeline;
use crate::error::{Error, Result};
use crate::generate::{EndReason, Event, GenerationConfig, GenerationMode, Request};
use crate::tokenize::{CodedSegment, Segment};

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
        self.run(self.request(&self.encode_segments(prompt)?, config)?, on_event)
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
        self.run(self.request(prompt, config)?, on_event)
    }

    /// The ids of a prompt.
    ///
    /// # Errors
    /// If an image cannot be encoded.
    pub fn encode_segments(&self, prompt: &[Segment]) -> Result<Vec<u32>> {
        self.processor.encode(&self.coded(prompt)?)
    }

    /// `segments` with the codes of their images.
    pub(super) fn coded(&self, segments: &[Segment]) -> Result<Vec<CodedSegment>> {
        let images: Vec<RgbImage> = segments
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
        Ok(segments.iter().map(coded).collect())
    }

    /// The request to continue `prompt`: with the stop strings and the negative prompt of `config`, without a constraint.
    ///
    /// # Errors
    /// If there are too many stop strings, or one is empty or too long.
    pub fn request(&self, prompt: &[u32], config: &GenerationConfig) -> Result<Request> {
        let stop = self.stop_strings(config)?;
        let negative = self.negative_ids(config, None)?;
        Ok(Request { stop, negative, ..Request::new(prompt.to_vec(), config.clone()) })
    }

    /// Continues the prompt of `request` as [`generate`](Self::generate) does; with a constraint no image
    /// is begun. Text that may be the beginning of a stop string is held back until that is known.
    ///
    /// # Errors
    /// As [`generate`](Self::generate); if an image and a constraint are asked for, or the constraint
    /// cannot be followed.
    pub fn run(
        &self,
        request: Request,
        on_event: impl FnMut(PipelineEvent) -> Result<()>,
    ) -> Result<Vec<Segment>> {
        self.run_noting(request, |_| Ok(()), on_event)
    }

    /// As [`run`](Self::run); `note` receives each step in ids first.
    pub(super) fn run_noting(
        &self,
        request: Request,
        mut note: impl FnMut(&Event) -> Result<()>,
        mut on_event: impl FnMut(PipelineEvent) -> Result<()>,
    ) -> Result<Vec<Segment>> {
        let request = self.with_possible_mode(request)?;
        let mut assembler = self.assembler(&request);
        let mut segments = Vec::new();
        self.generator()?.run(vec![request], &mut |_, event| {
            note(&event)?;
            for event in assembler.push(event)? {
                event.add_to(&mut segments);
                on_event(event)?;
            }
            Ok(())
        })?;
        Ok(segments)
    }

    /// `request`, restricted to text if the checkpoint cannot decode images or the text follows a constraint.
    ///
    /// # Errors
    /// If it asks for an image all the same.
    pub fn with_possible_mode(&self, mut request: Request) -> Result<Request> {
        match (request.config.mode, self.drawing_vq()) {
            (GenerationMode::ImageOnly, _) if request.constraint.is_some() => {
                return Err(Error::invalid("an image cannot follow a grammar; ask for text"));
            }
            (GenerationMode::ImageOnly, vq) => {
                vq?;
            }
            (GenerationMode::Auto, vq) if vq.is_err() || request.constraint.is_some() => {
                request.config.mode = GenerationMode::TextOnly;
            }
            _ => {}
        }
        Ok(request)
    }
}
