//! POST `/v1/chat/completions`.

use std::sync::Arc;

use axum::extract::State as Shared;
use axum::response::{IntoResponse, Response};
use serde::Deserialize;
use utoipa::ToSchema;

use super::answer::{self, Asked, Whole};
use super::conversation::Conversation;
use super::faults::Faults;
use super::heading::{self, Heading};
use super::logprobs::{self, ChatLogprobs};
use super::messages::{self, Message};
use super::parts::Part;
use super::reply::{Address, Choice, ChunkChoice, Delta, Progress, Reply, ReplyImage};
use super::rows::check_partial;
use super::stream::{self, StreamOptions};
use super::tools::{Callable, Called, Offered, ToolChoice};
use crate::generate::GenerationMode;
use crate::server::body::Json;
use crate::server::fault::Fault;
use crate::server::form::{self, ResponseFormat, StructuredOutputs};
use crate::server::sampling::{OneOrMany, Settings, request};
use crate::server::state::State;
use crate::server::work::Work;

request! {
    /// A conversation, and how to answer it.
    struct Chat {
        /// Instructions first, then turns of both sides; the last one is the user's, or results of functions.
        messages: Vec<Message>,
        /// What answers may hold: `text`, `image` or both.
        modalities: Option<Vec<Modality>>,
        /// What the text must be.
        response_format: Option<ResponseFormat>,
        /// The same by vLLM's names.
        structured_outputs: Option<StructuredOutputs>,
        /// Whether the answer comes as events.
        stream: Option<bool>,
        stream_options: Option<StreamOptions>,
        /// How many times a stream shows the rows of each image that is drawn, 0 to 64.
        partial_images: Option<usize>,
        /// Whether each token of text is told with its log-probability.
        logprobs: Option<bool>,
        /// With how many likely tokens, 0 to 20.
        top_logprobs: Option<usize>,
        /// The functions that answers may call.
        tools: Option<Vec<Offered>>,
        /// Whether they must: `none`, `auto`, `required`, or one of them.
        tool_choice: Option<ToolChoice>,
        /// Whether an answer may have several calls; it may by default.
        parallel_tool_calls: Option<bool>,
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub(super) enum Modality {
    Text,
    Image,
}

/// Who answers.
const ASSISTANT: &str = "assistant";

/// Answers a conversation
///
/// Text and images go in, as `image_url` parts with `data:` URIs, and come out: images of an answer are `message.images`, in
/// streams `delta.images`. With `stream` the answer is events, and `data: [DONE]` at the end; a fault in a stream is an event
/// with `error`.
#[utoipa::path(
    post,
    path = "/v1/chat/completions",
    operation_id = "create_chat_completion",
    tag = "Answers",
    request_body(
        content = Chat,
        examples(
            ("question" = (value = json!({
                "messages": [{ "role": "user", "content": "what color is the sky?" }],
                "max_tokens": 40,
            }))),
            ("streamed drawing" = (value = json!({
                "messages": [{ "role": "user", "content": "a large red circle on a white background" }],
                "modalities": ["image"],
                "stream": true,
                "partial_images": 3,
            }))),
        ),
    ),
    responses(
        (status = 200, description = "The answers", content(
            (heading::Response<Choice> = "application/json"),
            (heading::Response<ChunkChoice> = "text/event-stream"),
        )),
        Faults,
    ),
)]
pub(super) async fn post(
    Shared(state): Shared<Arc<State>>,
    Json(body): Json<Chat>,
) -> Result<Response, Fault> {
    let settings = body.settings();
    let count = settings.answers(&state.config.limits)?;
    let work = Work::new(&state, state.model(body.model.as_deref())?, count)?;
    let mut config = settings.over(work.pipeline().generation(), &state.config.limits)?;
    let has = |modality| body.modalities.as_ref().map(|asked| asked.contains(&modality));
    config.mode = match (has(Modality::Text), has(Modality::Image)) {
        (Some(false), Some(true)) => GenerationMode::ImageOnly,
        (Some(true), Some(false)) => GenerationMode::TextOnly,
        (Some(false), Some(false)) => {
            return Err(Fault::of("modalities", "modalities is empty; allowed: text, image"));
        }
        (Some(true), Some(true)) => GenerationMode::Auto,
        _ => config.mode,
    };
    let heading = Heading::new("chatcmpl", &work, &config);
    let draw = config.mode == GenerationMode::ImageOnly;
    let partial = check_partial(body.partial_images)?;
    let logprobs = logprobs_of(body.logprobs, body.top_logprobs)?;
    let grammar = form::grammar(body.response_format.as_ref(), body.structured_outputs.as_ref())?;
    let offered = (body.tools, body.tool_choice, body.parallel_tool_calls);
    let callable = Callable::new(work.pipeline(), offered)?;
    if callable.is_some() && (grammar.is_some() || draw) {
        let message = "tools go with no other form of the answer; allowed: tool_choice none";
        return Err(Fault::of("tools", message));
    }
    let forced = callable.as_ref().and_then(|callable| callable.forced.clone());
    let mut messages = body.messages;
    let memory = messages::fetch_images(&state, &mut messages).await?;
    let conversation = Conversation {
        messages,
        memory,
        tools: callable.as_ref().map(|callable| callable.tools.clone()),
        is_call: forced.is_some(),
        draw,
    };
    let asked = Asked { config, grammar: grammar.or(forced), count, partial, logprobs, callable };
    let mut parts = answer::start(work, asked, move |work| {
        Ok(vec![conversation.prompt(work.pipeline(), &work.state().config.limits)?])
    });
    if body.stream != Some(true) {
        let (answers, usage) = answer::whole(parts, count).await?;
        let choices = answers.into_iter().enumerate();
        let choices = choices.map(|(index, whole)| choice(index, whole, logprobs.is_some()));
        let choices = choices.collect();
        let value = heading.over("chat.completion", choices, Some(usage));
        return Ok(axum::Json(value).into_response());
    }
    let first = stream::first(&mut parts).await?;
    let with_usage = body.stream_options.is_some_and(|options| options.include_usage == Some(true));
    Ok(stream::events(first, parts, chunks(heading, count, with_usage, logprobs.is_some())))
}

