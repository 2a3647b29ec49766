//! Specs of several files: comma lists, brace lists and globs.

use std::path::{Path, PathBuf};

use super::glob::{glob, is_glob, matches};
use crate::error::{Error, Result};

/// Maximum number of files that one spec may name.
const MAX_FILES: usize = 100_000;

/// Schemes of object stores.
const SCHEMES: [&str; 4] = ["s3://", "gs://", "az://", "file://"];

/// Whether `spec` is the URL of an object store, which can hold token shards only.
pub(super) fn is_url(spec: &str) -> bool {
    SCHEMES.iter().any(|scheme| spec.trim().starts_with(scheme))
}

/// The files that `spec` names: a path, a brace list, a glob, or several of these with commas
/// between them. An existing path is taken literally.
pub(super) fn expand(spec: &str) -> Result<Vec<PathBuf>> {
    if spec.trim().is_empty() {
        return Err(Error::invalid("a data set needs a path; the given one is empty"));
    }
    if is_url(spec) {
        return Err(Error::invalid(format!(
            "data set {spec:?}: at a URL there can be token shards only; fetch other data sets first"
        )));
    }
    if Path::new(spec).exists() {
        return Ok(vec![PathBuf::from(spec)]);
    }
    let mut files = Vec::new();
    for part in split_top_level(spec) {
        for name in braces(part.trim())? {
            match is_glob(&name) && !Path::new(&name).exists() {
                true => files.extend(glob(&name)?),
                false => files.push(PathBuf::from(name)),
            }
        }
        if files.len() > MAX_FILES {
            return Err(too_many(spec));
        }
    }
    Ok(files)
}

/// Links among the matches of the globs in `spec` that lead nowhere, which [`expand`] leaves out.
pub(super) fn links_to_nowhere(spec: &str) -> Result<Vec<PathBuf>> {
    let mut links = Vec::new();
    if Path::new(spec).exists() {
        return Ok(links);
    }
    for part in split_top_level(spec) {
        for name in braces(part.trim())?.iter().filter(|name| is_glob(name)) {
            let is_lost = |path: &PathBuf| !path.exists() && path.symlink_metadata().is_ok();
            links.extend(matches(name)?.into_iter().filter(is_lost));
        }
    }
    Ok(links)
}

fn too_many(spec: &str) -> Error {
    Error::invalid(format!("data set {spec:?}: names more than {MAX_FILES} files"))
}

/// Splits at commas outside braces.
fn split_top_level(text: &str) -> Vec<&str> {
    let (mut parts, mut depth, mut start) = (Vec::new(), 0usize, 0);
    for (at, c) in text.char_indices() {
        match c {
            '{' => depth += 1,
            '}' => depth = depth.saturating_sub(1),
            ',' if depth == 0 => {
                parts.push(&text[start..at]);
                start = at + 1;
            }
            _ => {}
        }
    }
    parts.push(&text[start..]);
    parts
}

/// Expands `{0000..0007}` and `{a,b}`, also nested.
fn braces(pattern: &str) -> Result<Vec<String>> {
    let Some(open) = pattern.find('{') else { return Ok(vec![pattern.to_owned()]) };
    let mut depth = 0usize;
    let close = pattern[open..].char_indices().find_map(|(at, c)| {
        depth = match c {
            '{' => depth + 1,
            '}' => depth - 1,
            _ => depth,
        };
        (depth == 0).then_some(open + at)
    });
    let Some(close) = close else {
        return Err(Error::invalid(format!("data set {pattern:?}: a {{ has no matching }}")));
    };
    let mut choices = Vec::new();
    for choice in alternatives(pattern, &pattern[open + 1..close])? {
        choices.extend(braces(&choice)?);
    }
    let tails = braces(&pattern[close + 1..])?;
    if choices.len().saturating_mul(tails.len()) > MAX_FILES {
        return Err(too_many(pattern));
    }
    let head = &pattern[..open];
    Ok(choices.iter().flat_map(|c| tails.iter().map(move |t| format!("{head}{c}{t}"))).collect())
}

/// The choices between the braces `{inner}` of `pattern`.
fn alternatives(pattern: &str, inner: &str) -> Result<Vec<String>> {
    let listed = split_top_level(inner);
    if listed.len() > 1 {
        return Ok(listed.into_iter().map(str::to_owned).collect());
    }
    let range = inner.split_once("..").and_then(|(first, last)| {
        let digits = |s: &str| !s.is_empty() && s.bytes().all(|b| b.is_ascii_digit());
        (digits(first) && digits(last)).then_some(())?;
        let width = first.len().max(last.len());
        let padded = first.starts_with('0') || last.starts_with('0');
        let bounds = (first.parse::<u64>().ok()?, last.parse::<u64>().ok()?);
        Some((bounds.0, bounds.1, if padded { width } else { 0 }))
    });
    match range {
        Some((first, last, _)) if last < first => Err(Error::invalid(format!(
            "data set {pattern:?}: the range {{{inner}}} runs backwards"
        ))),
        Some((first, last, _)) if last - first >= MAX_FILES as u64 => Err(too_many(pattern)),
        Some((first, last, width)) => Ok((first..=last).map(|n| format!("{n:0width$}")).collect()),
        None => Err(Error::invalid(format!(
            "data set {pattern:?}: {{{inner}}} is no list; allowed are {{0000..0007}} and {{a,b}}"
        ))),
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;

    #[test]
    fn brace_ranges_keep_their_width() {
        let names = braces("a-{08..11}.tar").unwrap();
        assert_eq!(names, ["a-08.tar", "a-09.tar", "a-10.tar", "a-11.tar"]);
        assert_eq!(braces("{8..10}").unwrap(), ["8", "9", "10"]);
    }

    #[test]
    fn brace_lists_nest_and_multiply() {
        let names = braces("{a,b{0..1}}-{x,y}").unwrap();
        assert_eq!(names, ["a-x", "a-y", "b0-x", "b0-y", "b1-x", "b1-y"]);
    }

    #[test]
    fn wrong_brace_lists_are_errors_that_say_what_is_allowed() {
        for (pattern, words) in [
            ("a-{0000..0007.tar", "no matching }"),
            ("a-{7..0}.tar", "runs backwards"),
            ("a-{x}.tar", "allowed are {0000..0007} and {a,b}"),
            ("a-{0..9999999}.tar", "more than"),
            ("{0..999}{0..999}", "more than"),
        ] {
            let message = braces(pattern).unwrap_err().to_string();
            assert!(message.contains(words), "{message}");
        }
    }

    #[test]
    fn commas_inside_braces_do_not_split() {
        assert_eq!(split_top_level("a-{1,2}.tar,b.tar"), ["a-{1,2}.tar", "b.tar"]);
    }
}
