//! Messages of a conversation, and the ids of the prompt that they make.

use image::RgbImage;
use serde::Deserialize;
use vq_tokenizer::preprocess::to_rgb;

use crate::generate::LanguageModel;
use crate::pipeline::{Pipeline, Question};
use crate::server::config::Limits;
use crate::server::fault::Fault;
use crate::server::image_data::{bytes_of, opened};
use crate::server::sampling::Neutral;
use crate::tokenize::Segment;

/// One message.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Message {
    role: Role,
    #[serde(default)]
    content: Content,
    /// Images of an answer, as this server sends them.
    #[serde(default)]
    images: Vec<Part>,
    #[serde(default, rename = "name")]
    _name: serde::de::IgnoredAny,
    #[serde(default, rename = "refusal")]
    _refusal: serde::de::IgnoredAny,
    #[serde(default, rename = "annotations")]
    _annotations: serde::de::IgnoredAny,
    #[serde(default, rename = "audio")]
    _audio: Neutral,
    #[serde(default, rename = "function_call")]
    _function_call: Neutral,
    #[serde(default, rename = "tool_calls")]
    _tool_calls: Neutral,
    /// The order of texts and images of an answer, as this server sends it.
    #[serde(default)]
    x_parts: Vec<Place>,
}

/// A part of an answer that this server sent.
#[derive(Debug, Deserialize)]
#[serde(tag = "type", rename_all = "snake_case", deny_unknown_fields)]
enum Place {
    Text {
        text: String,
    },
    /// The number of one of the images.
    Image {
        index: usize,
    },
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
enum Role {
    System,
    Developer,
    User,
    Assistant,
}

#[derive(Debug, Default, Deserialize)]
#[serde(untagged, expecting = "expected a text or a list of parts")]
enum Content {
    #[default]
    None,
    Text(String),
    Parts(Vec<Part>),
}

#[derive(Debug, Deserialize)]
#[serde(tag = "type", rename_all = "snake_case")]
enum Part {
    Text { text: String },
    ImageUrl { image_url: ImageUrl },
}

/// An address alone, or with what is asked of the image, which changes nothing here.
#[derive(Debug, Deserialize)]
#[serde(untagged, expecting = "expected {\"url\": \"data:image/...\"}")]
enum ImageUrl {
    Url(String),
    Object { url: String },
}

impl Message {
    /// The addresses of the images.
    pub(super) fn urls(&self) -> impl Iterator<Item = &str> {
        let parts = match &self.content {
            Content::Parts(parts) => parts.as_slice(),
            Content::None | Content::Text(_) => &[],
        };
        parts.iter().chain(&self.images).filter_map(|part| match part {
            Part::ImageUrl { image_url: ImageUrl::Url(url) | ImageUrl::Object { url } } => {
                Some(&**url)
            }
            Part::Text { .. } => None,
        })
    }
}

/// The content of a message in order, images decoded.
struct Read {
    role: Role,
    segments: Vec<Segment>,
}

/// The ids of the prompt for the answer to `messages`; with `draw` the answer is an image. Messages of one role that follow
/// one another are one, with a line break between their texts.
///
/// # Errors
/// If roles are out of order, the last message is no user's, texts or images exceed the limits, or the layout of conversations
/// has no place for something.
pub(super) fn prompt(
    pipeline: &Pipeline,
    messages: Vec<Message>,
    draw: bool,
    limits: &Limits,
) -> Result<Vec<u32>, Fault> {
    check(pipeline, &messages, limits)?;
    let mut system: Vec<String> = Vec::new();
    let mut turns: Vec<Read> = Vec::new();
    let mut room = Room { pixels: MOST_IMAGES * limits.pixels, limits };
    for (index, message) in messages.into_iter().enumerate() {
        let refused = |said: &str| Fault::of("messages", format!("messages[{index}]: {said}"));
        let read =
            room.read(message).map_err(|fault| fault.within(&format!("messages[{index}]")))?;
        match (read.role, turns.last_mut()) {
            (Role::System | Role::Developer, None) if read.images() == 0 => {
                system.push(read.text());
            }
            (Role::System | Role::Developer, _) => {
                return Err(refused("instructions must come first and hold text only"));
            }
            (Role::Assistant, None) => return Err(refused("the first turn must be the user's")),
            (role, Some(last)) if last.role == role => last.segments.extend(read.segments),
            _ => turns.push(read),
        }
    }
    let last = turns.pop().filter(|last| last.role == Role::User);
    let last = last.ok_or_else(|| Fault::of("messages", "the last message must be the user's"))?;
    let mut chat = pipeline.chat((!system.is_empty()).then(|| system.join("\n")));
    let mut turns = turns.into_iter();
    while let (Some(asked), Some(answered)) = (turns.next(), turns.next()) {
        let draw = answered.images() > 0 && answered.text().is_empty();
        chat.add(asked.question(draw), answered.segments)?;
    }
    Ok(chat.prompt(&last.question(draw))?)
}

/// Pixels of all images of a request, in images of the largest size.
const MOST_IMAGES: u64 = 4;

/// Bytes of text for each id that a context holds; no token is longer on average.
const BYTES_PER_ID: usize = 64;

/// Checks what can be checked before anything is decoded.
///
/// # Errors
/// If there are too many images, or more text than any prompt holds.
fn check(pipeline: &Pipeline, messages: &[Message], limits: &Limits) -> Result<(), Fault> {
    let (mut images, mut bytes) = (0, 0);
    for message in messages {
        let parts = match &message.content {
            Content::None => &[][..],
            Content::Text(text) => {
                bytes += text.len();
                &[]
            }
            Content::Parts(parts) => parts,
        };
        for part in parts.iter().chain(&message.images) {
            match part {
                Part::Text { text } => bytes += text.len(),
                Part::ImageUrl { .. } => images += 1,
            }
        }
        for place in &message.x_parts {
            if let Place::Text { text } = place {
                bytes += text.len();
            }
        }
    }
    if images > limits.images {
        let message = format!("{images} images; allowed: {} in a request", limits.images);
        return Err(Fault::of("messages", message));
    }
    check_text(pipeline, bytes)
}

/// # Errors
/// If no prompt holds `bytes` bytes of text.
pub(super) fn check_text(pipeline: &Pipeline, bytes: usize) -> Result<(), Fault> {
    let context = pipeline.model().context();
    match bytes > context * BYTES_PER_ID {
        true => Err(Fault::too_long(format!(
            "{bytes} bytes of text do not fit the context of {context} ids"
        ))),
        false => Ok(()),
    }
}

/// What images may still take.
struct Room<'a> {
    pixels: u64,
    limits: &'a Limits,
}

