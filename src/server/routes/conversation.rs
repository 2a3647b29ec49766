//! Conversations, and the ids of the prompts that they make.

use std::sync::Arc;

use tokio::sync::OwnedSemaphorePermit;

use super::messages::{Item, Message, Read, Role, Room, text_of};
use super::text_limit::check_text;
use crate::pipeline::{Pipeline, Question, ToolCall, ToolResult, Tools};
use crate::server::config::Limits;
use crate::server::fault::Fault;
use crate::tokenize::Segment;

/// A conversation, and what is to come next.
pub(super) struct Conversation {
    pub(super) messages: Vec<Message>,
    /// For the images that were fetched.
    pub(super) memory: Option<OwnedSemaphorePermit>,
    /// The functions that the answer may call.
    pub(super) tools: Option<Arc<Tools>>,
    /// Whether it must call one.
    pub(super) is_call: bool,
    /// Whether the answer is an image.
    pub(super) draw: bool,
}

/// A turn of one side: all its messages in a row.
enum Turn {
    Asked { results: Vec<ToolResult>, segments: Vec<Segment> },
    Answered { segments: Vec<Segment>, calls: Vec<ToolCall> },
}

/// Turns so far.
#[derive(Default)]
struct Turns {
    system: Vec<String>,
    turns: Vec<Turn>,
    /// Ids and names of the calls that have no result yet.
    open: Vec<(String, String)>,
}

impl Conversation {
    /// The ids of the prompt for the answer. Messages of one role that follow one another are one, with a line break
    /// between their texts.
    ///
    /// # Errors
    /// If roles are out of order, the last message is an answer, calls have no results, texts or images exceed the limits,
    /// or the layout of conversations has no place for something.
    pub(super) fn prompt(self, pipeline: &Pipeline, limits: &Limits) -> Result<Vec<u32>, Fault> {
        let Self { messages, memory: _memory, tools, is_call, draw } = self;
        check(pipeline, &messages, limits)?;
        let has_calls = messages.iter().any(Message::is_of_calls);
        let (mut turns, mut room) = (Turns::default(), Room::new(limits));
        for (index, message) in messages.into_iter().enumerate() {
            let place = format!("messages[{index}]");
            let read = room.read(message).map_err(|fault| fault.within(&place))?;
            let refused = |said| Fault::of("messages", format!("{place}: {said}"));
            turns.push(read).map_err(refused)?;
        }
        turns.has_results().map_err(|said| Fault::of("messages", said))?;
        let Turns { system, mut turns, .. } = turns;
        let Some(Turn::Asked { results, segments }) = turns.pop() else {
            return Err(Fault::of("messages", "the last message must be the user's or a tool's"));
        };
        let mut chat = pipeline.chat((!system.is_empty()).then(|| system.join("\n")));
        match tools {
            Some(tools) => chat = chat.with_tools(tools),
            None if has_calls => chat = chat.with_tools(Arc::new(pipeline.tools(Vec::new())?)),
            None => {}
        }
        let mut past = turns.into_iter();
        while let (
            Some(Turn::Asked { results, segments }),
            Some(Turn::Answered { segments: answer, calls }),
        ) = (past.next(), past.next())
        {
            let is_image = |segment: &Segment| matches!(segment, Segment::Image(_));
            let draw = answer.iter().any(is_image) && text_of(&answer).is_empty();
            chat.add(question(results, segments, draw), answer, calls)?;
        }
        let question = question(results, segments, draw);
        Ok(if is_call { chat.prompt_to_call(&question)? } else { chat.prompt(&question)? })
    }
}

impl Turns {
    /// # Errors
    /// Why the message cannot come here.
    fn push(&mut self, read: Read) -> Result<(), String> {
        if read.role != Role::Tool {
            self.has_results()?;
        }
        match (read.role, self.turns.last_mut()) {
            (Role::System | Role::Developer, None) if !read.has_images() => {
                self.system.push(read.text());
            }
            (Role::System | Role::Developer, _) => {
                return Err("instructions must come first and hold text only".to_owned());
            }
            (Role::Tool, _) => return self.push_result(read),
            (Role::User, Some(Turn::Asked { segments, .. })) => segments.extend(read.segments),
            (Role::User, _) => {
                self.turns.push(Turn::Asked { results: Vec::new(), segments: read.segments });
            }
            (Role::Assistant, None) => return Err("the first turn must be the user's".to_owned()),
            (Role::Assistant, Some(last)) => {
                let open = read.calls.iter().map(|call| (call.id.clone(), call.name.clone()));
                self.open.extend(open);
                match last {
                    Turn::Answered { segments, calls } => {
                        segments.extend(read.segments);
                        calls.extend(read.calls);
                    }
                    Turn::Asked { .. } => {
                        let (segments, calls) = (read.segments, read.calls);
                        self.turns.push(Turn::Answered { segments, calls });
                    }
                }
            }
        }
        Ok(())
    }

    fn push_result(&mut self, read: Read) -> Result<(), String> {
        if read.has_images() {
            return Err("results of functions hold text only".to_owned());
        }
        let text = read.text();
        let id = read.of_call.unwrap_or_default();
        let place = self.open.iter().position(|(open, _)| *open == id);
        let place = place.ok_or_else(|| format!("no call {id:?} is waiting for its result"))?;
        let (id, name) = self.open.remove(place);
        let result = ToolResult { id, name, text };
        match self.turns.last_mut() {
            Some(Turn::Asked { results, .. }) => results.push(result),
            _ => self.turns.push(Turn::Asked { results: vec![result], segments: Vec::new() }),
        }
        Ok(())
    }

    /// # Errors
    /// If a call has no result.
    fn has_results(&self) -> Result<(), String> {
        match self.open.first() {
            Some((id, _)) => Err(format!("the result of the call {id:?} must come first")),
            None => Ok(()),
        }
    }
}

fn question(results: Vec<ToolResult>, segments: Vec<Segment>, draw: bool) -> Question {
    let text = text_of(&segments);
    let images = segments.into_iter().filter_map(|segment| match segment {
        Segment::Image(image) => Some(image),
        Segment::Text(_) => None,
    });
    Question { text, images: images.collect(), draw, results }
}

/// Checks what can be checked before anything is decoded.
///
/// # Errors
/// If there are too many images, or more text than any prompt holds.
fn check(pipeline: &Pipeline, messages: &[Message], limits: &Limits) -> Result<(), Fault> {
    let (mut images, mut bytes) = (0, 0);
    for item in messages.iter().flat_map(Message::items) {
        match item {
            Item::Text(text) => bytes += text.len(),
            Item::Image(_) => images += 1,
        }
    }
    if images > limits.images {
        let message = format!("{images} images; allowed: {} in a request", limits.images);
        return Err(Fault::of("messages", message));
    }
    check_text(pipeline, bytes)
}
