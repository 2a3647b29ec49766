//! Images in documents: image parts, and `<image>` marks for the images beside a conversation.
//!
//! Marks and parts of all dialects (OpenAI, TRL, ShareGPT, LLaMA-Factory, ms-swift) become segments of
//! type `image`, which templates write as images.

use serde_json::{Value, json};

use super::dataset::Fields;
use super::marks::{marks_in, split_marks};
use super::messages::{Checked, list, string};

/// Columns that hold a document; the first that is not null counts.
const DOCUMENTS: [&str; 3] = ["segments", "messages", "conversations"];

/// Texts of instruction data in which marks are read; their order is that of the document.
const PROMPTS: [&str; 4] = ["instruction", "input", "prompt", "query"];
const ANSWERS: [&str; 2] = ["output", "response"];

/// What a row of text says of its images, in the order of the document: paths or URIs. Marks and image
/// parts in `fields` become segments of type `image`. The error is the message.
///
/// Parts without a path and marks stand for the images in the columns `image` and `images`, whose number
/// must agree. Only `conversations` and instructions without any mark leave their images to the template.
pub(super) fn take_images(fields: &mut Fields) -> Checked<Vec<String>> {
    let beside = beside(fields)?;
    let Some(name) = document(fields) else {
        place_in_instruction(fields, beside.len())?;
        return Ok(beside);
    };
    let mut found = Found::default();
    let Some(document) = fields.get_mut(name) else { return Ok(beside) };
    match name {
        "segments" => found.segments(document, name)?,
        "messages" => found.messages(document)?,
        _ => found.conversation(document)?,
    }
    let marks = found.images.iter().filter(|image| image.is_none()).count();
    let named: Vec<&String> = found.images.iter().flatten().collect();
    if marks == 0 && name == "conversations" && named.is_empty() {
        return Ok(beside);
    }
    let is_said_twice =
        marks == 0 && !named.is_empty() && beside.iter().all(|b| named.contains(&b));
    if marks != beside.len() && !is_said_twice {
        return Err(disagreement(name, marks, beside.len()));
    }
    let mut beside = beside.into_iter();
    Ok(found.images.into_iter().filter_map(|image| image.or_else(|| beside.next())).collect())
}

/// As [`take_images`] for a sample whose `count` images the reader holds already. A document without any
/// mark is left as it is.
pub(super) fn place_marks(fields: &mut Fields, count: usize) -> Checked<()> {
    let Some(name) = document(fields) else { return place_in_instruction(fields, count) };
    let Some(entries) = fields.get_mut(name).and_then(Value::as_array_mut) else { return Ok(()) };
    let texts = entries.iter_mut().filter_map(|entry| match name {
        "segments" => None,
        "messages" => entry.get_mut("content"),
        _ => text_of_turn(entry),
    });
    let mut texts: Vec<&mut Value> = texts.collect();
    let marks: usize = texts.iter().map(|text| marks_in(text)).sum();
    if marks == 0 || texts.iter().any(|text| has_image_parts(text)) {
        return Ok(());
    }
    if marks != count {
        return Err(disagreement(name, marks, count));
    }
    texts.iter_mut().for_each(|text| split_marks(text));
    Ok(())
}

/// The column that holds the document.
fn document(fields: &Fields) -> Option<&'static str> {
    let holds = |name: &&str| match fields.get(*name) {
        None | Some(Value::Null) => false,
        // a plain column of that name is no conversation
        Some(value) => *name != "conversations" || value.is_array(),
    };
    DOCUMENTS.into_iter().find(holds)
}

fn disagreement(name: &str, marks: usize, images: usize) -> String {
    let s = |count: usize| if count == 1 { "" } else { "s" };
    format!(
        "{name}: {marks} <image> mark{} or image part{} without a path, but {images} image{} in the \
         columns image and images",
        s(marks),
        s(marks),
        s(images)
    )
}

/// The images in the columns `image` and `images`, one or a list each.
fn beside(fields: &Fields) -> Checked<Vec<String>> {
    let mut images = Vec::new();
    for name in ["image", "images"] {
        match fields.get(name) {
            None | Some(Value::Null) => {}
            Some(Value::Array(list)) => {
                for image in list {
                    images.push(reference(image, name)?);
                }
            }
            Some(image) => images.push(reference(image, name)?),
        }
    }
    Ok(images)
}

/// The path or URI in `value`: a string, or an object with `path`, as `datasets` writes images to JSON.
fn reference(value: &Value, name: &str) -> Checked<String> {
    match value.get("path") {
        Some(Value::String(path)) => Ok(path.clone()),
        _ => string(value, name),
    }
}

/// Images found in a document, in its order; `None` for the next of those beside it.
#[derive(Default)]
struct Found {
    images: Vec<Option<String>>,
}

