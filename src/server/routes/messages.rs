//! Messages of a conversation, and what is in them.

use std::borrow::Cow;

use image::RgbImage;
use serde::{Deserialize, Serialize};
use tokio::sync::OwnedSemaphorePermit;
use utoipa::ToSchema;
use vq_tokenizer::preprocess::to_rgb;

use super::tools::Called;
use crate::pipeline::ToolCall;
use crate::server::config::Limits;
use crate::server::fault::Fault;
use crate::server::image_data::{bytes_of, is_data, opened};
use crate::server::sampling::{Ignored, Neutral};
use crate::server::state::State;
use crate::tokenize::Segment;

/// One message.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct Message {
    role: Role,
    #[serde(default)]
    content: Content,
    /// Images of an answer, as this server sends them.
    #[serde(default)]
    images: Vec<Part>,
    #[serde(default, rename = "name")]
    _name: Ignored,
    #[serde(default, rename = "refusal")]
    _refusal: Ignored,
    #[serde(default, rename = "annotations")]
    _annotations: Ignored,
    #[serde(default, rename = "audio")]
    _audio: Neutral,
    #[serde(default, rename = "function_call")]
    _function_call: Neutral,
    /// The calls of functions at the end of an answer.
    tool_calls: Option<Vec<Called>>,
    /// Which call a message of the role `tool` has the result of.
    tool_call_id: Option<String>,
    /// The order of texts and images of an answer, as this server sends it.
    #[serde(default)]
    x_parts: Vec<Place>,
}

/// A part of an answer, as this server sends it and takes it back.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
#[serde(tag = "type", rename_all = "snake_case", deny_unknown_fields)]
pub(super) enum Place {
    Text {
        text: String,
    },
    /// The number of one of the images.
    Image {
        index: usize,
    },
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub(super) enum Role {
    System,
    Developer,
    User,
    Assistant,
    Tool,
}

#[derive(Debug, Default, Deserialize, ToSchema)]
#[serde(untagged, expecting = "expected a text or a list of parts")]
enum Content {
    #[default]
    None,
    Text(String),
    Parts(Vec<Part>),
}

#[derive(Debug, Deserialize, ToSchema)]
#[schema(as = ContentPart)]
#[serde(tag = "type", rename_all = "snake_case")]
enum Part {
    Text { text: String },
    ImageUrl { image_url: ImageUrl },
}

/// An address alone, or with what is asked of the image, which changes nothing here.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(untagged, expecting = "expected {\"url\": \"data:image/...\"}")]
pub(super) enum ImageUrl {
    Url(String),
    Object {
        /// A `data:` URI in base64, or, from listed hosts, an address to fetch it from.
        url: String,
    },
    /// What was fetched.
    #[serde(skip)]
    Fetched(Vec<u8>),
}

impl ImageUrl {
    /// The address of an image that must be fetched.
    fn remote(&self) -> Option<&str> {
        match self {
            Self::Url(url) | Self::Object { url } if !is_data(url) => Some(url),
            _ => None,
        }
    }

    /// The file.
    ///
    /// # Errors
    /// If it is no `data:` URI in base64 and was not fetched.
    pub(super) fn bytes(&self) -> Result<Cow<'_, [u8]>, Fault> {
        match self {
            Self::Url(url) | Self::Object { url } => bytes_of(url).map(Cow::Owned),
            Self::Fetched(bytes) => Ok(Cow::Borrowed(bytes)),
        }
    }
}

/// A text of a message, or an image.
pub(super) enum Item<'a> {
    Text(&'a str),
    Image(&'a ImageUrl),
}

impl Message {
    /// Texts and images, in no certain order.
    pub(super) fn items(&self) -> impl Iterator<Item = Item<'_>> {
        let (text, parts) = match &self.content {
            Content::None => (None, &[][..]),
            Content::Text(text) => (Some(Item::Text(text)), &[][..]),
            Content::Parts(parts) => (None, parts.as_slice()),
        };
        let parts = parts.iter().chain(&self.images).map(|part| match part {
            Part::Text { text } => Item::Text(text),
            Part::ImageUrl { image_url } => Item::Image(image_url),
        });
        let placed = self.x_parts.iter().filter_map(|place| match place {
            Place::Text { text } => Some(Item::Text(text)),
            Place::Image { .. } => None,
        });
        let calls = self.tool_calls.iter().flatten().map(|call| Item::Text(call.arguments()));
        text.into_iter().chain(parts).chain(placed).chain(calls)
    }

    /// The images that must be fetched.
    fn remote_images(&mut self) -> impl Iterator<Item = &mut ImageUrl> {
        let parts = match &mut self.content {
            Content::Parts(parts) => parts.as_mut_slice(),
            Content::None | Content::Text(_) => &mut [],
        };
        let images = parts.iter_mut().chain(&mut self.images).filter_map(|part| match part {
            Part::ImageUrl { image_url } => Some(image_url),
            Part::Text { .. } => None,
        });
        images.filter(|image| image.remote().is_some())
    }

    /// Whether it calls a function, or is the result of one.
    pub(super) fn is_of_calls(&self) -> bool {
        self.role == Role::Tool || self.tool_calls.as_ref().is_some_and(|calls| !calls.is_empty())
    }
}

