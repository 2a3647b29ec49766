//! Error messages and checks shared by several readers.

use std::path::Path;

use serde_json::Value;

use super::dataset::Fields;
use crate::error::Error;

/// The name of the JSON type of `value`.
pub(super) fn type_name(value: &Value) -> &'static str {
    match value {
        Value::Null => "null",
        Value::Bool(_) => "boolean",
        Value::Number(number) if number.is_f64() => "number",
        Value::Number(_) => "integer",
        Value::String(_) => "string",
        Value::Array(_) => "list",
        Value::Object(_) => "object",
    }
}

/// A message about an unknown `what` (such as a key) that suggests the nearest of `known`.
pub(super) fn unknown(what: &str, name: &str, known: &[&str]) -> String {
    let distance = |known: &&&str| strsim::damerau_levenshtein(known, name);
    let nearest = known.iter().min_by_key(distance).copied().unwrap_or_default();
    let allowed = known.join(", ");
    format!("unknown {what} {name:?}, the nearest is {nearest:?} (allowed: {allowed})")
}

/// A message that lists the names of `fields`.
pub(super) fn available(fields: &Fields) -> String {
    match fields.is_empty() {
        true => "there are no fields".to_owned(),
        false => {
            let names: Vec<&str> = fields.keys().map(String::as_str).collect();
            format!("available are {}", names.join(", "))
        }
    }
}

/// An error about one item (member, row, line) of the file at `path`.
pub(super) fn item_error(path: &Path, item: &str, message: impl std::fmt::Display) -> Error {
    Error::file(path, format!("{item}: {message}"))
}

/// Result of checking a row; the error is the message.
pub(super) type Checked<T> = std::result::Result<T, String>;

/// The value as a list.
pub(super) fn list<'a>(value: &'a Value, name: &str) -> Checked<&'a [Value]> {
    let found = type_name(value);
    value.as_array().map(Vec::as_slice).ok_or_else(|| format!("{name} is a {found}, not a list"))
}

/// The value as a string.
pub(super) fn string(value: &Value, name: &str) -> Checked<String> {
    let found = type_name(value);
    let text = value.as_str().map(str::to_owned);
    text.ok_or_else(|| format!("{name} is a {found}, not a string"))
}
