//! Errors of grammars: llguidance's messages in one line, with the place.

use std::fmt::Display;

use serde_json::Value;

use crate::error::Error;

/// How many parts of a faulty schema are compiled to find the place.
const MAX_PARTS: usize = 500;

/// The error of a regular expression.
pub(super) fn in_regex(message: &str) -> Error {
    // The place counts from the beginning of the grammar that llguidance writes around it.
    let (_, message) = place(message);
    Error::invalid(format!("regular expression: {}", line(message)))
}

/// The error of a Lark grammar.
pub(super) fn in_lark(message: &str) -> Error {
    match place(message) {
        (Some((row, column)), message) => {
            Error::invalid(format!("Lark grammar, line {row}, column {column}: {}", line(message)))
        }
        (None, message) => Error::invalid(format!("Lark grammar: {}", line(message))),
    }
}

/// The error of the JSON schema `schema`, at the smallest part that has it by itself. `error_of` compiles a
/// schema and returns its message.
pub(super) fn in_schema(
    schema: &Value,
    message: &str,
    error_of: &dyn Fn(&Value) -> Option<String>,
) -> Error {
    let mut pointer = "#".to_owned();
    let (mut part, mut tried) = (schema, 0);
    loop {
        let same = |inner: &Value| {
            let inner = error_of(&with_definitions(inner, schema));
            inner.filter(|inner| line(message).ends_with(&line(inner)))
        };
        let parts = parts(part).into_iter().take(MAX_PARTS - tried).inspect(|_| tried += 1);
        let Some((step, inner)) = { parts }.find(|(_, inner)| same(inner).is_some()) else {
            break;
        };
        pointer += &step;
        part = inner;
    }
    Error::invalid(format!("JSON schema at {pointer}: {}", line(message)))
}

/// The error of a text that llguidance can follow no further.
pub(super) fn on_the_way(error: &impl Display) -> Error {
    let message = error.to_string();
    if message.contains("NoExtensionBias") {
        return dead_end();
    }
    Error::invalid(format!("the grammar cannot be followed any further: {}", line(&message)))
}

/// The error of a grammar none of whose texts the vocabulary can write.
pub(super) fn dead_end() -> Error {
    Error::invalid("no text id of the vocabulary continues the grammar here")
}

/// The row and column that a message begins with, and the rest.
fn place(message: &str) -> (Option<(usize, usize)>, &str) {
    let parsed = || {
        let (row, rest) = message.strip_prefix("at ")?.split_once('(')?;
        let (column, rest) = rest.split_once("): ")?;
        Some(((row.parse().ok()?, column.parse().ok()?), rest))
    };
    parsed().map_or((None, message), |(place, rest)| (Some(place), rest))
}

/// A message in one line: without excerpts, backtraces and states, and with the column of an error that is
/// marked below a regular expression.
pub(super) fn line(message: &str) -> String {
    let message = message.split("\n<").next().unwrap_or_default();
    let message = message.split("; following special tokens").next().unwrap_or_default();
    let (head, block) = message.split_once("regex parse error:").unwrap_or((message, ""));
    let mut text = head.lines().next().unwrap_or_default().trim().replace(" (in regex)", "");
    let reason = block.lines().find_map(|line| line.strip_prefix("error: "));
    if let Some(reason) = reason {
        text += if text.is_empty() { "" } else { " " };
        text += reason;
        let marks = block.lines().find(|line| line.trim_start().starts_with('^'));
        // The expression is indented by four.
        let column = marks.and_then(|line| line.find('^')?.checked_sub(3));
        text += &column.map(|column| format!(", at character {column}")).unwrap_or_default();
    }
    text.replace("unknown special token:", "a text has no control tokens:")
        .replace("Unimplemented keys:", "keys that are not supported:")
}

/// The parts of `schema` that are schemas, with their steps of a JSON pointer.
fn parts(schema: &Value) -> Vec<(String, &Value)> {
    const SCHEMAS: [&str; 4] = ["additionalProperties", "items", "contains", "propertyNames"];
    const LISTS: [&str; 5] = ["allOf", "anyOf", "oneOf", "items", "prefixItems"];
    const TABLES: [&str; 4] = ["properties", "patternProperties", "$defs", "definitions"];
    let mut found = Vec::new();
    for (key, value) in schema.as_object().into_iter().flatten() {
        let key = key.as_str();
        match value {
            Value::Object(_) if SCHEMAS.contains(&key) => found.push((format!("/{key}"), value)),
            Value::Array(list) if LISTS.contains(&key) => {
                let list = list.iter().enumerate();
                found.extend(list.map(|(number, part)| (format!("/{key}/{number}"), part)));
            }
            Value::Object(table) if TABLES.contains(&key) => {
                let name = |name: &String| name.replace('~', "~0").replace('/', "~1");
                found.extend(
                    table.iter().map(|(key_, part)| (format!("/{key}/{}", name(key_)), part)),
                );
            }
            _ => {}
        }
    }
    found
}

/// `part` with the definitions of `root`, to which it may refer.
fn with_definitions(part: &Value, root: &Value) -> Value {
    let mut part = part.clone();
    if let (Value::Object(part), Value::Object(root)) = (&mut part, root) {
        for key in ["$defs", "definitions", "x-guidance"] {
            if let (None, Some(value)) = (part.get(key), root.get(key)) {
                part.insert(key.to_owned(), value.clone());
            }
        }
    }
    part
}
