//! The layout of conversations by the checkpoint's own chat template.

use chrono::{Local, NaiveDateTime};
use serde_json::{Value, json};
use vq_tokenizer::Codes;

use super::exchange::{Exchange, Question};
use crate::error::Result;
use crate::tokenize::{ChatTemplate, ContentForm, Encoded, Processor};

/// How a chat template is used throughout a conversation.
#[derive(Clone, Debug)]
pub(super) struct Templated {
    template: ChatTemplate,
    /// The local time at the start: what a template writes of it must not change the ids of earlier
    /// turns.
    now: NaiveDateTime,
    form: ContentForm,
}

impl Templated {
    /// Finds out by rendering which content `template` reads.
    pub(super) fn new(template: ChatTemplate) -> Self {
        let now = Local::now().naive_local();
        let form = ContentForm::of(&template, now);
        Self { template, now, form }
    }

    /// The conversation up to the answer of `question`, whose images have `codes`.
    pub(super) fn prompt(
        &self,
        processor: &Processor,
        system: Option<&str>,
        exchanges: &[Exchange],
        (question, codes): (&Question, &[Codes]),
    ) -> Result<Encoded> {
        let mut messages = Vec::new();
        let mut add = |role: &str, text: &str, images: usize| {
            messages.push(json!({ "role": role, "content": self.content(text, images) }));
        };
        let guarded = |text: &str| self.template.guarded(text, processor);
        if let Some(system) = system {
            add("system", &guarded(system)?, 0);
        }
        for exchange in exchanges {
            add("user", &guarded(&exchange.question.text)?, exchange.codes.len());
            add("assistant", &ChatTemplate::mark(exchange.number), 0);
        }
        add("user", &guarded(&question.text)?, codes.len());
        let text = self.template.render_at(&Value::from(messages), true, self.now)?;
        let earlier = exchanges.iter().flat_map(|exchange| &exchange.codes);
        let images: Vec<&Codes> = earlier.chain(codes).collect();
        let answers: Vec<_> =
            exchanges.iter().map(|exchange| (exchange.number, exchange.ids.as_slice())).collect();
        let before = exchanges.last().and_then(|exchange| exchange.prompt.as_ref());
        self.template.encode(processor, text, &images, &answers, before)
    }

    /// The content of a message with `images` before `text`.
    fn content(&self, text: &str, images: usize) -> Value {
        let mut parts = vec![None; images];
        if !text.is_empty() || images == 0 {
            parts.push(Some(text));
        }
        self.form.content(parts, self.template.placeholder())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn content_of(source: &str, text: &str, images: usize) -> Value {
        Templated::new(ChatTemplate::new(source, "t")).content(text, images)
    }

    #[test]
    fn messages_have_the_content_that_a_template_reads() {
        let image = json!({ "type": "image" });
        let part = json!({ "type": "text", "text": "a" });
        let texts = "{% for m in messages %}{{ m['content'] | trim }}{% endfor %}";
        let joined = "{% for m in messages %}{{ 'x' + m.content }}{% endfor %}";
        for source in [texts, joined] {
            assert_eq!(content_of(source, "a", 0), json!("a"));
            assert_eq!(content_of(source, "a", 2), json!("<image><image>a"));
        }
        let parts = "{% for m in messages %}{% for c in m.content %}\
            {% if c.type == 'image' %}<image>{% else %}{{ c.text }}{% endif %}\
            {% endfor %}{% endfor %}";
        assert_eq!(content_of(parts, "a", 0), json!([part]));
        assert_eq!(content_of(parts, "a", 1), json!([image, part]));
        assert_eq!(content_of(parts, "", 1), json!([image]));
        let both = "{% for m in messages %}{% if m.content is string %}{{ m.content }}{% else %}\
            {% for c in m.content %}{{ c.text if c.type == 'text' else '<image>' }}{% endfor %}\
            {% endif %}{% endfor %}";
        assert_eq!(content_of(both, "a", 0), json!("a"));
        assert_eq!(content_of(both, "a", 1), json!([image, part]));
    }
}
