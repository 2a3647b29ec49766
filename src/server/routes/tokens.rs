//! Texts and images as ids, and back.

use std::sync::Arc;

use axum::extract::State as Shared;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;
use vq_tokenizer::Codes;

use super::conversation::Conversation;
use super::faults::Faults;
use super::messages::{self, Message};
use super::reply::Address;
use super::stream;
use super::text_limit::check_text;
use super::tools::{self, Offered};
use crate::generate::LanguageModel;
use crate::server::body::Json;
use crate::server::fault::Fault;
use crate::server::image_data::png_in_base64;
use crate::server::sampling::Ignored;
use crate::server::state::State;
use crate::server::work::Work;
use crate::tokenize::{CodedSegment, Segment};

/// A text, or a conversation as for an answer.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct Tokenize {
    model: Option<String>,
    prompt: Option<String>,
    pub(super) messages: Option<Vec<Message>>,
    /// The functions that the answer may call.
    tools: Option<Vec<Offered>>,
    /// Whether a prompt begins as that of a completion does; by default it does.
    add_special_tokens: Option<bool>,
    #[serde(default, rename = "return_token_strs")]
    _return_token_strs: Ignored,
}

/// Ids with their names.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct Tokens {
    count: usize,
    /// The context, in tokens.
    max_model_len: usize,
    tokens: Vec<u32>,
    token_strs: Vec<Option<String>>,
    /// The code of each id that stands for a patch of an image.
    image_codes: Vec<Option<u32>>,
}

/// Tells the ids of a text or of a conversation
///
/// With the codes of its images.
#[utoipa::path(
    post,
    path = "/tokenize",
    tag = "Tokens",
    request_body(content = Tokenize, example = json!({ "prompt": "a red circle" })),
    responses((status = 200, description = "The ids", body = Tokens), Faults),
)]
pub(super) async fn tokenize(
    Shared(state): Shared<Arc<State>>,
    Json(mut body): Json<Tokenize>,
) -> Result<axum::Json<Tokens>, Fault> {
    let work = Work::new(&state, state.model(body.model.as_deref())?, 1)?;
    let memory =
        messages::fetch_images(&state, body.messages.as_deref_mut().unwrap_or_default()).await?;
    let parts = work.start(move |work, to| {
        let pipeline = work.pipeline();
        let ids = work.in_turn(|| match (body.prompt, body.messages) {
            (Some(prompt), None) => {
                check_text(pipeline, prompt.len())?;
                match body.add_special_tokens {
                    Some(false) => Ok(pipeline.processor().text().encode_plain(&prompt)?),
                    _ => Ok(pipeline.encode_segments(&[Segment::Text(prompt)])?),
                }
            }
            (None, Some(messages)) => {
                let tools = body.tools.map(|tools| tools::listed(pipeline, tools)).transpose()?;
                let conversation =
                    Conversation { messages, memory, tools, is_call: false, draw: false };
                conversation.prompt(pipeline, &work.state().config.limits)
            }
            _ => Err(Fault::invalid("one of prompt and messages is needed")),
        })?;
        let vocabulary = pipeline.processor().vocabulary();
        let name = |id: &u32| vocabulary.name(*id).map(str::to_owned);
        to.send(Tokens {
            count: ids.len(),
            max_model_len: pipeline.model().context(),
            token_strs: ids.iter().map(name).collect(),
            image_codes: ids.iter().map(|id| vocabulary.image_code(*id)).collect(),
            tokens: ids,
        })
    });
    stream::only(parts).await.map(axum::Json)
}

/// Ids of a model.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct Detokenize {
    model: Option<String>,
    tokens: Vec<u32>,
}

/// What ids stand for.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct Detokenized {
    /// All texts.
    prompt: String,
    /// Texts, images and control tokens in order.
    x_parts: Vec<Stretch>,
}

/// Ids in a row.
#[derive(Debug, Serialize, ToSchema)]
#[serde(tag = "type", rename_all = "snake_case")]
enum Stretch {
    Text {
        text: String,
    },
    Control {
        name: String,
    },
    ImageUrl {
        image_url: Address,
        /// Row by row.
        codes: Vec<u32>,
        rows: usize,
        columns: usize,
    },
}

/// Tells what ids stand for
#[utoipa::path(
    post,
    path = "/detokenize",
    tag = "Tokens",
    request_body(content = Detokenize, example = json!({ "tokens": [5, 6, 7] })),
    responses((status = 200, description = "Text, and images in their places", body = Detokenized), Faults),
)]
pub(super) async fn detokenize(
    Shared(state): Shared<Arc<State>>,
    Json(body): Json<Detokenize>,
) -> Result<axum::Json<Detokenized>, Fault> {
    let work = Work::new(&state, state.model(body.model.as_deref())?, 1)?;
    let parts = work.start(move |work, to| {
        let pipeline = work.pipeline();
        let ids = pipeline.processor().vocabulary().len();
        if let Some(id) = body.tokens.iter().find(|id| **id as usize >= ids) {
            let message = format!("tokens has {id}; allowed: 0 to {}", ids - 1);
            return Err(Fault::of("tokens", message));
        }
        let context = pipeline.model().context();
        if body.tokens.len() > context {
            let message = format!("{} tokens; allowed: {context}, the context", body.tokens.len());
            return Err(Fault::of("tokens", message));
        }
        let segments = pipeline.processor().decode(&body.tokens)?;
        let mut text = String::new();
        let mut parts = Vec::with_capacity(segments.len());
        for segment in segments {
            parts.push(match segment {
                CodedSegment::Text(part) => {
                    text.push_str(&part);
                    Stretch::Text { text: part }
                }
                CodedSegment::Special(name) => Stretch::Control { name: name.to_string() },
                CodedSegment::Image(codes) => {
                    let vq = pipeline.drawing_vq()?;
                    let image = work.in_turn(|| Ok(vq.decode(std::slice::from_ref(&codes))?));
                    let image_url = Address::of(&png_in_base64(&image?[0])?);
                    let Codes { ids: codes, height: rows, width: columns } = codes;
                    Stretch::ImageUrl { image_url, codes, rows, columns }
                }
            });
        }
        to.send(Detokenized { prompt: text, x_parts: parts })
    });
    stream::only(parts).await.map(axum::Json)
}
