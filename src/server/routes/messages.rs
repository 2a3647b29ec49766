//! Messages of a conversation, and the ids of the prompt that they make.

use image::RgbImage;
use serde::Deserialize;

use crate::pipeline::{Pipeline, Question};
use crate::server::fault::Fault;
use crate::server::image_data::{bytes_of, decoded};
use crate::server::state::State;
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
    _audio: serde::de::IgnoredAny,
    #[serde(default, rename = "function_call")]
    _function_call: serde::de::IgnoredAny,
    #[serde(default, rename = "tool_calls")]
    _tool_calls: serde::de::IgnoredAny,
    #[serde(default, rename = "x_parts")]
    _parts: serde::de::IgnoredAny,
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
#[serde(untagged)]
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
#[serde(untagged)]
enum ImageUrl {
    Url(String),
    Object { url: String },
}

/// A message with its images decoded.
struct Read {
    role: Role,
    text: String,
    images: Vec<RgbImage>,
}

/// The ids of the prompt for the answer to `messages`; with `draw` the answer is an image. Messages of one role that follow
/// one another are one, with a line break between them.
///
/// # Errors
/// If roles are out of order, the last message is no user's, an image is refused, or the layout of conversations has no
/// place for something.
pub(super) fn prompt(
    pipeline: &Pipeline,
    messages: Vec<Message>,
    draw: bool,
    state: &State,
) -> Result<Vec<u32>, Fault> {
    let mut system: Vec<String> = Vec::new();
    let mut turns: Vec<Read> = Vec::new();
    let mut images = 0;
    for (index, message) in messages.into_iter().enumerate() {
        let read = read(message, state.config.limits.pixels)
            .map_err(|fault| fault.within(&format!("messages[{index}]")))?;
        images += read.images.len();
        let most = state.config.limits.images;
        if images > most {
            let message = format!("more than {most} images; allowed: at most {most} in a request");
            return Err(Fault::of("messages", message));
        }
        match (read.role, turns.last_mut()) {
            (Role::System | Role::Developer, None) if read.images.is_empty() => {
                system.push(read.text);
            }
            (Role::System | Role::Developer, _) => {
                let message =
                    format!("messages[{index}]: instructions must come first and hold text only");
                return Err(Fault::of("messages", message));
            }
            (Role::Assistant, None) => {
                let message = format!("messages[{index}]: the first turn must be the user's");
                return Err(Fault::of("messages", message));
            }
            (role, Some(last)) if last.role == role => {
                if !last.text.is_empty() && !read.text.is_empty() {
                    last.text.push('\n');
                }
                last.text.push_str(&read.text);
                last.images.extend(read.images);
            }
            _ => turns.push(read),
        }
    }
    let last = turns.pop().filter(|last| last.role == Role::User);
    let last = last.ok_or_else(|| Fault::of("messages", "the last message must be the user's"))?;
    let mut chat = pipeline.chat((!system.is_empty()).then(|| system.join("\n")));
    let mut turns = turns.into_iter();
    while let (Some(asked), Some(answered)) = (turns.next(), turns.next()) {
        let draw = !answered.images.is_empty() && answered.text.is_empty();
        let text = (!answered.text.is_empty()).then_some(Segment::Text(answered.text));
        let images = answered.images.into_iter().map(Segment::Image);
        chat.add(asked.question(draw), text.into_iter().chain(images).collect())?;
    }
    Ok(chat.prompt(&last.question(draw))?)
}

impl Read {
    fn question(self, draw: bool) -> Question {
        Question { text: self.text, images: self.images, draw }
    }
}

/// `message` with texts joined and images decoded.
fn read(message: Message, pixels: u64) -> Result<Read, Fault> {
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
                images.push(decoded(&bytes_of(&url)?, pixels)?);
            }
        }
    }
    Ok(Read { role: message.role, text: texts.join("\n"), images })
}
