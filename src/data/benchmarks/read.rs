//! Reading of annotation files with errors that name file, line and field, and checks of ids.

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

use crate::data::files;
use crate::{Error, Result};

/// Parses the JSON file at `path` as a stream, without holding its text in memory.
///
/// # Errors
/// If the file cannot be read or parsed, such as
/// `PATH: line 3 column 7: annotations[5].answers: missing field`.
pub(super) fn json<T: DeserializeOwned>(path: &Path) -> Result<T> {
    if !std::fs::metadata(path).map_err(Error::io(path))?.is_file() {
        return Err(Error::file(path, "is not a regular file"));
    }
    let file = File::open(path).map_err(Error::io(path))?;
    let reader = BufReader::with_capacity(1 << 20, file);
    parse(path, Deserializer::from_reader(reader), 0)
}

/// Parses the file at `path`, either JSON lines or one JSON list; returns each value with its
/// position, `line 3` or `[2]`.
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

/// Parses all of `reader`, which starts after `lines_before` lines of the file at `path`.
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

/// A parser's error with its position in the file in front.
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
    let message = format!("line {line} column {column}: {what}");
    Error::File { path: path.to_owned(), message, source: Some(error.into()) }
}

/// The index of each of `ids`; `place` names the field with the id of entry `n`.
///
/// # Errors
/// If an id occurs twice.
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

/// Checks that a field is present in all entries or in none; test splits have no answers. `place`
/// names the field of entry `n`.
///
/// # Errors
/// If only some entries have the field.
pub(super) fn all_or_none(
    path: &Path,
    present: impl IntoIterator<Item = bool>,
    place: impl Fn(usize) -> String,
) -> Result<()> {
    let (mut with, mut without) = (None, None);
    for (n, present) in present.into_iter().enumerate() {
        (if present { &mut with } else { &mut without }).get_or_insert(n);
        if let (Some(with), Some(without)) = (with, without) {
            let message = format!("{}: missing field; {} exists", place(without), place(with));
            return Err(Error::file(path, message));
        }
    }
    Ok(())
}
