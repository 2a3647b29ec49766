//! JSON as people have it: with a byte order mark, or with NaN and Infinity as Python writes them.

mod ordered;

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::ops::Range;

use serde::de::{DeserializeOwned, IgnoredAny, MapAccess, Visitor};
use serde::{Deserialize, Deserializer};
use serde_json::Value;

pub use ordered::Ordered;

/// UTF-8's byte order mark.
pub(crate) const BOM: &[u8] = b"\xEF\xBB\xBF";

/// Parses JSON in UTF-8. A byte order mark is skipped; `NaN`, `Infinity` and `-Infinity`, which are not
/// JSON but come from Python, are read as null.
///
/// # Errors
/// If `bytes` is not JSON, or JSON of another type; UTF-16 is named.
pub fn from_slice<T: DeserializeOwned>(bytes: &[u8]) -> serde_json::Result<T> {
    let text = bytes.strip_prefix(BOM).unwrap_or(bytes);
    let error = match serde_json::from_slice(text) {
        Ok(value) => return Ok(value),
        Err(error) => error,
    };
    match (utf_16(bytes), without_non_finite(text)) {
        (Some(message), _) => Err(serde::de::Error::custom(message)),
        (None, Cow::Owned(text)) => serde_json::from_slice(&text),
        (None, Cow::Borrowed(_)) => Err(error),
    }
}

/// `value` with the keys of every object in order. They are anyway, unless a crate of the build turns on
/// serde_json's `preserve_order`; a digest of its text must not depend on that.
pub(crate) fn sorted(value: Value) -> Value {
    match value {
        Value::Array(list) => Value::Array(list.into_iter().map(sorted).collect()),
        Value::Object(object) => {
            let object: BTreeMap<_, _> = object.into_iter().collect();
            Value::Object(object.into_iter().map(|(key, value)| (key, sorted(value))).collect())
        }
        plain => plain,
    }
}

/// The lines of `text` that are not blank, with their numbers from 1; a byte order mark is skipped.
pub fn lines(text: &str) -> impl Iterator<Item = (usize, &str)> {
    let text = text.strip_prefix('\u{FEFF}').unwrap_or(text);
    (1..).zip(text.lines()).filter(|(_, line)| !line.trim().is_empty())
}

/// A message if `head`, the start of a file of JSON or CSV, is UTF-16 or UTF-32.
pub(crate) fn utf_16(head: &[u8]) -> Option<&'static str> {
    // Text in these files begins with ASCII, of which UTF-16 has a zero byte per character.
    let is_wide = match head {
        [0xFF, 0xFE, ..] | [0xFE, 0xFF, ..] => true,
        [first, second, ..] => *first == 0 || *second == 0,
        _ => false,
    };
    is_wide.then_some("the text is UTF-16; convert it to UTF-8")
}

/// `text` with `null` in place of the values `NaN`, `Infinity` and `-Infinity`; strings are unchanged.
pub(crate) fn without_non_finite(text: &[u8]) -> Cow<'_, [u8]> {
    const NAMES: [&[u8]; 3] = [b"NaN", b"Infinity", b"-Infinity"];
    let (mut out, mut copied, mut at) = (Vec::new(), 0, 0);
    // Whether the last byte other than white space is one after which a value may follow.
    let mut expects_value = true;
    while at < text.len() {
        let rest = &text[at..];
        let found = NAMES.iter().find(|name| expects_value && rest.starts_with(name));
        if let Some(name) = found.filter(|name| ends_value(rest.get(name.len()))) {
            out.extend_from_slice(&text[copied..at]);
            out.extend_from_slice(b"null");
            at += name.len();
            copied = at;
            expects_value = false;
            continue;
        }
        at += if text[at] == b'"' { string_len(rest) } else { 1 };
        if !rest[0].is_ascii_whitespace() {
            expects_value = matches!(rest[0], b':' | b',' | b'[');
        }
    }
    if copied == 0 {
        return Cow::Borrowed(text);
    }
    out.extend_from_slice(&text[copied..]);
    Cow::Owned(out)
}

/// Whether a value may end before `next`.
fn ends_value(next: Option<&u8>) -> bool {
    next.is_none_or(|byte| matches!(byte, b',' | b']' | b'}') || byte.is_ascii_whitespace())
}

/// Length in bytes of the string that `text` begins with, quotes included.
fn string_len(text: &[u8]) -> usize {
    let mut at = 1;
    while at < text.len() {
        match text[at] {
            b'\\' => at += 2,
            b'"' => return at + 1,
            _ => at += 1,
        }
    }
    // The string is cut off.
    text.len()
}

/// The places of the values in the list that `text` begins with (after white space), and where the list
/// ends. Values are only told apart, not checked. None is passed over: the place of a value that is missing
/// before a comma is blank. Of a list that is cut off, the last place holds no whole value: that of a value
/// that is cut off too, or else an empty one at the end.
pub(crate) fn list_values(text: &[u8]) -> (Vec<Range<usize>>, usize) {
    let mut at = text.iter().position(|byte| *byte == b'[').map_or(text.len(), |open| open + 1);
    let (mut values, mut start, mut depth) = (Vec::new(), at, 0usize);
    let is_blank = |range: Range<usize>| text[range].trim_ascii().is_empty();
    while at < text.len() {
        match text[at] {
            b'"' => {
                at += string_len(&text[at..]);
                continue;
            }
            b'[' | b'{' => depth += 1,
            b']' if depth == 0 => {
                if !is_blank(start..at) {
                    values.push(start..at);
                }
                return (values, at + 1);
            }
            b']' | b'}' => depth = depth.saturating_sub(1),
            b',' if depth == 0 => {
                values.push(start..at);
                start = at + 1;
            }
            _ => {}
        }
        at += 1;
    }
    let end = text.len();
    if !is_blank(start..end) {
        values.push(start..end);
    }
    if depth == 0 {
        values.push(end..end);
    }
    (values, end)
}