impl Room<'_> {
    /// `message` with its images decoded.
    fn read(&mut self, message: Message) -> Result<Read, Fault> {
        let parts = match message.content {
            Content::None => Vec::new(),
            Content::Text(text) => vec![Part::Text { text }],
            Content::Parts(parts) => parts,
        };
        let (mut texts, mut images) = (Vec::new(), Vec::new());
        for part in parts.into_iter().chain(message.images) {
            match part {
                Part::Text { text } => texts.push(text),
                Part::ImageUrl { image_url: ImageUrl::Url(url) | ImageUrl::Object { url } } => {
                    images.push(self.image(&url)?);
                }
            }
        }
        let role = message.role;
        if message.x_parts.is_empty() {
            let text = texts.join("\n");
            let text = (!text.is_empty()).then_some(Segment::Text(text));
            let images = images.into_iter().map(Segment::Image);
            return Ok(Read { role, segments: text.into_iter().chain(images).collect() });
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
        let read = Read { role, segments };
        if images.iter().any(Option::is_some)
            || read.text().replace('\n', "") != texts.concat().replace('\n', "")
        {
            return Err(Fault::of("x_parts", "x_parts and the message differ"));
        }
        Ok(read)
    }

    fn image(&mut self, url: &str) -> Result<RgbImage, Fault> {
        let limits = Limits { pixels: self.limits.pixels.min(self.pixels), ..self.limits.clone() };
        let image = to_rgb(opened(&bytes_of(url)?, &limits)?);
        self.pixels -= u64::from(image.width()) * u64::from(image.height());
        Ok(image)
    }
}

impl Read {
    /// The texts, with line breaks between them.
    fn text(&self) -> String {
        let texts = self.segments.iter().filter_map(|segment| match segment {
            Segment::Text(text) => Some(text.as_str()),
            Segment::Image(_) => None,
        });
        texts.collect::<Vec<_>>().join("\n")
    }

    fn images(&self) -> usize {
        self.segments.iter().filter(|segment| matches!(segment, Segment::Image(_))).count()
    }

    fn question(self, draw: bool) -> Question {
        let text = self.text();
        let images = self.segments.into_iter().filter_map(|segment| match segment {
            Segment::Image(image) => Some(image),
            Segment::Text(_) => None,
        });
        Question { text, images: images.collect(), draw }
    }
}