/// Fetches the images of `messages` that are elsewhere, if the server does that. What it has fetched takes its share of the
/// memory for bodies as long as the permit lives.
///
/// # Errors
/// If there are too many, or one cannot be fetched.
pub(super) async fn fetch_images(
    state: &State,
    messages: &mut [Message],
) -> Result<Option<OwnedSemaphorePermit>, Fault> {
    let Some(fetcher) = &state.fetcher else { return Ok(None) };
    let remote: Vec<_> = messages.iter_mut().flat_map(Message::remote_images).collect();
    if remote.is_empty() {
        return Ok(None);
    }
    let limits = &state.config.limits;
    if remote.len() > limits.images {
        let message = format!("{} images; allowed: {} in a request", remote.len(), limits.images);
        return Err(Fault::of("messages", message));
    }
    let kib = u32::try_from(limits.body.div_ceil(1024)).unwrap_or(u32::MAX);
    let memory = state.bodies.clone().try_acquire_many_owned(kib).map_err(|_| Fault::full())?;
    let urls: Vec<&str> = remote.iter().filter_map(|image| image.remote()).collect();
    let fetched = fetcher.fetch_all(&urls, limits.body).await?;
    for (image, bytes) in remote.into_iter().zip(fetched) {
        *image = ImageUrl::Fetched(bytes);
    }
    Ok(Some(memory))
}

/// The content of a message in order, images decoded.
pub(super) struct Read {
    pub(super) role: Role,
    pub(super) segments: Vec<Segment>,
    /// The calls at the end of an answer.
    pub(super) calls: Vec<ToolCall>,
    /// Which call a result is of.
    pub(super) of_call: Option<String>,
}

/// Pixels of all images of a request, in images of the largest size.
const MOST_IMAGES: u64 = 4;

/// What images may still take.
pub(super) struct Room<'a> {
    pixels: u64,
    limits: &'a Limits,
}

impl<'a> Room<'a> {
    pub(super) fn new(limits: &'a Limits) -> Self {
        Self { pixels: MOST_IMAGES * limits.pixels, limits }
    }

    /// `message` with its images decoded.
    ///
    /// # Errors
    /// If an image cannot be read, or a field does not belong to the role.
    pub(super) fn read(&mut self, message: Message) -> Result<Read, Fault> {
        let role = message.role;
        let calls = message.tool_calls.unwrap_or_default();
        if !calls.is_empty() && role != Role::Assistant {
            return Err(Fault::of("tool_calls", "only an answer has tool_calls"));
        }
        let calls = calls.into_iter().map(Called::read).collect::<Result<Vec<_>, _>>()?;
        let of_call = message.tool_call_id;
        if of_call.is_some() != (role == Role::Tool) {
            let message = "a message of the role tool has a tool_call_id, and no other";
            return Err(Fault::of("tool_call_id", message));
        }
        let parts = match message.content {
            Content::None => Vec::new(),
            Content::Text(text) => vec![Part::Text { text }],
            Content::Parts(parts) => parts,
        };
        let (mut texts, mut images) = (Vec::new(), Vec::new());
        for part in parts.into_iter().chain(message.images) {
            match part {
                Part::Text { text } => texts.push(text),
                Part::ImageUrl { image_url } => images.push(self.image(&image_url.bytes()?)?),
            }
        }
        if message.x_parts.is_empty() {
            let text = texts.join("\n");
            let text = (!text.is_empty()).then_some(Segment::Text(text));
            let images = images.into_iter().map(Segment::Image);
            let segments = text.into_iter().chain(images).collect();
            return Ok(Read { role, segments, calls, of_call });
        }
        if role != Role::Assistant {
            return Err(Fault::of("x_parts", "only an answer has x_parts"));
        }
        let mut images: Vec<Option<RgbImage>> = images.into_iter().map(Some).collect();
        let placed = |place| match place {
            Place::Text { text } => Ok(Segment::Text(text)),
            Place::Image { index } => {
                let image = images.get_mut(index).and_then(Option::take).map(Segment::Image);
                image.ok_or_else(|| {
                    Fault::of("x_parts", format!("there is no image {index}, or it has a place"))
                })
            }
        };
        let segments = message.x_parts.into_iter().map(placed).collect::<Result<Vec<_>, _>>()?;
        let read = Read { role, segments, calls, of_call };
        if images.iter().any(Option::is_some)
            || read.text().replace('\n', "") != texts.concat().replace('\n', "")
        {
            return Err(Fault::of("x_parts", "x_parts and the message differ"));
        }
        Ok(read)
    }

    fn image(&mut self, bytes: &[u8]) -> Result<RgbImage, Fault> {
        let limits = Limits { pixels: self.limits.pixels.min(self.pixels), ..self.limits.clone() };
        let image = to_rgb(opened(bytes, &limits)?);
        self.pixels -= u64::from(image.width()) * u64::from(image.height());
        Ok(image)
    }
}

impl Read {
    /// The texts, with line breaks between them.
    pub(super) fn text(&self) -> String {
        text_of(&self.segments)
    }

    pub(super) fn has_images(&self) -> bool {
        self.segments.iter().any(|segment| matches!(segment, Segment::Image(_)))
    }
}

/// The texts of `segments`, with line breaks between them.
pub(super) fn text_of(segments: &[Segment]) -> String {
    let texts = segments.iter().filter_map(|segment| match segment {
        Segment::Text(text) => Some(text.as_str()),
        Segment::Image(_) => None,
    });
    texts.collect::<Vec<_>>().join("\n")
}
