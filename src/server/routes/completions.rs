//! POST `/v1/completions`: continuations of a text.

use std::sync::Arc;

use axum::extract::State as Shared;
use axum::response::{IntoResponse, Response};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::answer::{self, Asked, Whole};
use super::faults::Faults;
use super::heading::{self, Heading};
use super::logprobs::{self, CompletionLogprobs};
use super::parts::Part;
use super::stream::{self, StreamOptions};
use super::text_limit::check_text;
use crate::generate::GenerationMode;
use crate::pipeline::Pipeline;
use crate::server::body::Json;
use crate::server::fault::Fault;
use crate::server::form::{self, ResponseFormat, StructuredOutputs};
use crate::server::sampling::{Neutral, OneOrMany, Settings, request};
use crate::server::state::State;
use crate::server::work::Work;
use crate::tokenize::Segment;

/// The kind of the responses, streamed or not.
const OBJECT: &str = "text_completion";

request! {
    /// Texts, and how to continue them.
    struct Completion {
        prompt: Prompt,
        /// What the text must be.
        response_format: Option<ResponseFormat>,
        /// The same by vLLM's names.
        structured_outputs: Option<StructuredOutputs>,
        /// Whether the answer comes as events.
        stream: Option<bool>,
        stream_options: Option<StreamOptions>,
        /// How many likely tokens are told with each token, 0 to 20.
        logprobs: Option<usize>,
        #[serde(default, rename = "echo")]
        _echo: Neutral,
        #[serde(default, rename = "suffix")]
        _suffix: Neutral,
    }
}

/// Texts, or lists of ids.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(untagged, expecting = "expected a text, a list of ids, or a list of those")]
pub(super) enum Prompt {
    Text(String),
    Ids(Vec<u32>),
    Texts(Vec<String>),
    Lists(Vec<Vec<u32>>),
}

impl Prompt {
    fn len(&self) -> usize {
        match self {
            Self::Text(_) | Self::Ids(_) => 1,
            Self::Texts(texts) => texts.len(),
            Self::Lists(lists) => lists.len(),
        }
    }

    /// The ids of each prompt.
    fn ids(self, pipeline: &Pipeline) -> Result<Vec<Vec<u32>>, Fault> {
        let encode = |text: String| {
            check_text(pipeline, text.len())?;
            Ok(pipeline.encode_segments(&[Segment::Text(text)])?)
        };
        match self {
            Self::Text(text) => Ok(vec![encode(text)?]),
            Self::Texts(texts) => texts.into_iter().map(encode).collect(),
            Self::Ids(ids) => Ok(vec![ids]),
            Self::Lists(lists) => Ok(lists),
        }
    }
}

/// Continues texts
///
/// No image is begun; names of tokens in a text are text.
#[utoipa::path(
    post,
    path = "/v1/completions",
    operation_id = "create_completion",
    tag = "Answers",
    request_body(content = Completion, example = json!({ "prompt": "a large red", "max_tokens": 16 })),
    responses(
        (status = 200, description = "The continuations, or their steps", content(
            (heading::Response<Choice> = "application/json"),
            (heading::Response<Choice> = "text/event-stream"),
        )),
        Faults,
    ),
)]
pub(super) async fn post(
    Shared(state): Shared<Arc<State>>,
    Json(body): Json<Completion>,
) -> Result<Response, Fault> {
    let settings = body.settings();
    let count = settings.answers(&state.config.limits)?;
    let all = count * body.prompt.len();
    let work = Work::new(&state, state.model(body.model.as_deref())?, all)?;
    let mut config = settings.over(work.pipeline().generation(), &state.config.limits)?;
    config.mode = GenerationMode::TextOnly;
    let heading = Heading::new("cmpl", &work, &config);
    let logprobs = body.logprobs.map(|most| logprobs::check("logprobs", most)).transpose()?;
    let grammar = form::grammar(body.response_format.as_ref(), body.structured_outputs.as_ref())?;
    let asked = Asked { config, grammar, count, partial: 0, logprobs, callable: None };
    let prompt = body.prompt;
    let mut parts = answer::start(work, asked, move |work| prompt.ids(work.pipeline()));
    if body.stream != Some(true) {
        let (answers, usage) = answer::whole(parts, all).await?;
        let choices =
            answers.into_iter().enumerate().map(|(index, Whole { text, reason, told, .. })| {
                let logprobs = logprobs.map(|_| CompletionLogprobs::new(told, &mut Vec::new()));
                Choice { index, text, finish_reason: Some(reason), logprobs }
            });
        let value = heading.over(OBJECT, choices.collect(), Some(usage));
        return Ok(axum::Json(value).into_response());
    }
    let first = stream::first(&mut parts).await?;
    let with_usage = body.stream_options.is_some_and(|options| options.include_usage == Some(true));
    // Bytes of each answer's tokens so far.
    let mut before = vec![Vec::new(); all];
    Ok(stream::events(first, parts, move |part| {
        let (choices, usage) = match part {
            Part::Text(index, text, told) => {
                let logprobs = logprobs.map(|_| CompletionLogprobs::new(told, &mut before[index]));
                (vec![Choice { index, text, finish_reason: None, logprobs }], None)
            }
            Part::Ended(index, reason) => {
                let (text, finish_reason) = (String::new(), Some(reason));
                (vec![Choice { index, text, finish_reason, logprobs: None }], None)
            }
            Part::Usage(usage) if with_usage => (Vec::new(), Some(usage)),
            Part::Usage(_) | Part::Image(..) | Part::Progress(..) | Part::Call(..) => {
                return Vec::new();
            }
        };
        vec![heading.over(OBJECT, choices, usage)]
    }))
}

/// An answer, or a step of one.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = CompletionChoice)]
struct Choice {
    index: usize,
    text: String,
    /// `stop`, `length` or `abort`; null while the answer goes on.
    finish_reason: Option<&'static str>,
    logprobs: Option<CompletionLogprobs>,
}
