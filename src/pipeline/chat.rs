//! Conversations: questions and answers with text and images, each turn with all earlier ones.

mod calls;
mod exchange;
mod templated;
mod tools;
mod trained;

use std::borrow::Cow;
use std::ops::ControlFlow;
use std::sync::Arc;

use vq_tokenizer::Codes;

use self::exchange::Asked;
use self::templated::Templated;
use super::Pipeline;
use super::generate::PipelineEvent;
use crate::error::{Error, Result};
use crate::generate::config::LONGEST_ANSWER;
use crate::generate::{EndReason, Event, GenerationConfig, GenerationMode, LanguageModel};
use crate::tokenize::{CodedSegment, EncodeOptions, Encoded, Segment, TokenClass};

pub use calls::{CallPiece, CallReader};
pub use exchange::{Exchange, Question};
pub use tools::{Tool, ToolCall, ToolResult, Tools};

/// A conversation with a checkpoint, by its chat template or, without one, in the layout of its
/// training data.
///
/// The prompt of a turn begins with the ids of all earlier turns as they were; answers and images are
/// never encoded again. When the context is full, the oldest exchanges are left out, which
/// [`ChatEvent::Dropped`] says; the system's text stays.
///
/// ```no_run
/// use std::ops::ControlFlow;
///
/// use calumma::device::DeviceSpec;
/// use calumma::pipeline::{ChatEvent, Pipeline, PipelineEvent, Question};
///
/// let device = DeviceSpec::Cpu.open()?;
/// let pipeline = Pipeline::open("checkpoints/demo".as_ref(), &device)?;
/// let mut chat = pipeline.chat(None);
/// let config = pipeline.generation().clone();
/// let drawn = Question { text: "a red circle".into(), draw: true, ..Question::default() };
/// let asked = Question { text: "what color is it?".into(), ..Question::default() };
/// for question in [drawn, asked] {
///     chat.ask(question, &config, |event| {
///         if let ChatEvent::Answer(PipelineEvent::Text(text)) = event {
///             print!("{text}");
///         }
///         Ok(ControlFlow::Continue(()))
///     })?;
/// }
/// # Ok::<(), calumma::Error>(())
/// ```
#[derive(Debug)]
pub struct Chat<'a> {
    pipeline: &'a Pipeline,
    templated: Option<Templated>,
    system: Option<String>,
    tools: Option<Arc<Tools>>,
    exchanges: Vec<Exchange>,
    /// The first exchange that prompts still hold.
    first: usize,
    /// Exchanges begun so far.
    begun: usize,
}

/// A step of a turn, in order.
#[derive(Clone, Debug, PartialEq)]
pub enum ChatEvent {
    /// This many of the oldest exchanges no longer fit the context and are left out from now on.
    Dropped(usize),
    /// A step of the answer.
    Answer(PipelineEvent),
}

/// The end of a turn.
#[derive(Clone, Debug, PartialEq)]
pub struct Reply {
    /// The answer.
    pub answer: Vec<Segment>,
    /// Why it ended; [`EndReason::Cancelled`] if the caller stopped it.
    pub end: EndReason,
    /// Exchanges that were left out before this turn.
    pub dropped: usize,
}

impl Reply {
    /// Whether the answer was stopped before it began, so that the exchange was not kept.
    pub fn is_withdrawn(&self) -> bool {
        self.end == EndReason::Cancelled && self.answer.is_empty()
    }
}

impl Pipeline {
    /// An empty conversation, with the instructions `system` for all of it.
    pub fn chat(&self, system: Option<String>) -> Chat<'_> {
        let template = self.processor.chat_template().cloned();
        Chat {
            pipeline: self,
            templated: template.map(Templated::new),
            system,
            tools: None,
            exchanges: Vec::new(),
            first: 0,
            begun: 0,
        }
    }
}