impl Found {
    /// Reads messages with `role` and `content`.
    fn messages(&mut self, messages: &mut Value) -> Checked<()> {
        let messages = list_mut(messages, "messages")?;
        let has_parts =
            messages.iter().any(|message| message.get("content").is_some_and(has_image_parts));
        for message in messages {
            match message.get("role").and_then(Value::as_str) {
                Some("system" | "user" | "assistant") => {}
                _ => return Err("a message needs a role: system, user or assistant".to_owned()),
            }
            match message.get_mut("content") {
                Some(text @ Value::String(_)) => self.text(text, has_parts),
                Some(content) => {
                    self.segments(content, "content")?;
                    self.text(content, has_parts);
                }
                None => return Err("a message needs content".to_owned()),
            }
        }
        Ok(())
    }

    /// Reads ShareGPT's turns with `from` and `value`; turns of another form are left as they are.
    fn conversation(&mut self, turns: &mut Value) -> Checked<()> {
        let turns = list_mut(turns, "conversations")?;
        let mut texts: Vec<&mut Value> = turns.iter_mut().filter_map(text_of_turn).collect();
        let has_parts = texts.iter().any(|text| has_image_parts(text));
        for text in &mut texts {
            if has_image_parts(text) {
                self.segments(text, "conversations")?;
            }
            self.text(text, has_parts);
        }
        Ok(())
    }

    /// Turns the marks in a text, or in the text parts of a list, into segments unless images are parts.
    fn text(&mut self, content: &mut Value, has_parts: bool) {
        if !has_parts {
            self.images.extend(std::iter::repeat_n(None, marks_in(content)));
            split_marks(content);
        }
    }

    /// Checks a list of segments, named `name`, and finds its images.
    fn segments(&mut self, segments: &mut Value, name: &str) -> Checked<()> {
        for segment in list_mut(segments, name)? {
            let field = |key: &str| match segment.get(key) {
                Some(value) => string(value, key),
                None => Err(format!("an entry of {name} has no {key}")),
            };
            match field("type")?.as_str() {
                "text" => drop(field("text")?),
                "image" | "image_url" => self.images.push(image_part(segment)?),
                other => {
                    return Err(format!("{name}: unknown type {other:?}; allowed: text, image"));
                }
            }
        }
        Ok(())
    }
}

/// The image that a part of type `image` or `image_url` names, if any. The part becomes a segment.
fn image_part(part: &mut Value) -> Checked<Option<String>> {
    let mut found = None;
    for key in ["path", "image", "image_url", "url"] {
        let value = part.get(key).filter(|value| !value.is_null());
        let Some(value) = value else { continue };
        let url = value.get("url").unwrap_or(value);
        found = Some(reference(url, key)?);
        break;
    }
    if found.is_none() && part.get("type") == Some(&json!("image_url")) {
        return Err("a part of type image_url has no url".to_owned());
    }
    *part = match &found {
        // The content of an image is not kept as a field.
        Some(path) if !path.starts_with("data:") => json!({ "type": "image", "path": path }),
        _ => json!({ "type": "image" }),
    };
    Ok(found)
}

/// Whether one of the parts of `content` is an image.
fn has_image_parts(content: &Value) -> bool {
    let is_image = |part: &Value| matches!(part["type"].as_str(), Some("image" | "image_url"));
    content.as_array().is_some_and(|parts| parts.iter().any(is_image))
}

/// The text of a turn with `value`, or with `content` as in messages.
fn text_of_turn(turn: &mut Value) -> Option<&mut Value> {
    let key = if turn.get("value").is_some() { "value" } else { "content" };
    turn.get_mut(key)
}

/// Turns the marks of a row of instruction data into segments, if it has any and `count` images.
fn place_in_instruction(fields: &mut Fields, count: usize) -> Checked<()> {
    let marks = |name: &str| fields.get(name).filter(|v| v.is_string()).map_or(0, marks_in);
    // `prompt` is the instruction and the input.
    let asked = match marks("prompt") {
        0 => marks("instruction") + marks("input") + marks("query"),
        marks => marks,
    };
    let all = asked + ANSWERS.map(marks).iter().sum::<usize>();
    let is_instruction = ["instruction", "query"].iter().any(|name| fields.contains_key(*name));
    if all == 0 || count == 0 || !is_instruction {
        return Ok(());
    }
    if all != count {
        return Err(disagreement("instruction", all, count));
    }
    for name in PROMPTS.iter().chain(&ANSWERS) {
        if let Some(text @ Value::String(_)) = fields.get_mut(*name) {
            split_marks(text);
        }
    }
    Ok(())
}

