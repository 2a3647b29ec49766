//! Functions that answers call: what requests say of them, and how calls are told.

use std::sync::Arc;

use rand::distr::{Alphanumeric, SampleString};
use serde::Deserialize;
use serde::de::IgnoredAny;
use serde_json::{Value, json};

use super::text_limit::check_text;
use crate::generate::Grammar;
use crate::json::Ordered;
use crate::pipeline::{CallReader, Pipeline, Tool, ToolCall, Tools};
use crate::server::fault::Fault;

/// Letters in the id of a call: as many as all chat templates take.
const ID_LEN: usize = 9;

/// The only kind of tools and calls.
#[derive(Clone, Copy, Debug, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum Kind {
    Function,
}

/// A function of `tools`.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Offered {
    #[serde(rename = "type")]
    _kind: Kind,
    function: Function,
}

#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Function {
    name: String,
    description: Option<String>,
    /// A JSON schema; without one there are no arguments.
    parameters: Option<Ordered>,
    /// Calls that a request asks for are held to the schema, others are not.
    #[serde(default, rename = "strict")]
    _strict: IgnoredAny,
}

/// `tool_choice`.
#[derive(Clone, Debug, Deserialize)]
#[serde(
    untagged,
    expecting = "expected none, auto, required or {\"type\": \"function\", \"function\": {\"name\": ...}}"
)]
pub(super) enum Choice {
    Mode(Mode),
    Named {
        #[serde(rename = "type")]
        _kind: Kind,
        function: Named,
    },
}

#[derive(Clone, Copy, Debug, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum Mode {
    None,
    Auto,
    Required,
}

#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Named {
    name: String,
}

/// A call of an earlier answer.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Called {
    id: String,
    #[serde(rename = "type")]
    _kind: Kind,
    /// Its number, as streams have it.
    #[serde(default, rename = "index")]
    _index: IgnoredAny,
    function: CalledFunction,
}

#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct CalledFunction {
    name: String,
    arguments: String,
}

impl Called {
    pub(super) fn arguments(&self) -> &str {
        &self.function.arguments
    }

    /// # Errors
    /// If the arguments are no JSON object.
    pub(super) fn read(self) -> Result<ToolCall, Fault> {
        let CalledFunction { name, arguments } = self.function;
        let arguments = if arguments.trim().is_empty() { "{}".to_owned() } else { arguments };
        let is_object = arguments.parse::<Ordered>().is_ok_and(|value| value.is_object());
        match is_object {
            true => Ok(ToolCall { id: self.id, name, arguments }),
            false => Err(Fault::of("tool_calls", "the arguments of a call are no JSON object")),
        }
    }
}

/// The functions that the answers to a request may call.
#[derive(Clone, Debug)]
pub(super) struct Callable {
    pub(super) tools: Arc<Tools>,
    /// The grammar of the calls, if the answer must be some.
    pub(super) forced: Option<Grammar>,
    /// The most calls of an answer.
    most: usize,
}

impl Callable {
    /// What a request asks for by `tools`, `tool_choice` and `parallel_tool_calls`, if it does.
    ///
    /// # Errors
    /// If a function has no name or schema, or the chosen one is not there.
    pub(super) fn new(
        pipeline: &Pipeline,
        (tools, choice, parallel): (Option<Vec<Offered>>, Option<Choice>, Option<bool>),
    ) -> Result<Option<Self>, Fault> {
        let tools = tools.unwrap_or_default();
        let choice = choice.unwrap_or(Choice::Mode(Mode::Auto));
        let (is_forced, name) = match choice {
            Choice::Mode(Mode::None) => return Ok(None),
            Choice::Mode(Mode::Auto) if tools.is_empty() => return Ok(None),
            Choice::Mode(mode) => (matches!(mode, Mode::Required), None),
            Choice::Named { function, .. } => (true, Some(function.name)),
        };
        if tools.is_empty() {
            return Err(Fault::of("tool_choice", "tool_choice needs tools"));
        }
        let tools = listed(pipeline, tools)?;
        let several = parallel != Some(false);
        let grammar = is_forced.then(|| tools.grammar(name.as_deref(), several));
        let forced =
            grammar.transpose().map_err(|error| Fault::of("tool_choice", error.to_string()))?;
        let most = if several { usize::MAX } else { 1 };
        Ok(Some(Self { tools, forced, most }))
    }

    pub(super) fn reader(&self) -> CallReader {
        self.tools.reader(self.forced.is_some(), self.most)
    }
}

/// The functions of `tools`.
///
/// # Errors
/// If one has no name or schema, or they are too long.
pub(super) fn listed(pipeline: &Pipeline, tools: Vec<Offered>) -> Result<Arc<Tools>, Fault> {
    let mut bytes = 0;
    let tool = |Offered { function, .. }: Offered| {
        let Function { name, description, parameters, .. } = function;
        let empty = || json!({ "type": "object", "properties": {} }).to_string().parse();
        let parameters = parameters.map_or_else(empty, Ok);
        let parameters = parameters.map_err(|error| Fault::of("tools", error.to_string()))?;
        bytes += parameters.to_string().len() + description.as_ref().map_or(0, String::len);
        Ok(Tool { name, description, parameters })
    };
    let tools = tools.into_iter().map(tool).collect::<Result<Vec<_>, Fault>>()?;
    check_text(pipeline, bytes)?;
    let tools = pipeline.tools(tools).map_err(|error| Fault::of("tools", error.to_string()))?;
    Ok(Arc::new(tools))
}

/// An id for a call.
pub(super) fn new_id() -> String {
    Alphanumeric.sample_string(&mut rand::rng(), ID_LEN)
}

/// A call as answers tell it.
pub(super) fn to_json(call: &ToolCall) -> Value {
    json!({
        "id": call.id,
        "type": "function",
        "function": { "name": call.name, "arguments": call.arguments },
    })
}
