//! `<image>` marks in the texts of rows.

use serde_json::{Value, json};

/// Stands for an image in the text of a message.
const MARK: &str = "<image>";

/// The number of marks in a text, or in the text parts of a list.
pub(super) fn marks_in(content: &Value) -> usize {
    let count = |text: &Value| text.as_str().map_or(0, |text| text.matches(MARK).count());
    match content {
        Value::Array(parts) => parts.iter().filter_map(|part| part.get("text")).map(count).sum(),
        text => count(text),
    }
}

/// Replaces a text with marks by a list of segments; in a list, its text parts.
pub(super) fn split_marks(content: &mut Value) {
    if marks_in(content) == 0 {
        return;
    }
    let split = |text: &str| -> Vec<Value> {
        let mut segments = Vec::new();
        for (n, text) in text.split(MARK).enumerate() {
            if n > 0 {
                segments.push(json!({ "type": "image" }));
            }
            if !text.is_empty() {
                segments.push(json!({ "type": "text", "text": text }));
            }
        }
        segments
    };
    *content = match content.take() {
        Value::String(text) => split(&text).into(),
        Value::Array(parts) => {
            let parts = parts.into_iter().flat_map(|part| match part["text"].as_str() {
                Some(text) if text.contains(MARK) => split(text),
                _ => vec![part],
            });
            parts.collect()
        }
        other => other,
    };
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;

    #[test]
    fn marks_become_segments_and_the_text_between_them_stays() {
        let image = json!({ "type": "image" });
        let text = |text: &str| json!({ "type": "text", "text": text });
        for (content, expected) in [
            (json!("a<image> b<image>"), json!([text("a"), image, text(" b"), image])),
            (json!("<image>"), json!([image])),
            (json!("a <image b"), json!("a <image b")),
            (json!([text("<image>a"), text("b")]), json!([image, text("a"), text("b")])),
            (json!(3), json!(3)),
        ] {
            let mut found = content.clone();
            split_marks(&mut found);
            assert_eq!(found, expected, "{content}");
        }
    }
}
