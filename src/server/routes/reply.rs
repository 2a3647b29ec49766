//! Answers of chats as clients get them.

use serde::Serialize;
use utoipa::ToSchema;

use super::logprobs::ChatLogprobs;
use super::messages::Place;
use super::tools::Called;
use crate::server::image_data::uri_of;

/// An answer.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = ChatChoice)]
pub(super) struct Choice {
    pub(super) index: usize,
    pub(super) message: Reply,
    /// `stop`, `length`, `tool_calls` or `abort`.
    pub(super) finish_reason: &'static str,
    pub(super) logprobs: Option<ChatLogprobs>,
}

/// What the model says.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct Reply {
    pub(super) role: &'static str,
    /// All texts of the answer; null if it has calls only.
    pub(super) content: Option<String>,
    /// Always null.
    #[schema(value_type = Option<String>)]
    pub(super) refusal: (),
    /// Calls of functions.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub(super) tool_calls: Vec<Called>,
    /// Images, as `data:` URIs.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub(super) images: Vec<ReplyImage>,
    /// The order of texts and images, if there are images.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub(super) x_parts: Vec<Place>,
}

/// An image of an answer.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub(super) struct ReplyImage {
    /// `image_url`.
    #[serde(rename = "type")]
    kind: &'static str,
    index: usize,
    image_url: Address,
}

/// Where an image is.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub(super) struct Address {
    /// A `data:` URI of a PNG file.
    url: String,
}

impl Address {
    /// Of a PNG file in base64.
    pub(super) fn of(base64: &str) -> Self {
        Self { url: uri_of(base64) }
    }
}

impl ReplyImage {
    /// The image with the number `index` of an answer.
    pub(super) fn new(index: usize, base64: &str) -> Self {
        Self { kind: "image_url", index, image_url: Address::of(base64) }
    }
}

/// A step of an answer.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct ChunkChoice {
    pub(super) index: usize,
    pub(super) delta: Delta,
    /// At the end of the answer, as in a [`Choice`].
    pub(super) finish_reason: Option<&'static str>,
    pub(super) logprobs: Option<ChatLogprobs>,
}

/// What is new.
#[derive(Debug, Default, Serialize, ToSchema)]
pub(super) struct Delta {
    /// In the first step of an answer.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) role: Option<&'static str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) content: Option<String>,
    /// Calls, which are whole.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub(super) tool_calls: Vec<Called>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub(super) images: Vec<ReplyImage>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) x_image_progress: Option<Progress>,
}

/// How far an image is drawn.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct Progress {
    /// Codes so far.
    pub(super) done: usize,
    /// Codes of the whole image.
    pub(super) total: usize,
    /// The rows so far, with `partial_images`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) image_url: Option<Address>,
}