/// How many likely tokens are told with each token of text, if any are told.
///
/// # Errors
/// If it is out of range.
fn logprobs_of(logprobs: Option<bool>, top: Option<usize>) -> Result<Option<usize>, Fault> {
    match (logprobs, top) {
        (Some(true), top) => logprobs::check("top_logprobs", top.unwrap_or(0)).map(Some),
        (_, Some(1..)) => Err(Fault::of("top_logprobs", "top_logprobs needs logprobs")),
        _ => Ok(None),
    }
}

fn choice(index: usize, whole: Whole, with_logprobs: bool) -> Choice {
    let Whole { text, images, parts, calls, reason, told } = whole;
    let has_text = calls.is_empty() || !text.trim().is_empty();
    let message = Reply {
        role: ASSISTANT,
        content: has_text.then_some(text),
        refusal: (),
        tool_calls: calls,
        x_parts: if images.is_empty() { Vec::new() } else { parts },
        images,
    };
    let logprobs = with_logprobs.then(|| ChatLogprobs::new(told));
    Choice { index, message, finish_reason: reason, logprobs }
}

/// Makes the chunks of a stream of `count` answers.
fn chunks(
    heading: Heading,
    count: usize,
    with_usage: bool,
    with_logprobs: bool,
) -> impl FnMut(Part) -> Vec<heading::Response<ChunkChoice>> {
    const OBJECT: &str = "chat.completion.chunk";
    let (mut images, mut calls) = (vec![0; count], vec![0; count]);
    let mut begun = vec![false; count];
    move |part| {
        let (mut delta, mut tokens, mut finish_reason) = (Delta::default(), None, None);
        let index = match part {
            Part::Text(index, text, told) => {
                (delta.content, tokens) = (Some(text), Some(told));
                index
            }
            Part::Progress(index, [done, total], rows) => {
                let image_url = rows.map(|rows| Address::of(&rows));
                delta.x_image_progress = Some(Progress { done, total, image_url });
                index
            }
            Part::Image(index, base64) => {
                delta.images = vec![ReplyImage::new(next(&mut images[index]), &base64)];
                index
            }
            Part::Call(index, call, told) => {
                delta.tool_calls = vec![Called::new(call, Some(next(&mut calls[index])))];
                tokens = Some(told);
                index
            }
            Part::Ended(index, reason) => {
                finish_reason = Some(reason);
                index
            }
            Part::Usage(usage) if with_usage => {
                return vec![heading.over(OBJECT, Vec::new(), Some(usage))];
            }
            Part::Usage(_) => return Vec::new(),
        };
        if !std::mem::replace(&mut begun[index], true) {
            delta.role = Some(ASSISTANT);
        }
        let logprobs = tokens.filter(|_| with_logprobs).map(ChatLogprobs::new);
        let choice = ChunkChoice { index, delta, finish_reason, logprobs };
        vec![heading.over(OBJECT, vec![choice], None)]
    }
}

/// The number, which goes up by one.
fn next(number: &mut usize) -> usize {
    *number += 1;
    *number - 1
}
