//! `{% generation %}`: the block of `transformers` around answers, which Jinja does not know.

use std::ops::Range;

use regex::{Captures, Regex};

/// Stand in rendered text where a marked answer begins and ends: code points that are never characters.
const BOUNDS: [char; 2] = ['\u{FDD2}', '\u{FDD3}'];

/// The block's tags, and the line end that Jinja trims after a tag.
fn tags() -> Regex {
    Regex::new(r"(\{%[-+]?\s*)(end)?generation\s*([-+]?)%\}(\n?)").expect("it is valid")
}

/// Whether `source` marks answers.
pub(super) fn are_in(source: &str) -> bool {
    tags().is_match(source)
}

/// `source` with the block as one that always holds.
pub(super) fn without(source: &str) -> String {
    let replaced = tags().replace_all(source, |found: &Captures<'_>| {
        let block = if found.get(2).is_some() { "endif" } else { "if true" };
        format!("{}{block} {}%}}{}", &found[1], &found[3], &found[4])
    });
    replaced.into_owned()
}

/// As [`without`]; bounds are written where answers begin and end.
pub(super) fn bounded(source: &str) -> String {
    let replaced = tags().replace_all(source, |found: &Captures<'_>| {
        let is_end = found.get(2).is_some();
        let block = if is_end { "endif" } else { "if true" };
        let bound = BOUNDS[usize::from(is_end)];
        // The bound comes between the tag and what the tag would trim, so it is trimmed here.
        let (trim, line_end) = match &found[3] {
            "-" => ("-", &found[4]),
            "+" => ("", &found[4]),
            _ => ("", ""),
        };
        format!("{}{block} %}}{{{{ '{bound}' {trim}}}}}{line_end}", &found[1])
    });
    replaced.into_owned()
}

/// `text` without bounds, and the bytes between them.
pub(super) fn taken_from(text: &str) -> (String, Vec<Range<usize>>) {
    let (mut plain, mut spans, mut start) = (String::new(), Vec::new(), None);
    for character in text.chars() {
        match BOUNDS.iter().position(|bound| *bound == character) {
            None => plain.push(character),
            Some(0) => start = Some(plain.len()),
            Some(_) => spans.extend(start.take().map(|start: usize| start..plain.len())),
        }
    }
    (plain, spans)
}

/// `text` with the replacement character for every bound in it.
pub(super) fn kept_out_of(text: &str) -> String {
    text.replace(BOUNDS, "\u{FFFD}")
}
