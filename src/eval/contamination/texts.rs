//! Texts of samples, and their hashes: of the whole text and of its n-grams.
//!
//! Words of n-grams follow GPT-3 (Brown et al. 2020, Language Models are Few-Shot Learners,
//! appendix C): "a lowercase, whitespace delimited word with no punctuation"; punctuation is every
//! character that is neither letter nor digit. A text with fewer words than an n-gram is compared
//! as a whole.

use std::hash::{DefaultHasher, Hash, Hasher};

use serde_json::Value;

use crate::data::Fields;

/// Columns of image file names.
const FILES: [&str; 4] = ["file_name", "file_names", "image", "images"];
/// Columns of documents, which hold their words at some depth.
const DOCUMENTS: [&str; 3] = ["segments", "messages", "conversations"];
/// Keys of the words in a part of a document.
const WORDS: [&str; 3] = ["text", "content", "value"];

/// The texts of a sample with their columns: every string at any depth of the given `columns`;
/// without `columns` the strings, lists of strings and words of documents in all columns except
/// names of image files.
pub(super) fn texts<'a>(fields: &'a Fields, columns: Option<&[String]>) -> Vec<(&'a str, &'a str)> {
    let mut found = Vec::new();
    for (name, value) in fields {
        let mut add = |text: &'a str| {
            if !text.trim().is_empty() {
                found.push((name.as_str(), text));
            }
        };
        match (columns, value) {
            (Some(columns), _) if !columns.contains(name) => {}
            (None, _) if FILES.contains(&name.as_str()) => {}
            (Some(_), _) => strings(value, &mut add),
            (None, _) if DOCUMENTS.contains(&name.as_str()) => strings(value, &mut add),
            (None, Value::String(text)) => add(text),
            (None, Value::Array(list)) => list.iter().filter_map(Value::as_str).for_each(add),
            _ => {}
        }
    }
    found
}

/// Calls `add` with every string in `value`; of parts of documents, with the words only.
fn strings<'a>(value: &'a Value, add: &mut dyn FnMut(&'a str)) {
    match value {
        Value::String(text) => add(text),
        Value::Array(list) => list.iter().for_each(|value| strings(value, add)),
        Value::Object(object) => {
            let kind = object.get("type").and_then(Value::as_str);
            if kind.is_some_and(|kind| kind.starts_with("image")) {
                return;
            }
            let is_part = ["type", "role", "from"].iter().any(|key| object.contains_key(*key))
                && WORDS.iter().any(|key| object.contains_key(*key));
            let kept = object.iter().filter(|(key, _)| !is_part || WORDS.contains(&key.as_str()));
            kept.for_each(|(_, value)| strings(value, add));
        }
        _ => {}
    }
}

/// The hash of `text` in lower case with single blanks between words.
pub(super) fn text_hash(text: &str) -> u64 {
    let mut hasher = DefaultHasher::new();
    for word in text.split_whitespace() {
        word.to_lowercase().hash(&mut hasher);
    }
    hasher.finish()
}

/// The hashes of the n-grams of `len` words in `text`, or of all its words if they are fewer; none
/// without words. A short text never equals an n-gram.
pub(super) fn grams(text: &str, len: usize) -> Vec<u64> {
    let bare = |word: &str| -> String {
        word.chars().filter(|c| c.is_alphanumeric()).flat_map(char::to_lowercase).collect()
    };
    let words: Vec<String> =
        text.split_whitespace().map(bare).filter(|word| !word.is_empty()).collect();
    let hash = |words: &[String]| {
        let mut hasher = DefaultHasher::new();
        words.hash(&mut hasher);
        hasher.finish()
    };
    match words.len() {
        0 => Vec::new(),
        few if few < len => vec![hash(&words)],
        _ => words.windows(len).map(hash).collect(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn found(value: Value, columns: Option<&[&str]>) -> Vec<String> {
        let fields = value.as_object().cloned().unwrap_or_default();
        let columns: Option<Vec<String>> =
            columns.map(|names| names.iter().map(|name| (*name).to_owned()).collect());
        let texts = texts(&fields, columns.as_deref());
        texts.iter().map(|(column, text)| format!("{column}: {text}")).collect()
    }

    #[test]
    fn texts_are_strings_and_lists_of_strings_except_file_names() {
        let row = json!({"file_name": "a.png", "caption": "a red square", "names": ["x", 3, "y"],
            "n": 4, "empty": " ", "questions": [{"question": "why?", "answer": "so"}]});
        let all = ["caption: a red square", "names: x", "names: y"];
        assert_eq!(found(row.clone(), None), all);
        let named = found(row, Some(&["questions"]));
        assert_eq!(named, ["questions: so", "questions: why?"]);
    }

    #[test]
    fn only_the_words_of_documents_are_texts() {
        let row = json!({"messages": [{"role": "user", "content": [
            {"type": "image", "path": "p.png"}, {"type": "text", "text": "what is it?"}]},
            {"role": "assistant", "content": "a cat"}]});
        assert_eq!(found(row, None), ["messages: what is it?", "messages: a cat"]);
    }

    #[test]
    fn texts_ignore_case_and_blanks_and_ngrams_ignore_punctuation() {
        assert_eq!(text_hash("A  red\nsquare"), text_hash("a red square"));
        assert_ne!(text_hash("a red square."), text_hash("a red square"));
        assert_eq!(grams("A red, square!", 13), grams("a red square", 13));
        assert_ne!(grams("a red square", 13), grams("a red square too", 13));
        assert_eq!(grams("one two three four", 3).len(), 2);
        assert_eq!(grams("zero one two three", 3)[1], grams("one two three four", 3)[0]);
        assert!(grams("!? ...", 3).is_empty());
    }
}
