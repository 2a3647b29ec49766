//! Annotation files: JSON and JSON lines whose errors name file, line and field, and checks of ids.

use std::collections::HashMap;
use std::fmt::Display;
use std::fs::File;
use std::hash::Hash;
use std::io::BufReader;
use std::path::Path;

use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::Deserializer;
use serde_json::de::Read;

use super::files;
use crate::{Error, Result};

/// The value in the JSON file at `path`, parsed while it is read: the text is never held as a whole.
///
/// # Errors
/// `PATH: line 3 column 7: annotations[5].answers: missing field` and the like.
pub(super) fn json<T: DeserializeOwned>(path: &Path) -> Result<T> {
    if !std::fs::metadata(path).map_err(Error::io(path))?.is_file() {
        return Err(Error::file(path, "is not a regular file"));
    }
    let file = File::open(path).map_err(Error::io(path))?;
    let reader = BufReader::with_capacity(1 << 20, file);
    parse(path, Deserializer::from_reader(reader), 0)
}

/// The values in the file at `path`, a line each or all in one JSON list, and where each stands:
/// `line 3` or `[2]`.
///
/// # Errors
/// As [`json`].
pub(super) fn rows<T: DeserializeOwned>(path: &Path) -> Result<Vec<(String, T)>> {
    let bytes = files::read(path).map_err(Error::io(path))?;
    if bytes.trim_ascii_start().starts_with(b"[") {
        let list: Vec<T> = parse(path, Deserializer::from_slice(&bytes), 0)?;
        return Ok(list.into_iter().enumerate().map(|(n, row)| (format!("[{n}]"), row)).collect());
    }
    let lines = bytes.split(|&byte| byte == b'\n').enumerate();
    lines
        .filter(|(_, line)| !line.trim_ascii().is_empty())
        .map(|(n, line)| {
            let row = parse(path, Deserializer::from_slice(line), n)?;
            Ok((format!("line {}", n + 1), row))
        })
        .collect()
}

/// Parses the whole input of `reader`, which begins after so many lines of the file at `path`.
fn parse<'de, T: Deserialize<'de>, R: Read<'de>>(
    path: &Path,
    mut reader: Deserializer<R>,
    lines_before: usize,
) -> Result<T> {
    let value = serde_path_to_error::deserialize(&mut reader).map_err(|e| {
        let field = e.path().to_string();
        located(path, lines_before, &field, e.into_inner())
    })?;
    reader.end().map_err(|e| located(path, lines_before, ".", e))?;
    Ok(value)
}

/// `error` with its place in the file before what is wrong.
fn located(path: &Path, lines_before: usize, field: &str, error: serde_json::Error) -> Error {
    if error.is_io() {
        return Error::io(path)(error.into());
    }
    let text = error.to_string();
    let end = format!(" at line {} column {}", error.line(), error.column());
    let message = text.strip_suffix(&end).unwrap_or(&text);
    let missing = message.strip_prefix("missing field `").and_then(|m| m.strip_suffix('`'));
    let field = if field == "." { "" } else { field };
    let what = match (field, missing) {
        ("", Some(missing)) => format!("{missing}: missing field"),
        (field, Some(missing)) => format!("{field}.{missing}: missing field"),
        ("", None) => message.to_owned(),
        (field, None) => format!("{field}: {message}"),
    };
    let (line, column) = (lines_before + error.line(), error.column());
    Error::file(path, format!("line {line} column {column}: {what}"))
}

/// Where each of `ids` stands; `place` says where entry `n` has its id.
///
/// # Errors
/// When an id occurs twice.
pub(super) fn places<K: Hash + Eq + Display>(
    path: &Path,
    ids: impl IntoIterator<Item = K>,
    place: impl Fn(usize) -> String,
) -> Result<HashMap<K, usize>> {
    let mut places = HashMap::new();
    for (n, id) in ids.into_iter().enumerate() {
        if let Some(first) = places.get(&id) {
            let message = format!("{}: {id} was already in {}", place(n), place(*first));
            return Err(Error::file(path, message));
        }
        places.insert(id, n);
    }
    Ok(places)
}

/// Refuses a file that has a field in some entries only; test splits lack their answers everywhere.
/// `place` names the field in entry `n`.
///
/// # Errors
/// When entries differ.
pub(super) fn all_or_none(
    path: &Path,
    present: impl IntoIterator<Item = bool>,
    place: impl Fn(usize) -> String,
) -> Result<()> {
    let (mut with, mut without) = (None, None);
    for (n, present) in present.into_iter().enumerate() {
        (if present { &mut with } else { &mut without }).get_or_insert(n);
        if let (Some(with), Some(without)) = (with, without) {
            let message = format!("{}: missing field; {} is there", place(without), place(with));
            return Err(Error::file(path, message));
        }
    }
    Ok(())
}