impl Chat<'_> {
    /// The same with functions that answers may call. [`Chat::ask`] shows calls as text; [`Tools::reader`] tells them.
    #[must_use]
    pub fn with_tools(self, tools: Arc<Tools>) -> Self {
        Self { tools: Some(tools), ..self }
    }

    /// The instructions for the whole conversation.
    pub fn system(&self) -> Option<&str> {
        self.system.as_deref()
    }

    /// All exchanges, those that prompts no longer hold included.
    pub fn exchanges(&self) -> &[Exchange] {
        &self.exchanges
    }

    /// How many of the first exchanges prompts no longer hold.
    pub fn dropped(&self) -> usize {
        self.first
    }

    /// Removes the last exchange; whether there was one.
    pub fn undo(&mut self) -> bool {
        let undone = self.exchanges.pop().is_some();
        self.first = self.first.min(self.exchanges.len());
        undone
    }

    /// Removes all exchanges.
    pub fn clear(&mut self) {
        self.exchanges.clear();
        self.first = 0;
    }

    /// Adds an exchange that took place elsewhere, such as one that a client keeps, whose answer ended with `calls`.
    /// Whether its question asked for a drawing is [`Question::draw`].
    ///
    /// # Errors
    /// If an image cannot be encoded.
    pub fn add(
        &mut self,
        question: Question,
        mut answer: Vec<Segment>,
        mut calls: Vec<ToolCall>,
    ) -> Result<()> {
        let question = self.laid_out(&question).into_owned();
        if !calls.is_empty() && !self.has_form() {
            PipelineEvent::Text(ToolCall::text(&std::mem::take(&mut calls))).add_to(&mut answer);
        }
        let codes = self.pipeline.encode(&question.images)?;
        let options = EncodeOptions { bos: false, ..EncodeOptions::default() };
        let ids = self.pipeline.processor.encode_with(&self.pipeline.coded(&answer)?, options)?;
        let number = self.begun;
        self.exchanges.push(Exchange { question, codes, answer, calls, ids, number, prompt: None });
        self.begun += 1;
        Ok(())
    }

    /// The ids of the prompt for `question`, if nothing has to be left out.
    ///
    /// # Errors
    /// If the question is empty, an image cannot be encoded or the chat template refuses the conversation.
    pub fn prompt(&self, question: &Question) -> Result<Vec<u32>> {
        self.prompt_and(question, "")
    }

    /// As [`prompt`](Self::prompt), up to where the JSON of a call begins.
    ///
    /// # Errors
    /// As [`prompt`](Self::prompt).
    pub fn prompt_to_call(&self, question: &Question) -> Result<Vec<u32>> {
        let form = self.tools.as_ref().and_then(|tools| tools.form.as_ref());
        self.prompt_and(question, form.map_or("", |form| &form.before))
    }

    /// The ids of the prompt for `question` and of the text `begun` of its answer.
    fn prompt_and(&self, question: &Question, begun: &str) -> Result<Vec<u32>> {
        let question = &*self.laid_out(question);
        question.check()?;
        let codes = self.pipeline.encode(&question.images)?;
        let asked = Asked { question, codes: &codes, begun };
        Ok(self.prompt_from(self.first, asked, &self.pipeline.generation)?.ids)
    }

    /// Whether the chat template has functions and calls.
    fn has_form(&self) -> bool {
        self.tools.as_ref().is_some_and(|tools| tools.form.is_some())
    }

    /// `question` as the layout has it.
    fn laid_out<'q>(&self, question: &'q Question) -> Cow<'q, Question> {
        match question.results.is_empty() || self.has_form() {
            true => Cow::Borrowed(question),
            false => Cow::Owned(question.clone().with_results_as_text()),
        }
    }

    /// Answers `question` with the settings `config`, of which `candidates` has no effect. A break from
    /// `on_event` ends the answer, of which the completed part is kept. An exchange whose answer was
    /// ended before it began is not.
    ///
    /// # Errors
    /// If the question is empty or does not fit the context alone, an image cannot be encoded, the chat
    /// template refuses the conversation, `config` is out of range or asks for an image that cannot be
    /// decoded, or with the error of `on_event`. The conversation is then as before.
    pub fn ask(
        &mut self,
        question: Question,
        config: &GenerationConfig,
        mut on_event: impl FnMut(ChatEvent) -> Result<ControlFlow<()>>,
    ) -> Result<Reply> {
        let question = self.laid_out(&question).into_owned();
        question.check()?;
        let codes = self.pipeline.encode(&question.images)?;
        let mut config = GenerationConfig { candidates: 1, ..config.clone() };
        if question.draw {
            config.mode = GenerationMode::ImageOnly;
        }
        let (prompt, first) = self.fitting(&question, &codes, &config)?;
        let dropped = first - self.first;
        if dropped > 0 && on_event(ChatEvent::Dropped(dropped))?.is_break() {
            return Ok(Reply { answer: Vec::new(), end: EndReason::Cancelled, dropped: 0 });
        }
        let mut draft = Draft::default();
        self.run(&prompt.ids, &config, &mut draft, &mut on_event)?;
        let Draft { segments, ids, end } = draft;
        let end = end.unwrap_or(EndReason::Cancelled);
        let reply = Reply { answer: segments, end, dropped };
        if !reply.is_withdrawn() {
            self.first = first;
            self.exchanges.push(Exchange {
                question,
                codes,
                answer: reply.answer.clone(),
                calls: Vec::new(),
                ids,
                number: self.begun,
                prompt: self.templated.is_some().then_some(prompt),
            });
            self.begun += 1;
        }
        Ok(reply)
    }

    /// The prompt for `question` without the oldest exchanges that do not fit, and the first that does.
    fn fitting(
        &self,
        question: &Question,
        codes: &[Codes],
        config: &GenerationConfig,
    ) -> Result<(Encoded, usize)> {
        let context = self.pipeline.model.context();
        let blocks = self.pipeline.processor.blocks();
        let room = match question.draw {
            true => blocks.block_len(blocks.grid()),
            false => {
                let most = config.max_new_tokens.unwrap_or(LONGEST_ANSWER).min(LONGEST_ANSWER);
                most.min(context / 4)
            }
        };
        let mut first = self.first;
        loop {
            let prompt = self.prompt_from(first, Asked { question, codes, begun: "" }, config)?;
            // What does not fit alone is refused later, with its length.
            if prompt.ids.len() + room <= context || first == self.exchanges.len() {
                return Ok((prompt, first));
            }
            first += 1;
        }
    }

    /// The prompt for `question` after the exchanges from number `first` on.
    fn prompt_from(
        &self,
        first: usize,
        asked: Asked<'_>,
        config: &GenerationConfig,
    ) -> Result<Encoded> {
        let Pipeline { processor, prompts, .. } = self.pipeline;
        let exchanges = &self.exchanges[first..];
        let tools = self.tools.as_deref().filter(|tools| !tools.list.is_empty());
        let (tools, told) = match self.has_form() {
            true => (tools, None),
            false => (None, tools.map(|tools| tools.instructions(self.system()))),
        };
        let system = told.as_deref().or(self.system());
        match &self.templated {
            Some(templated) => templated.prompt(processor, (system, tools), exchanges, asked),
            None => {
                let draws = asked.question.draw || exchanges.iter().any(|past| past.question.draw);
                let size = if draws { self.pipeline.size_of(config)? } else { [0; 2] };
                let layout = (processor, prompts, size);
                let ids =
                    trained::prompt(layout, system, exchanges, (asked.question, asked.codes))?;
                Ok(Encoded { text: String::new(), ids })
            }
        }
    }

    /// Generates an answer into `draft`, until it ends or `on_event` breaks.
    fn run(
        &self,
        prompt: &[u32],
        config: &GenerationConfig,
        draft: &mut Draft,
        on_event: &mut dyn FnMut(ChatEvent) -> Result<ControlFlow<()>>,
    ) -> Result<()> {
        let processor = &self.pipeline.processor;
        let Draft { segments, ids, end } = draft;
        let note = |event: &Event| -> Result<()> {
            match event {
                Event::Text(id) => ids.push(*id),
                Event::Image(codes) => {
                    let options = EncodeOptions { bos: false, ..EncodeOptions::default() };
                    let image = [CodedSegment::Image(codes.clone())];
                    ids.extend(processor.encode_with(&image, options)?);
                }
                // Not part of the answer, also where it comes as a step of its own.
                Event::End(EndReason::Stop(id)) if ids.last() == Some(id) => _ = ids.pop(),
                _ => {}
            }
            Ok(())
        };
        let mut stopped = false;
        let request = self.pipeline.request(prompt, config)?;
        let ran = self.pipeline.run_noting(request, note, |event| {
            event.add_to(segments);
            if let PipelineEvent::End(reason) = event {
                *end = Some(reason);
            }
            match on_event(ChatEvent::Answer(event))? {
                ControlFlow::Continue(()) => Ok(()),
                ControlFlow::Break(()) => {
                    stopped = true;
                    Err(Error::invalid("stopped"))
                }
            }
        });
        match ran {
            Err(_) if stopped => Ok(()),
            ran => {
                ran?;
                self.drop_stop_string(draft)
            }
        }
    }

    /// Makes the ids after the last image those of the text that was shown: the stop string that ended an answer is
    /// no part of it.
    fn drop_stop_string(&self, draft: &mut Draft) -> Result<()> {
        let Draft { segments, ids, end: Some(EndReason::StopString(_)) } = draft else {
            return Ok(());
        };
        let processor = &self.pipeline.processor;
        let is_end = |id: &u32| processor.vocabulary().class(*id) == TokenClass::EndImage;
        ids.truncate(ids.iter().rposition(is_end).map_or(0, |last| last + 1));
        if let Some(Segment::Text(shown)) = segments.last() {
            ids.extend(processor.text().encode_plain(shown)?);
        }
        Ok(())
    }
}

/// An answer in progress.
#[derive(Default)]
struct Draft {
    segments: Vec<Segment>,
    ids: Vec<u32>,
    end: Option<EndReason>,
}
