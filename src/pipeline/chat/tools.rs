//! Functions that answers may call: how a checkpoint is told of them, and how it calls them.

use chrono::{Local, NaiveDateTime};
use serde::Serialize;
use serde_json::{Value, json};

use super::calls::CallReader;
use crate::error::{Error, Result};
use crate::generate::Grammar;
use crate::json::Ordered;
use crate::pipeline::Pipeline;
use crate::tokenize::{CallForm, ChatTemplate, ContentForm, Processor};

/// Bytes in the name of a function.
const LONGEST_NAME: usize = 64;

/// What comes before the functions in the instructions, for checkpoints whose chat template does not read them.
const INTRODUCTION: &str = "You can call these functions. To call one, answer with nothing but \
    {\"name\": its name, \"arguments\": {its arguments}}.";

/// A function that an answer may call.
#[derive(Clone, Debug, Serialize)]
pub struct Tool {
    /// Letters, digits, `_` and `-`, 1 to 64.
    pub name: String,
    /// What it does.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub description: Option<String>,
    /// The JSON schema of its arguments, an object.
    pub parameters: Ordered,
}

/// A call of a function by an answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ToolCall {
    /// What results name it by.
    pub id: String,
    /// The name of the function.
    pub name: String,
    /// A JSON object.
    pub arguments: String,
}

/// What a function that was called has returned.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ToolResult {
    /// That of the call.
    pub id: String,
    /// The name of the function.
    pub name: String,
    /// What it returned.
    pub text: String,
}

/// The functions that answers of a conversation may call, in the form that the checkpoint has for them: that of its chat
/// template, or, if this does not read functions, one JSON object with `name` and `arguments` for a call, which the
/// instructions say.
#[derive(Clone, Debug)]
pub struct Tools {
    pub(super) list: Vec<Tool>,
    /// That of the chat template.
    pub(super) form: Option<CallForm>,
    /// What is read before and after a call: [`CallForm::before`] and [`CallForm::after`] without tokens that have no text.
    pub(super) bounds: [String; 2],
}

impl Pipeline {
    /// Functions for the answers of a conversation; none for a conversation that has calls of earlier ones only.
    ///
    /// # Errors
    /// If a name is none or has been there, parameters are no object, or the chat template writes calls in a form that is
    /// not known.
    pub fn tools(&self, list: Vec<Tool>) -> Result<Tools> {
        for (index, tool) in list.iter().enumerate() {
            tool.check()?;
            if list[..index].iter().any(|other| other.name == tool.name) {
                return Err(Error::invalid(format!("two functions have the name {:?}", tool.name)));
            }
        }
        let template = self.processor.chat_template();
        let form = template.map(|template| form_of(template, Local::now().naive_local()));
        let form = form.transpose()?.flatten();
        let bounds = match &form {
            Some(form) => {
                [visible(&self.processor, &form.before)?, visible(&self.processor, &form.after)?]
            }
            None => Default::default(),
        };
        Ok(Tools { list, form, bounds })
    }
}

fn form_of(template: &ChatTemplate, now: NaiveDateTime) -> Result<Option<CallForm>> {
    CallForm::of(template, ContentForm::of(template, now), now)
}

/// `text` of a template as it is read in an answer, without blanks around it.
fn visible(processor: &Processor, text: &str) -> Result<String> {
    let ids = processor.text().encode(text)?;
    Ok(processor.text().decode(&ids)?.trim().to_owned())
}

impl Tool {
    fn check(&self) -> Result<()> {
        let Self { name, parameters, .. } = self;
        let is_part = |letter: char| letter.is_ascii_alphanumeric() || "_-".contains(letter);
        if name.is_empty() || name.len() > LONGEST_NAME || !name.chars().all(is_part) {
            return Err(Error::invalid(format!(
                "a function's name is {name:?}; allowed: 1 to {LONGEST_NAME} letters, digits, _ and -"
            )));
        }
        match parameters.is_object() {
            true => Ok(()),
            false => Err(Error::invalid(format!("the parameters of {name:?} are no JSON schema"))),
        }
    }
}

impl Tools {
    /// The grammar of a call of the function `name`, or of any; with `several` of one call or more, where the checkpoint's
    /// form has lists of calls.
    ///
    /// # Errors
    /// If there is no such function, or the schemas are too large.
    pub fn grammar(&self, name: Option<&str>, several: bool) -> Result<Grammar> {
        let arguments = self.form.as_ref().map_or("arguments", |form| &form.arguments);
        let is_asked = |tool: &&Tool| name.is_none_or(|name| tool.name == name);
        let call = |tool: &Tool| {
            let parameters = serde_json::to_value(&tool.parameters);
            let parameters = parameters.map_err(Error::because("parameters"))?;
            let properties = json!({ "name": { "const": tool.name }, arguments: parameters });
            Ok(json!({
                "type": "object",
                "properties": properties,
                "required": ["name", arguments],
                "additionalProperties": false,
            }))
        };
        let calls: Vec<Value> =
            self.list.iter().filter(is_asked).map(call).collect::<Result<_>>()?;
        if calls.is_empty() {
            let known: Vec<&str> = self.list.iter().map(|tool| tool.name.as_str()).collect();
            let (name, known) = (name.unwrap_or_default(), known.join(", "));
            return Err(Error::invalid(format!("there is no function {name:?}; allowed: {known}")));
        }
        let call = json!({ "anyOf": calls });
        let schema = match (&self.form, several) {
            (Some(form), true) if form.is_list => {
                json!({ "type": "array", "items": call, "minItems": 1 })
            }
            (Some(form), false) if form.is_list => {
                json!({ "type": "array", "items": call, "minItems": 1, "maxItems": 1 })
            }
            _ => call,
        };
        Grammar::json_schema(&schema.to_string())
    }

    /// A reader of the calls in an answer, of which at most `most` are told. One that is `forced` begins with the call, as
    /// the text before it is part of the prompt.
    pub fn reader(&self, forced: bool, most: usize) -> CallReader {
        let names = self.list.iter().map(|tool| tool.name.clone()).collect();
        let [before, after] = self.bounds.clone();
        CallReader::new(names, [if forced { String::new() } else { before }, after], most)
    }

    /// The instructions with the functions, for a layout that does not have them.
    pub(super) fn instructions(&self, system: Option<&str>) -> String {
        let lines = self.list.iter().map(|tool| serde_json::to_string(tool).unwrap_or_default());
        let head = system.into_iter().chain([INTRODUCTION]).map(str::to_owned);
        head.chain(lines).collect::<Vec<_>>().join("\n")
    }
}

impl ToolCall {
    /// The text of `calls` in an answer of a layout that does not have them.
    pub(super) fn text(calls: &[Self]) -> String {
        let call = |Self { name, arguments, .. }: &Self| {
            format!("{{\"name\": {}, \"arguments\": {arguments}}}", json!(name))
        };
        calls.iter().map(call).collect::<Vec<_>>().join("\n")
    }
}
