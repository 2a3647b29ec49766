//! How a chat template has an answer call functions.

use chrono::NaiveDateTime;
use minijinja::value::{Serde, Value as Given};
use serde_json::{Deserializer, Value, json};

use super::{ChatTemplate, ContentForm, Conversation};
use crate::error::{Error, Result};

/// A name that no template holds, to see what becomes of it.
const PROBE: &str = "qwzjx";

/// An id that all templates take.
const ID: &str = "a1b2c3d4e";

/// The form of calls that a template writes: one JSON object with `name` for each, or a list of them, between two texts.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct CallForm {
    /// What stands between the beginning of the answer and the JSON, with names of tokens.
    pub(crate) before: String,
    /// What stands between the JSON and the end of the answer.
    pub(crate) after: String,
    /// The key of the arguments.
    pub(crate) arguments: String,
    /// Whether the JSON is a list of calls.
    pub(crate) is_list: bool,
}

impl CallForm {
    /// Finds out by rendering, at the time `now`, how calls are written by `template`, which reads content in `form`; `None`
    /// if it does not read functions.
    ///
    /// # Errors
    /// If it reads functions and writes calls in another form.
    pub(crate) fn of(
        template: &ChatTemplate,
        form: ContentForm,
        now: NaiveDateTime,
    ) -> Result<Option<Self>> {
        let content = |text: &str| form.content([Some(text)], template.placeholder());
        let rendered = |answer: Option<Value>| {
            let prompt = answer.is_none();
            let asked = json!({ "role": "user", "content": content("a") });
            let messages: Vec<Value> = [asked].into_iter().chain(answer).collect();
            let parameters = json!({ "type": "object", "properties": {} });
            let tool = json!({ "name": PROBE, "description": "", "parameters": parameters });
            let tools = json!([{ "type": "function", "function": tool }]);
            let [messages, tools] =
                [messages.into(), tools].map(|value: Value| Given::from(Serde(value)));
            template.render_all(Conversation { messages, tools, prompt, now }).unwrap_or_default()
        };
        let open = rendered(None);
        if !open.contains(PROBE) {
            return Ok(None);
        }
        let answered = rendered(Some(json!({ "role": "assistant", "content": content(ID) })));
        let called = rendered(Some(json!({
            "role": "assistant",
            "content": content(""),
            "tool_calls": [{
                "id": ID,
                "type": "function",
                "function": { "name": PROBE, "arguments": { "key": 1 } },
            }],
        })));
        let (head, tail) = answered.split_once(ID).unwrap_or((&open, ""));
        // What comes before a text may be missing before a call, such as a blank.
        let letters = head.char_indices().zip(called.chars());
        let end = { letters }.find(|((_, letter), other)| letter != other);
        let start = end.map_or(head.len(), |((at, _), _)| at);
        let call = called.get(start..).unwrap_or_default();
        let found = Self::in_answer(call.strip_suffix(tail).unwrap_or(call));
        let unknown = || {
            let place = template.place();
            Error::invalid(format!(
                "chat template ({place}): it writes calls of functions in a form that is not known; allowed: JSON with \
                 name and arguments"
            ))
        };
        found.map(Some).ok_or_else(unknown)
    }

    /// The form of the call of [`PROBE`] in `answer`.
    fn in_answer(answer: &str) -> Option<Self> {
        let starts = answer.char_indices().filter(|(_, letter)| ['{', '['].contains(letter));
        starts.into_iter().find_map(|(start, _)| {
            let mut json = Deserializer::from_str(&answer[start..]).into_iter::<Value>();
            let value = json.next()?.ok()?;
            let (is_list, call) = match &value {
                Value::Array(list) => (true, list.first()?),
                one => (false, one),
            };
            let (arguments, _) =
                call.as_object()?.iter().find(|(_, value)| value["key"] == json!(1))?;
            (call["name"] == PROBE).then(|| Self {
                before: answer[..start].to_owned(),
                after: answer[start + json.byte_offset()..].to_owned(),
                arguments: arguments.clone(),
                is_list,
            })
        })
    }
}
