//! What the text of an answer must be: OpenAI's `response_format`, and vLLM's `structured_outputs`.

use serde::Deserialize;
use serde_json::Value;
use utoipa::ToSchema;

use super::fault::Fault;
use crate::generate::Grammar;

/// `response_format`.
#[derive(Clone, Debug, Deserialize, ToSchema)]
#[serde(tag = "type", rename_all = "snake_case")]
pub(super) enum ResponseFormat {
    Text,
    JsonObject,
    JsonSchema { json_schema: NamedSchema },
}

/// A schema; its name and description change nothing here.
#[derive(Clone, Debug, Deserialize, ToSchema)]
pub(super) struct NamedSchema {
    /// A JSON schema.
    #[schema(value_type = Object)]
    schema: Value,
}

/// `structured_outputs`: one of these.
#[derive(Clone, Debug, Default, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct StructuredOutputs {
    /// A JSON schema.
    #[schema(value_type = Option<Object>)]
    json: Option<Value>,
    /// A regular expression for the whole text.
    regex: Option<String>,
    /// One of these texts.
    choice: Option<Vec<String>>,
    /// In llguidance's variant of Lark.
    grammar: Option<String>,
}

/// The grammar that a request asks for.
///
/// # Errors
/// If it asks for several, or for one that is too large, or the build has no grammars.
pub(super) fn grammar(
    format: Option<&ResponseFormat>,
    outputs: Option<&StructuredOutputs>,
) -> Result<Option<Grammar>, Fault> {
    let outputs = outputs.cloned().unwrap_or_default();
    let StructuredOutputs { json, regex, choice, grammar } = outputs;
    let of_format = match format {
        None | Some(ResponseFormat::Text) => None,
        Some(ResponseFormat::JsonObject) => Some(serde_json::json!({ "type": "object" })),
        Some(ResponseFormat::JsonSchema { json_schema }) => Some(json_schema.schema.clone()),
    };
    let of_schema = |schema: Value| Grammar::json_schema(&schema.to_string());
    let asked = [
        of_format.map(of_schema),
        json.map(of_schema),
        regex.map(|regex| Grammar::regex(&regex)),
        choice.map(|choice| Grammar::choices(&choice)),
        grammar.map(|grammar| Grammar::lark(&grammar)),
    ];
    let mut asked = asked.into_iter().flatten();
    match (asked.next(), asked.next()) {
        (_, Some(_)) => Err(Fault::of(
            "structured_outputs",
            "several forms of the answer are asked for; allowed: one of response_format, and json, \
             regex, choice or grammar in structured_outputs",
        )),
        (asked, None) => Ok(asked.transpose()?),
    }
}