/// The keys of a JSON object in the order of the text, which [`serde_json::Map`] does not keep.
pub(crate) struct Keys(pub Vec<String>);

impl<'de> Deserialize<'de> for Keys {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Names;
        impl<'de> Visitor<'de> for Names {
            type Value = Keys;

            fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str("an object")
            }

            fn visit_map<M: MapAccess<'de>>(self, mut map: M) -> Result<Keys, M::Error> {
                let mut keys = Vec::new();
                while let Some((key, _)) = map.next_entry::<String, IgnoredAny>()? {
                    keys.push(key);
                }
                Ok(Keys(keys))
            }
        }
        deserializer.deserialize_map(Names)
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests")]
mod tests {
    use proptest::prelude::*;
    use serde_json::{Value, json};

    use super::*;

    fn read(text: &str) -> Value {
        from_slice(text.as_bytes()).unwrap_or_else(|e| panic!("{text}: {e}"))
    }

    #[test]
    fn keys_are_in_order_at_every_depth() {
        let value: Value =
            serde_json::from_str(r#"{"b": [{"z": 1, "a": 2}], "a": {"y": 0, "x": 1}}"#).unwrap();
        assert_eq!(sorted(value).to_string(), r#"{"a":{"x":1,"y":0},"b":[{"a":2,"z":1}]}"#);
    }

    #[test]
    fn non_finite_numbers_are_null_in_every_position_of_a_value() {
        for (text, expected) in [
            ("NaN", json!(null)),
            (" -Infinity ", json!(null)),
            (r#"{"a":NaN}"#, json!({ "a": null })),
            (
                r#"{"a": Infinity, "b": [1, NaN,-Infinity ,"NaN"]}"#,
                json!({ "a": null, "b": [1, null, null, "NaN"] }),
            ),
            (
                r#"{"NaN": "a, NaN, b", "q\": NaN": NaN}"#,
                json!({ "NaN": "a, NaN, b", "q\": NaN": null }),
            ),
            ("[NaN\r\n,\tNaN]\r\n", json!([null, null])),
            (r#"["\\",NaN]"#, json!(["\\", null])),
        ] {
            assert_eq!(read(text), expected, "{text}");
        }
    }

    #[test]
    fn other_words_stay_errors() {
        for text in [
            "nan",
            "NaNs",
            "[NaN NaN]",
            "{NaN: 1}",
            "[+Infinity]",
            "[-NaN]",
            "[1NaN]",
            "[\"a\"NaN]",
            "\"NaN",
            "[NaN",
        ] {
            assert!(from_slice::<Value>(text.as_bytes()).is_err(), "{text}");
        }
    }

    #[test]
    fn byte_order_marks_are_skipped_and_utf_16_is_named() {
        assert_eq!(read("\u{FEFF}[1]"), json!([1]));
        assert_eq!(read("\u{FEFF}[NaN]"), json!([null]));
        let wide: Vec<u8> = "{\"a\": 1}".encode_utf16().flat_map(u16::to_le_bytes).collect();
        for bytes in [wide.clone(), [&[0xFF, 0xFE], &wide[..]].concat()] {
            let error = from_slice::<Value>(&bytes).unwrap_err();
            assert!(error.to_string().contains("UTF-16"), "{error}");
        }
        let found: Vec<_> = lines("\u{FEFF}a\r\n\r\n \nb").collect();
        assert_eq!(found, [(1, "a"), (4, "b")]);
    }

    #[test]
    fn values_of_a_list_are_told_apart_by_commas_outside_of_them() {
        for (text, expected, rest) in [
            (r#" [1, {"a": [2, "],"]} ,"b"] x"#, &["1", r#"{"a": [2, "],"]}"#, r#""b""#][..], " x"),
            ("[]", &[], ""),
            ("[\n]\n", &[], "\n"),
            (r#"[{"a": 1}, {"a": "#, &[r#"{"a": 1}"#, r#"{"a":"#], ""),
            ("[[1], [2]", &["[1]", "[2]", ""], ""),
            ("[1,\n", &["1", ""], ""),
            ("[", &[""], ""),
            ("[1, ,2]", &["1", "", "2"], ""),
        ] {
            let (values, end) = list_values(text.as_bytes());
            let values: Vec<_> = values.into_iter().map(|range| text[range].trim()).collect();
            assert_eq!((&values[..], &text[end..]), (expected, rest), "{text}");
        }
    }

    #[test]
    fn keys_keep_the_order_of_the_text() {
        let Keys(keys) = from_slice(br#"{"b": {"z": 1}, "a": NaN, "c": []}"#).unwrap();
        assert_eq!(keys, ["b", "a", "c"]);
    }

    proptest! {
        #[test]
        fn text_that_is_json_already_is_not_changed(words in prop::collection::vec("NaN|Infinity|[\\\\\"a:,\\[\\]{} ]{0,4}", 0..6)) {
            let text = json!({ "list": words, "a": words.concat() }).to_string();
            prop_assert!(matches!(without_non_finite(text.as_bytes()), Cow::Borrowed(_)));
        }

        #[test]
        fn no_bytes_panic(bytes in prop::collection::vec(any::<u8>(), 0..40), text in "[NaIfinty\\-\"\\\\:,\\[\\]{}]{0,30}") {
            let _ = from_slice::<Value>(&bytes);
            let _ = from_slice::<Value>(text.as_bytes());
        }
    }
}
