//! POST `/v1/chat/completions`.

use std::sync::Arc;

use axum::extract::State as Shared;
use axum::response::{IntoResponse, Response};
use serde::Deserialize;
use serde_json::{Value, json};

use super::answer::{self, Asked, Whole, image_part};
use super::conversation::Conversation;
use super::heading::Heading;
use super::logprobs;
use super::messages::Message;
use super::parts::Part;
use super::rows::check_partial;
use super::stream::{self, StreamOptions};
use super::tools::{self, Callable, Choice, Offered};
use crate::generate::GenerationMode;
use crate::server::body::Json;
use crate::server::fault::Fault;
use crate::server::form::{self, ResponseFormat, StructuredOutputs};
use crate::server::image_data::uri_of;
use crate::server::sampling::{OneOrMany, Settings, request};
use crate::server::state::State;
use crate::server::work::Work;

request! {
    /// The body.
    struct Chat {
        messages: Vec<Message>,
        /// What answers may hold: `text`, `image` or both.
        modalities: Option<Vec<Modality>>,
        response_format: Option<ResponseFormat>,
        structured_outputs: Option<StructuredOutputs>,
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
        tool_choice: Option<Choice>,
        /// Whether an answer may have several calls; it may by default.
        parallel_tool_calls: Option<bool>,
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum Modality {
    Text,
    Image,
}

/// Answers a conversation.
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
    let conversation = Conversation {
        messages: body.messages,
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

fn choice(index: usize, whole: Whole, with_logprobs: bool) -> Value {
    let Whole { text, images, parts, calls, reason, told } = whole;
    let logprobs = with_logprobs.then(|| logprobs::of_chat(&told));
    let mut message = json!({ "role": "assistant", "content": text, "refusal": null });
    if !images.is_empty() {
        message["images"] = images.into();
        message["x_parts"] = parts.into();
    }
    if !calls.is_empty() {
        if text.trim().is_empty() {
            message["content"] = Value::Null;
        }
        message["tool_calls"] = calls.into();
    }
    json!({ "index": index, "message": message, "finish_reason": reason, "logprobs": logprobs })
}

/// Makes the chunks of a stream of `count` answers.
fn chunks(
    heading: Heading,
    count: usize,
    with_usage: bool,
    with_logprobs: bool,
) -> impl FnMut(Part) -> Vec<Value> {
    let (mut images, mut calls) = (vec![0; count], vec![0; count]);
    let mut begun = vec![false; count];
    move |part| {
        let mut logprobs = None;
        let (index, mut delta, reason) = match part {
            Part::Text(index, text, told) => {
                logprobs = with_logprobs.then(|| logprobs::of_chat(&told));
                (index, json!({ "content": text }), None)
            }
            Part::Progress(index, [done, total], rows) => {
                let mut progress = json!({ "done": done, "total": total });
                if let Some(rows) = rows {
                    progress["image_url"] = json!({ "url": uri_of(&rows) });
                }
                (index, json!({ "x_image_progress": progress }), None)
            }
            Part::Image(index, base64) => {
                let number = images[index];
                images[index] += 1;
                (index, json!({ "images": [image_part(number, &base64)] }), None)
            }
            Part::Call(index, call, told) => {
                logprobs = with_logprobs.then(|| logprobs::of_chat(&told));
                let mut call = tools::to_json(&call);
                call["index"] = calls[index].into();
                calls[index] += 1;
                (index, json!({ "tool_calls": [call] }), None)
            }
            Part::Ended(index, reason) => (index, json!({}), Some(reason)),
            Part::Usage(usage) => {
                let chunk = heading.over("chat.completion.chunk", Vec::new(), Some(usage));
                return if with_usage { vec![chunk] } else { Vec::new() };
            }
        };
        if !std::mem::replace(&mut begun[index], true) {
            delta["role"] = json!("assistant");
        }
        let choice = json!({ "index": index, "delta": delta, "finish_reason": reason, "logprobs": logprobs });
        vec![heading.over("chat.completion.chunk", vec![choice], None)]
    }
}