/// The value as a list to be changed.
fn list_mut<'a>(value: &'a mut Value, name: &str) -> Checked<&'a mut Vec<Value>> {
    list(value, name)?;
    Ok(value.as_array_mut().expect("it is a list"))
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;

    fn take(row: Value) -> (Value, Checked<Vec<String>>) {
        let Value::Object(mut fields) = row else { panic!("a row is an object") };
        let images = take_images(&mut fields);
        (fields.into(), images)
    }

    fn user(content: Value) -> Value {
        json!([{ "role": "user", "content": content }])
    }

    #[test]
    fn marks_and_parts_of_all_dialects_become_segments() {
        let (image, text) = (json!({ "type": "image" }), json!({ "type": "text", "text": "\na" }));
        let placed = json!([image, text]);
        for (row, name, expected) in [
            (
                json!({ "messages": user(json!("<image>\na")), "images": ["p"] }),
                "messages",
                user(placed.clone()),
            ),
            (
                json!({ "messages": user(json!([{ "type": "text", "text": "<image>\na" }])), "image": "p" }),
                "messages",
                user(placed.clone()),
            ),
            (
                json!({ "messages": user(placed.clone()), "images": ["p"], "segments": null }),
                "messages",
                user(placed.clone()),
            ),
            (
                json!({ "messages": user(placed.clone()), "images": [{ "bytes": null, "path": "p" }] }),
                "messages",
                user(placed.clone()),
            ),
            (json!({ "segments": placed.clone(), "image": "p" }), "segments", placed.clone()),
            (
                json!({ "conversations": [{ "from": "human", "value": "<image>\na" }], "image": ["p"] }),
                "conversations",
                json!([{ "from": "human", "value": placed }]),
            ),
            (
                json!({ "instruction": "<image>\na", "output": "b", "images": "p" }),
                "instruction",
                placed.clone(),
            ),
            (
                json!({ "query": "<image>\na", "response": "b", "images": ["p"] }),
                "query",
                placed.clone(),
            ),
        ] {
            let (fields, images) = take(row.clone());
            assert_eq!((&fields[name], images), (&expected, Ok(vec!["p".to_owned()])), "{row}");
        }
        for part in [
            json!({ "type": "image", "path": "p" }),
            json!({ "type": "image", "image": "p" }),
            json!({ "type": "image", "url": "p", "text": null }),
            json!({ "type": "image_url", "image_url": { "url": "p" } }),
            json!({ "type": "image_url", "image_url": "p" }),
        ] {
            let (fields, images) = take(json!({ "messages": user(json!([part, text])) }));
            assert_eq!(images, Ok(vec!["p".to_owned()]), "{part}");
            assert_eq!(fields["messages"][0]["content"][0]["type"], "image", "{part}");
        }
    }

    #[test]
    fn images_come_in_the_order_of_the_document() {
        let content =
            json!([{ "type": "image" }, { "type": "image", "path": "b" }, { "type": "image" }]);
        let images = take(json!({ "messages": user(content), "image": "a", "images": ["c"] })).1;
        assert_eq!(images.unwrap(), ["a", "b", "c"]);
        let said_twice = json!([{ "type": "image", "path": "b" }]);
        assert_eq!(take(json!({ "messages": user(said_twice), "image": "b" })).1.unwrap(), ["b"]);
        let conversation = json!([{ "from": "human", "value": "a" }]);
        let left_to_the_template = json!({ "conversations": conversation, "image": "b" });
        assert_eq!(take(left_to_the_template).1.unwrap(), ["b"]);
    }

    #[test]
    fn numbers_of_marks_and_images_must_agree() {
        let one = json!("<image> a");
        for (row, words) in [
            (
                json!({ "messages": user(one.clone()) }),
                "1 <image> mark or image part without a path, but 0 images",
            ),
            (json!({ "messages": user(one.clone()), "images": [] }), "but 0 images"),
            (json!({ "messages": user(one.clone()), "images": ["a", "b"] }), "but 2 images"),
            (json!({ "messages": user(json!("a")), "image": "a" }), "0 <image> marks"),
            (json!({ "messages": user(json!([{ "type": "image" }])) }), "but 0 images"),
            (
                json!({ "conversations": [{ "from": "human", "value": "<image><image>" }], "image": "a" }),
                "conversations: 2 <image> marks",
            ),
            (
                json!({ "instruction": "<image><image>", "output": "b", "images": ["a"] }),
                "instruction: 2",
            ),
            (json!({ "messages": user(one), "images": ["a", null] }), "images is a null"),
            (json!({ "image": 3 }), "image is a integer"),
            (json!({ "messages": user(json!([{ "type": "image_url" }])) }), "no url"),
            (json!({ "messages": user(json!([{ "type": "video" }])) }), "unknown type \"video\""),
        ] {
            let message = take(row.clone()).1.unwrap_err();
            assert!(message.contains(words), "{row}: {message}");
        }
    }

    #[test]
    fn nulls_are_as_absent() {
        for name in ["segments", "messages", "conversations", "image", "images", "instruction"] {
            assert_eq!(take(json!({ name: null, "caption": "a" })).1, Ok(vec![]), "{name}");
        }
    }
}
