//! POST `/v1/completions`: continuations of a text.

use std::sync::Arc;

use axum::extract::State as Shared;
use axum::response::{IntoResponse, Response};
use serde::Deserialize;
use serde_json::{Value, json};

use super::answer::{self, Asked, Part};
use super::heading::Heading;
use super::stream::{self, StreamOptions};
use crate::generate::GenerationMode;
use crate::server::body::Json;
use crate::server::fault::Fault;
use crate::server::form::{self, ResponseFormat, StructuredOutputs};
use crate::server::sampling::{OneOrMany, Settings, request};
use crate::server::state::State;
use crate::server::work::Work;
use crate::tokenize::Segment;

/// The kind of the responses, streamed or not.
const OBJECT: &str = "text_completion";

request! {
    /// The body.
    struct Completion {
        prompt: Prompt,
        response_format: Option<ResponseFormat>,
        structured_outputs: Option<StructuredOutputs>,
        #[serde(default)]
        stream: bool,
        stream_options: Option<StreamOptions>,
    }
}

/// A text, or ids.
#[derive(Debug, Deserialize)]
#[serde(untagged)]
pub(super) enum Prompt {
    Text(String),
    Ids(Vec<u32>),
}

/// Continues a text.
pub(super) async fn post(
    Shared(state): Shared<Arc<State>>,
    Json(body): Json<Completion>,
) -> Result<Response, Fault> {
    let settings = body.settings();
    let count = settings.answers(&state.config.limits)?;
    let work = Work::new(&state, state.model(body.model.as_deref())?, count)?;
    let mut config = settings.over(work.pipeline().generation(), &state.config.limits)?;
    config.mode = GenerationMode::TextOnly;
    let heading = Heading::new("cmpl", &work, &config);
    let grammar = form::grammar(body.response_format.as_ref(), body.structured_outputs.as_ref())?;
    let asked = Asked { config, grammar, count };
    let prompt = body.prompt;
    let mut parts = answer::start(work, asked, move |work| match prompt {
        Prompt::Text(text) => Ok(work.pipeline().encode_segments(&[Segment::Text(text)])?),
        Prompt::Ids(ids) => Ok(ids),
    });
    if !body.stream {
        let (answers, usage) = answer::whole(parts, count).await?;
        let choices = answers.into_iter().enumerate();
        let choices = choices.map(|(index, answer)| choice(index, &answer.text, answer.reason));
        let value = heading.over(OBJECT, choices.collect(), Some(usage));
        return Ok(axum::Json(value).into_response());
    }
    let first = stream::first(&mut parts).await?;
    let with_usage = body.stream_options.is_some_and(|options| options.include_usage);
    Ok(stream::events(first, parts, move |part| {
        let (choices, usage) = match part {
            Part::Text(index, text) => (vec![choice(index, &text, "")], None),
            Part::Ended(index, reason) => (vec![choice(index, "", reason)], None),
            Part::Usage(usage) if with_usage => (Vec::new(), Some(usage)),
            Part::Usage(_) | Part::Image(..) | Part::Progress(..) => return Vec::new(),
        };
        vec![heading.over(OBJECT, choices, usage)]
    }))
}

/// `reason` is empty while the answer goes on.
fn choice(index: usize, text: &str, reason: &str) -> Value {
    let reason = (!reason.is_empty()).then_some(reason);
    json!({ "index": index, "text": text, "finish_reason": reason, "logprobs": null })
}
