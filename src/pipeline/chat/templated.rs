//! The layout of conversations by the checkpoint's own chat template.

use chrono::{Local, NaiveDateTime};
use minijinja::value::{Serde, Value as Given};
use serde::Serialize;
use serde_json::Value;
use vq_tokenizer::Codes;

use super::exchange::{Asked, Exchange, Question};
use super::tools::{Tool, ToolCall, ToolResult, Tools};
use crate::error::{Error, Result};
use crate::json::Ordered;
use crate::tokenize::{ChatTemplate, ContentForm, Conversation, Encoded, Processor};

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

    /// The conversation, with instructions and functions, up to the answer to what is `asked`.
    pub(super) fn prompt(
        &self,
        processor: &Processor,
        (system, tools): (Option<&str>, Option<&Tools>),
        exchanges: &[Exchange],
        Asked { question, codes, begun }: Asked<'_>,
    ) -> Result<Encoded> {
        let writer = Writer { templated: self, processor };
        let mut messages = Vec::new();
        if let Some(system) = system {
            messages.push(writer.message("system", system, 0)?);
        }
        for exchange in exchanges {
            messages.extend(writer.question(&exchange.question, exchange.codes.len())?);
            messages.push(writer.answer(exchange)?);
        }
        messages.extend(writer.question(question, codes.len())?);
        let messages = Given::from(Serde(messages));
        let tools = tools.map(|tools| writer.tools(tools)).transpose()?;
        let tools = tools.map_or(Given::from(()), |tools| Given::from(Serde(tools)));
        let conversation = Conversation { messages, tools, prompt: true, now: self.now };
        let text = self.template.render_all(conversation)? + begun;
        let earlier = exchanges.iter().flat_map(|exchange| &exchange.codes);
        let images: Vec<&Codes> = earlier.chain(codes).collect();
        // What an answer says before calls some templates leave out.
        let is_written = |exchange: &&Exchange| {
            exchange.calls.is_empty() || text.contains(&ChatTemplate::mark(exchange.number))
        };
        let answers = exchanges.iter().filter(is_written);
        let answers: Vec<_> =
            answers.map(|exchange| (exchange.number, exchange.ids.as_slice())).collect();
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

/// A message as templates read it.
#[derive(Serialize)]
struct Message {
    role: &'static str,
    content: Value,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    tool_calls: Vec<Typed<Call>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    tool_call_id: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    name: Option<String>,
}

/// A function, or a call of one.
#[derive(Serialize)]
struct Typed<T> {
    #[serde(skip_serializing_if = "Option::is_none")]
    id: Option<String>,
    r#type: &'static str,
    function: T,
}

#[derive(Serialize)]
struct Call {
    name: String,
    arguments: Ordered,
}

/// Writes messages, with no names of tokens in their texts.
struct Writer<'a> {
    templated: &'a Templated,
    processor: &'a Processor,
}

impl Writer<'_> {
    fn guarded(&self, text: &str) -> Result<String> {
        self.templated.template.guarded(text, self.processor)
    }

    fn message(&self, role: &'static str, text: &str, images: usize) -> Result<Message> {
        let content = self.templated.content(&self.guarded(text)?, images);
        Ok(Message { role, content, tool_calls: Vec::new(), tool_call_id: None, name: None })
    }

    /// The results, and the user's turn if there is one.
    fn question(&self, question: &Question, images: usize) -> Result<Vec<Message>> {
        let result = |result: &ToolResult| {
            let message = self.message("tool", &result.text, 0)?;
            let (id, name) = (self.guarded(&result.id)?, self.guarded(&result.name)?);
            Ok(Message { tool_call_id: Some(id), name: Some(name), ..message })
        };
        let mut messages: Vec<_> = question.results.iter().map(result).collect::<Result<_>>()?;
        if messages.is_empty() || !question.text.is_empty() || images > 0 {
            messages.push(self.message("user", &question.text, images)?);
        }
        Ok(messages)
    }

    /// The answer, with a mark for all but its calls.
    fn answer(&self, exchange: &Exchange) -> Result<Message> {
        let is_empty = !exchange.calls.is_empty() && exchange.ids.is_empty();
        let mark = ChatTemplate::mark(exchange.number);
        let content = self.templated.content(if is_empty { "" } else { &mark }, 0);
        let call = |ToolCall { id, name, arguments }: &ToolCall| {
            let arguments = arguments.parse().map_err(Error::because("arguments of a call"))?;
            let arguments = self.templated.template.guarded_value(&arguments, self.processor)?;
            let function = Call { name: self.guarded(name)?, arguments };
            Ok(Typed { id: Some(self.guarded(id)?), r#type: "function", function })
        };
        let tool_calls = exchange.calls.iter().map(call).collect::<Result<_>>()?;
        Ok(Message { role: "assistant", content, tool_calls, tool_call_id: None, name: None })
    }

    fn tools(&self, tools: &Tools) -> Result<Vec<Typed<Tool>>> {
        let tool = |Tool { name, description, parameters }: &Tool| {
            let description = description.as_deref().map(|text| self.guarded(text)).transpose()?;
            let parameters = self.templated.template.guarded_value(parameters, self.processor)?;
            let function = Tool { name: name.clone(), description, parameters };
            Ok(Typed { id: None, r#type: "function", function })
        };
        tools.list.iter().map(tool).collect()
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

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
