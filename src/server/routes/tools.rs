//! Functions that answers call: what requests say of them, and how calls are told.

use std::sync::Arc;

use rand::distr::{Alphanumeric, SampleString};
use serde::{Deserialize, Serialize};
use serde_json::json;
use utoipa::ToSchema;

use super::text_limit::check_text;
use crate::generate::Grammar;
use crate::json::Ordered;
use crate::pipeline::{CallReader, Pipeline, Tool, ToolCall, Tools};
use crate::server::fault::Fault;
use crate::server::sampling::Ignored;

/// Letters in the id of a call: as many as all chat templates take.
const ID_LEN: usize = 9;

/// The only kind of tools and calls.
#[derive(Clone, Copy, Debug, Serialize, Deserialize, ToSchema)]
#[schema(as = ToolKind)]
#[serde(rename_all = "lowercase")]
pub(super) enum Kind {
    Function,
}

/// A function of `tools`.
#[derive(Clone, Debug, Deserialize, ToSchema)]
#[schema(as = Tool)]
#[serde(deny_unknown_fields)]
pub(super) struct Offered {
    #[serde(rename = "type")]
    _kind: Kind,
    function: Function,
}

#[derive(Clone, Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
struct Function {
    /// 1 to 64 letters, digits, `_` and `-`.
    name: String,
    description: Option<String>,
    /// A JSON schema; without one there are no arguments.
    #[schema(value_type = Option<Object>)]
    parameters: Option<Ordered>,
    /// Calls that a request asks for are held to the schema, others are not.
    #[serde(default, rename = "strict")]
    _strict: Ignored,
}

/// `tool_choice`.
#[derive(Clone, Debug, Deserialize, ToSchema)]
#[serde(
    untagged,
    expecting = "expected none, auto, required or {\"type\": \"function\", \"function\": {\"name\": ...}}"
)]
pub(super) enum ToolChoice {
    Mode(Mode),
    Named {
        #[serde(rename = "type")]
        _kind: Kind,
        function: Named,
    },
}

#[derive(Clone, Copy, Debug, Deserialize, ToSchema)]
#[schema(as = ToolChoiceMode)]
#[serde(rename_all = "lowercase")]
pub(super) enum Mode {
    None,
    Auto,
    Required,
}

#[derive(Clone, Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct Named {
    name: String,
}

/// A call of a function by an answer.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
#[schema(as = ToolCall)]
#[serde(deny_unknown_fields)]
pub(super) struct Called {
    /// Its number in the answer, in streams.
    #[serde(skip_serializing_if = "Option::is_none")]
    index: Option<usize>,
    /// What its result names it by.
    id: String,
    #[serde(rename = "type")]
    kind: Kind,
    function: CalledFunction,
}

#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
struct CalledFunction {
    name: String,
    /// A JSON object, as text.
    arguments: String,
}

impl Called {
    pub(super) fn arguments(&self) -> &str {
        &self.function.arguments
    }

    /// A call as answers tell it, in streams with its number.
    pub(super) fn new(call: ToolCall, index: Option<usize>) -> Self {
        let ToolCall { id, name, arguments } = call;
        Self { index, id, kind: Kind::Function, function: CalledFunction { name, arguments } }
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
        (tools, choice, parallel): (Option<Vec<Offered>>, Option<ToolChoice>, Option<bool>),
    ) -> Result<Option<Self>, Fault> {
        let tools = tools.unwrap_or_default();
        let choice = choice.unwrap_or(ToolChoice::Mode(Mode::Auto));
        let (is_forced, name) = match choice {
            ToolChoice::Mode(Mode::None) => return Ok(None),
            ToolChoice::Mode(Mode::Auto) if tools.is_empty() => return Ok(None),
            ToolChoice::Mode(mode) => (matches!(mode, Mode::Required), None),
            ToolChoice::Named { function, .. } => (true, Some(function.name)),
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
