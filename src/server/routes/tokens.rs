//! Texts and images as ids, and back.

use std::sync::Arc;

use axum::extract::State as Shared;
use serde::Deserialize;
use serde_json::{Value, json};

use super::conversation::Conversation;
use super::messages::Message;
use super::stream;
use super::text_limit::check_text;
use super::tools::{self, Offered};
use crate::generate::LanguageModel;
use crate::server::body::Json;
use crate::server::fault::Fault;
use crate::server::image_data::{png_in_base64, uri_of};
use crate::server::state::State;
use crate::server::work::Work;
use crate::tokenize::{CodedSegment, Segment};

/// A text, or a conversation as for an answer.
#[derive(Deserialize)]
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
    _return_token_strs: serde::de::IgnoredAny,
}

/// The ids of a text or of a conversation, with the codes of its images by name.
pub(super) async fn tokenize(
    Shared(state): Shared<Arc<State>>,
    Json(body): Json<Tokenize>,
) -> Result<axum::Json<Value>, Fault> {
    let work = Work::new(&state, state.model(body.model.as_deref())?, 1)?;
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
                let conversation = Conversation { messages, tools, is_call: false, draw: false };
                conversation.prompt(pipeline, &work.state().config.limits)
            }
            _ => Err(Fault::invalid("one of prompt and messages is needed")),
        })?;
        let vocabulary = pipeline.processor().vocabulary();
        let names: Vec<_> = ids.iter().map(|id| vocabulary.name(*id)).collect();
        let codes: Vec<_> = ids.iter().map(|id| vocabulary.image_code(*id)).collect();
        let context = pipeline.model().context();
        to.send(json!({
            "count": ids.len(),
            "max_model_len": context,
            "tokens": ids,
            "token_strs": names,
            "image_codes": codes,
        }))
    });
    stream::only(parts).await.map(axum::Json)
}

/// Ids of a model.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Detokenize {
    model: Option<String>,
    tokens: Vec<u32>,
}

/// The text of ids, and its parts with images in their places.
pub(super) async fn detokenize(
    Shared(state): Shared<Arc<State>>,
    Json(body): Json<Detokenize>,
) -> Result<axum::Json<Value>, Fault> {
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
                    json!({ "type": "text", "text": part })
                }
                CodedSegment::Special(name) => json!({ "type": "control", "name": name }),
                CodedSegment::Image(codes) => {
                    let vq = pipeline.drawing_vq()?;
                    let image = work.in_turn(|| Ok(vq.decode(std::slice::from_ref(&codes))?));
                    let url = uri_of(&png_in_base64(&image?[0])?);
                    let (rows, columns) = (codes.height, codes.width);
                    json!({
                        "type": "image_url",
                        "image_url": { "url": url },
                        "codes": codes.ids,
                        "rows": rows,
                        "columns": columns,
                    })
                }
            });
        }
        to.send(json!({ "prompt": text, "x_parts": parts }))
    });
    stream::only(parts).await.map(axum::Json)
}
