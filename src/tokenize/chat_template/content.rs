//! Which form of a message's content a template reads.

use chrono::NaiveDateTime;
use serde_json::{Value, json};

use super::ChatTemplate;

/// A text that no template holds, to see what becomes of it.
const PROBE: &str = "qwzjx";

/// The form of the content of messages.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct ContentForm {
    /// Whether the content of a message without images is a list of parts, not a text.
    text_as_parts: bool,
    /// Whether images are parts, not placeholders in a text.
    images_as_parts: bool,
}

impl ContentForm {
    /// Finds out by rendering, at the time `now`, which content `template` reads.
    pub(crate) fn of(template: &ChatTemplate, now: NaiveDateTime) -> Self {
        let render = |content: Value| {
            let messages = json!([{ "role": "user", "content": content }]);
            template.render_at(&messages, true, now).unwrap_or_default()
        };
        let part = json!({ "type": "text", "text": PROBE });
        // A template of texts writes a list as code, in quotes, or fails.
        let reads = |text: &str| {
            let after = text.split_once(PROBE).map(|(_, after)| after);
            after.is_some_and(|after| !after.starts_with(['\'', '"']))
        };
        let reads_parts = reads(&render(json!([part])));
        let with_image = render(json!([{ "type": "image" }, part]));
        let images_as_parts = reads(&with_image) && with_image.contains(template.placeholder());
        let text_as_parts = reads_parts && !reads(&render(json!(PROBE)));
        Self { text_as_parts, images_as_parts }
    }

    /// A message's content: `parts` in order, a text or else an image; `placeholder` stands for an image in a
    /// text.
    pub(crate) fn content<'a>(
        self,
        parts: impl IntoIterator<Item = Option<&'a str>>,
        placeholder: &str,
    ) -> Value {
        let parts: Vec<Option<&str>> = parts.into_iter().collect();
        let has_images = parts.contains(&None);
        let as_parts = if has_images { self.images_as_parts } else { self.text_as_parts };
        if !as_parts {
            let texts = parts.into_iter().map(|part| part.unwrap_or(placeholder));
            return texts.collect::<String>().into();
        }
        let part = |part: Option<&str>| match part {
            Some(text) => json!({ "type": "text", "text": text }),
            None => json!({ "type": "image" }),
        };
        parts.into_iter().map(part).collect()
    }
}
