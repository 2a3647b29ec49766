//! Conversations for training: the ids of a rendered conversation, and which of them are answers.

use std::ops::Range;

use chrono::{Local, NaiveDateTime};
use serde_json::{Value, json};
use vq_tokenizer::Codes;

use super::content::ContentForm;
use super::encode::{GUARD, Piece};
use super::{ChatTemplate, Conversation, marks};
use crate::error::{Error, Result};
use crate::tokenize::processor::{EncodeOptions, Processor};
use crate::tokenize::segment::CodedSegment;

/// A chat template that makes conversations to train on.
///
/// ```
/// use calumma::tokenize::{BpeConfig, ChatDocuments, ChatTemplate, Processor, train_bpe};
/// use serde_json::json;
///
/// let config = BpeConfig { num_codes: 16, vocab_size: 300, ..BpeConfig::default() };
/// let processor = Processor::new(train_bpe(&config, ["yes"])?, (2, 2))?;
/// let source = "{% for m in messages %}{% if m.role == 'assistant' %}{% generation %}{{ m.content }}\
///     </s>{% endgeneration %}{% else %}{{ m.content }}{% endif %}{% endfor %}";
/// let chat = ChatDocuments::new(ChatTemplate::new(source, "t"));
/// let messages = [json!({ "role": "user", "content": "?" }), json!({ "role": "assistant", "content": "!" })];
/// let found = chat.encode(&processor, &messages, &[], false)?;
/// assert_eq!((found.ids.len(), found.answers), (3, vec![1..3])); // "?", and "!" with </s>
/// # Ok::<(), calumma::Error>(())
/// ```
#[derive(Clone, Debug)]
pub struct ChatDocuments {
    template: ChatTemplate,
    /// The template with bounds in place of marks.
    bounded: String,
    form: ContentForm,
    /// The local time at the start, for templates that write it.
    now: NaiveDateTime,
}

/// The ids of a conversation; places are positions of ids.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct MarkedIds {
    /// The ids.
    pub ids: Vec<u32>,
    /// What the template marks by `{% generation %}`, in order; with the end of a turn if that is marked.
    pub answers: Vec<Range<usize>>,
    /// The blocks of images.
    pub images: Vec<Range<usize>>,
}

impl ChatDocuments {
    /// Conversations by `template`.
    pub fn new(template: ChatTemplate) -> Self {
        let now = Local::now().naive_local();
        let form = ContentForm::of(&template, now);
        Self { bounded: marks::bounded(template.source()), template, form, now }
    }

    /// Whether the template marks answers by `{% generation %}`.
    pub fn marks_answers(&self) -> bool {
        marks::are_in(self.template.source())
    }

    /// The template.
    pub fn template(&self) -> &ChatTemplate {
        &self.template
    }

    /// The ids of `messages`, each with `role` and `content`: a text, or a list of parts of type `text` and
    /// `image`, which stand for `images` in order. With `open` up to where the next answer begins. All text
    /// between images becomes ids as one, names of tokens in the messages stay text.
    ///
    /// # Errors
    /// If a message has no such content, the template fails or refuses the messages, it does not write every
    /// image once, or an image has no ids.
    pub fn encode(
        &self,
        processor: &Processor,
        messages: &[Value],
        images: &[Codes],
        open: bool,
    ) -> Result<MarkedIds> {
        let messages = messages.iter().map(|message| self.message(message, processor));
        let messages = Value::from(messages.collect::<Result<Vec<_>>>()?);
        let conversation = Conversation::new(&messages, open, self.now);
        let text = self.template.run(&self.bounded, conversation)?;
        let (text, spans) = marks::taken_from(&text);
        let pieces = self.template.pieces(&text);
        self.template.check(&pieces, images.len(), &[])?;
        let mut found = MarkedIds { answers: vec![0..0; spans.len()], ..MarkedIds::default() };
        let mut images = images.iter();
        for (start, piece) in pieces {
            match piece {
                Piece::Text(text) => {
                    for (id, place) in processor.text().encode_guarded_with_places(text, GUARD)? {
                        found.add(&[id], start + place.start..start + place.end, &spans);
                    }
                }
                Piece::Image => {
                    let Some(codes) = images.next() else { continue };
                    let options = EncodeOptions { bos: false, ..EncodeOptions::default() };
                    let image = [CodedSegment::Image(codes.clone())];
                    let ids = processor.encode_with(&image, options)?;
                    found.images.push(found.ids.len()..found.ids.len() + ids.len());
                    found.add(&ids, start..start + 1, &spans);
                }
                // No message holds the mark of one.
                Piece::Answer(_) => {}
            }
        }
        Ok(found)
    }

    /// `message` with the content that the template reads, its texts guarded.
    fn message(&self, message: &Value, processor: &Processor) -> Result<Value> {
        let guarded = |text: &str| self.template.guarded(text, processor).map(Some);
        let part = |part: &Value| match (part["type"].as_str(), part["text"].as_str()) {
            (Some("image"), _) => Ok(None),
            (Some("text"), Some(text)) => guarded(text),
            _ => Err(Error::invalid("a part of a message is neither of type text nor image")),
        };
        let parts: Vec<Option<String>> = match &message["content"] {
            Value::String(text) => vec![guarded(text)?],
            Value::Array(parts) => parts.iter().map(part).collect::<Result<_>>()?,
            _ => return Err(Error::invalid("a message needs content: text or a list of parts")),
        };
        let parts = parts.iter().map(Option::as_deref);
        let content = self.form.content(parts, self.template.placeholder());
        Ok(json!({ "role": message["role"], "content": content }))
    }
}

impl MarkedIds {
    /// Adds `ids`, which stand for the bytes `place` of a text whose answers are `spans`.
    fn add(&mut self, ids: &[u32], place: Range<usize>, spans: &[Range<usize>]) {
        let start = self.ids.len();
        self.ids.extend_from_slice(ids);
        for (answer, span) in self.answers.iter_mut().zip(spans) {
            if place.start < span.end && span.start < place.end {
                let from = if answer.start == answer.end { start } else { answer.start };
                *answer = from..self.ids.len();
            }
        }
    }
}
