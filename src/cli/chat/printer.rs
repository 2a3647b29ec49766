//! Prints an answer as it comes and saves its images.

use std::ops::ControlFlow;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use calumma::Result;
use calumma::generate::{EndReason, GenerationConfig};
use calumma::pipeline::{ChatEvent, Pipeline, PipelineEvent, Reply};
use calumma::report::Reporter;
use image::RgbImage;
use serde_json::{Value, json};

use crate::cli::generate::{made_by, push_text, save_image};
use crate::cli::session::{Session, name};
use crate::cli::terminal::Screen;

/// Where a conversation takes place.
pub struct Place<'a> {
    /// The directory of the model's images.
    pub out: &'a Path,
    /// Whether PNG files say how they were made.
    pub metadata: bool,
    pub session: &'a Session,
    pub pipeline: &'a Pipeline,
    pub screen: Screen,
    /// Set to stop an answer.
    pub stop: Arc<AtomicBool>,
}

impl Place<'_> {
    /// Shows an image, if the terminal can.
    ///
    /// # Errors
    /// Those of standard output.
    pub fn show(&self, image: &RgbImage) -> Result<()> {
        self.screen.draw(image).map_or(Ok(()), |drawn| self.session.text(drawn))
    }
}

/// The output of one answer.
pub struct Printer<'a> {
    place: &'a Place<'a>,
    /// The question.
    question: &'a str,
    /// The conversation so far, in which images are only marked, how many exchanges of it the prompt does not
    /// hold, and what goes with the question: for the metadata of images.
    context: Value,
    config: &'a GenerationConfig,
    segments: Vec<Value>,
    text: String,
    /// Whether the next text begins a line.
    at_start: bool,
    bar: Option<Reporter>,
}

impl<'a> Printer<'a> {
    /// The output of the answer to `question` with the settings `config`; `context` is an object.
    pub fn new(
        place: &'a Place<'a>,
        question: &'a str,
        context: Value,
        config: &'a GenerationConfig,
    ) -> Self {
        let (segments, text) = (Vec::new(), String::new());
        Self { place, question, context, config, segments, text, at_start: true, bar: None }
    }

    /// Prints a step; breaks if the user wants the answer to stop.
    ///
    /// # Errors
    /// Those of standard output and of image files.
    pub fn event(&mut self, event: ChatEvent) -> Result<ControlFlow<()>> {
        match event {
            ChatEvent::Dropped(count) => {
                let before = self.context["dropped"].as_u64().unwrap_or(0);
                self.context["dropped"] = json!(before + count as u64);
                let s = if count == 1 { "" } else { "s" };
                self.place.session.note(format_args!(
                    "the context is full: the oldest {count} turn{s} left out from now on"
                ));
            }
            ChatEvent::Answer(step) => self.step(step)?,
        }
        match self.place.stop.load(Ordering::Relaxed) {
            true => Ok(ControlFlow::Break(())),
            false => Ok(ControlFlow::Continue(())),
        }
    }

    fn step(&mut self, step: PipelineEvent) -> Result<()> {
        let session = self.place.session;
        match step {
            PipelineEvent::Text(text) => {
                // A tokenizer may write a blank before the first word.
                let shown = if self.at_start { text.trim_start() } else { text.as_str() };
                self.at_start &= shown.is_empty();
                session.text(shown)?;
                self.text.push_str(&text);
            }
            PipelineEvent::ImageStart => self.end_line()?,
            PipelineEvent::ImageProgress { done, total } => {
                let bar = self.bar.get_or_insert_with(|| session.progress(total, "codes"));
                bar.step(done, 1);
            }
            PipelineEvent::Image(image) => self.image(&image)?,
            PipelineEvent::End(_) => {}
        }
        Ok(())
    }

    fn image(&mut self, image: &RgbImage) -> Result<()> {
        self.end_bar();
        push_text(&mut self.segments, &mut self.text);
        let Place { out, metadata, session, pipeline, .. } = *self.place;
        let made_by = metadata.then(|| {
            let mut by = made_by("chat", self.question, self.config, pipeline, session);
            by["context"] = self.context.clone();
            by
        });
        let origin = (self.question, self.config.seed);
        let path = save_image(out, origin, image, made_by.as_ref())?;
        self.segments.push(json!({ "type": "image", "path": name(&path) }));
        self.place.show(image)?;
        session.line(format_args!("[image {}]", path.display()))
    }

    /// Ends the output; returns the segments of the answer for JSON.
    ///
    /// # Errors
    /// Those of standard output.
    pub fn finish(mut self, reply: &Reply) -> Result<Vec<Value>> {
        self.end_bar();
        self.end_line()?;
        let session = self.place.session;
        match reply.end {
            _ if reply.is_withdrawn() => {
                session.note("stopped before the answer began; the turn is taken back");
            }
            EndReason::Cancelled => session.note("stopped"),
            EndReason::MaxNewTokens => session.note("the answer reached the limit of tokens"),
            EndReason::Context => session.note("the answer reached the end of the context"),
            _ => {}
        }
        push_text(&mut self.segments, &mut self.text);
        Ok(self.segments)
    }

    fn end_line(&mut self) -> Result<()> {
        if std::mem::replace(&mut self.at_start, true) {
            Ok(())
        } else {
            self.place.session.text("\n")
        }
    }

    fn end_bar(&mut self) {
        if let Some(bar) = self.bar.take() {
            bar.finish();
        }
    }
}
