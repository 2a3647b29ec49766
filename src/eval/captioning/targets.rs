//! The references of an image: the captions or names that a data set gives it.

use std::collections::BTreeSet;

use serde_json::Value;

use crate::data::{Dataset, Fields};
use crate::error::{Error, Result};

/// Columns of references, the first present one of which is read; a list holds several.
const TARGET_COLUMNS: [&str; 6] = ["captions", "name", "caption", "text", "txt", "label"];

/// The references of a sample; `None` without a column of them.
pub(super) fn targets(fields: &Fields) -> Result<Option<Vec<String>>> {
    let column = TARGET_COLUMNS.iter().find_map(|name| Some((name, fields.get(*name)?)));
    let Some((name, value)) = column.filter(|(_, value)| !value.is_null()) else { return Ok(None) };
    let texts: Option<Vec<String>> = match value {
        Value::String(text) => Some(vec![text.clone()]),
        Value::Array(list) => list.iter().map(|v| v.as_str().map(str::to_owned)).collect(),
        _ => None,
    };
    let texts = texts.filter(|texts| !texts.is_empty());
    let wrong =
        || Error::invalid(format!("column {name} holds neither a text nor a list of texts"));
    texts.map(Some).ok_or_else(wrong)
}

/// All references in `dataset`, each once, sorted: the choices if names are chosen.
///
/// # Errors
/// If there is none.
pub fn all_targets(dataset: &dyn Dataset) -> Result<Vec<String>> {
    // Bad samples are skipped here; they are counted when they are measured.
    let of = |index| targets(&dataset.fields(index).ok()?).ok().flatten();
    let all: BTreeSet<String> = (0..dataset.len()).filter_map(of).flatten().collect();
    match all.is_empty() {
        true => Err(Error::invalid(format!("{}: {}", dataset.name(), no_target()))),
        false => Ok(all.into_iter().collect()),
    }
}

/// The message for samples without a column of references.
fn no_target() -> String {
    format!("no column {}", TARGET_COLUMNS.join(", "))
}

/// The first reference of a sample.
///
/// # Errors
/// If there is no column of captions or names.
pub fn first_target(fields: &Fields) -> Result<String> {
    let targets = targets(fields)?.ok_or_else(|| Error::invalid(no_target()))?;
    Ok(targets.into_iter().next().unwrap_or_default())
}
