//! Images in documents: image parts, and `<image>` marks for the images beside a conversation.
//!
//! Marks and parts of all dialects (OpenAI, TRL, ShareGPT, LLaMA-Factory, ms-swift) become segments of
//! type `image`, which templates write as images. Rows that compare answers are brought into one form before.

use serde_json::{Value, json};

use super::dataset::Fields;
use super::dialect::is_messages;
use super::marks::{marks_in, split_marks};
use super::messages::{Checked, list, string};
use super::preference::{normalise, show_in_prompt};

/// Columns that hold a document; the first that is not null counts.
const DOCUMENTS: [&str; 3] = ["segments", "messages", "conversations"];

/// Columns of a prompt and of what answers it, in the order of the document.
const SIDES: [&str; 4] = ["prompt", "completion", "chosen", "rejected"];

/// Texts of instruction data in which marks are read; their order is that of the document.
const PROMPTS: [&str; 4] = ["instruction", "input", "prompt", "query"];
const ANSWERS: [&str; 2] = ["output", "response"];

/// What a row of text says of its images, in the order of the document: paths or URIs. Marks and image
/// parts in `fields` become segments of type `image`. The error is the message.
///
/// Parts without a path and marks stand for the images in the columns `image` and `images`, whose number
/// must agree. Only `conversations` and instructions without any mark leave their images to the template.
pub(super) fn take_images(fields: &mut Fields) -> Checked<Vec<String>> {
    normalise(fields)?;
    let beside = beside(fields)?;
    let sides = sides(fields);
    let mut found = Found::default();
    let name = match document(fields) {
        Some(name) => {
            let Some(document) = fields.get_mut(name) else { return Ok(beside) };
            match name {
                "segments" => found.segments(document, name)?,
                "messages" => found.messages(document, name, has_image_messages(document))?,
                _ => found.conversation(document)?,
            }
            name
        }
        None if sides.is_empty() => {
            place_in_instruction(fields, beside.len())?;
            return Ok(beside);
        }
        None => {
            found.sides(fields, &sides)?;
            sides[0]
        }
    };
    let marks = found.images.iter().filter(|image| image.is_none()).count();
    let named: Vec<&String> = found.images.iter().flatten().collect();
    if marks == 0 && named.is_empty() && sides.contains(&"chosen") {
        show_in_prompt(fields, beside.len());
        return Ok(beside);
    }
    let may_stay = name == "conversations" || sides.iter().any(|side| fields[*side].is_string());
    if marks == 0 && may_stay && named.is_empty() {
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
    normalise(fields)?;
    let sides = sides(fields);
    let name = match document(fields) {
        Some(name) => name,
        None if sides.is_empty() => return place_in_instruction(fields, count),
        None => sides[0],
    };
    let mut texts = match document(fields) {
        Some("segments") => Vec::new(),
        Some(name) => fields.get_mut(name).map(texts_of).unwrap_or_default(),
        None => texts_of_sides(fields, &sides),
    };
    let marks: usize = texts.iter().map(|text| marks_in(text)).sum();
    if texts.iter().any(|text| has_image_parts(text)) {
        return Ok(());
    }
    if marks == 0 {
        if sides.contains(&"chosen") {
            show_in_prompt(fields, count);
        }
        return Ok(());
    }
    if marks != count {
        return Err(disagreement(name, marks, count));
    }
    texts.iter_mut().for_each(|text| split_marks(text));
    Ok(())
}

/// The columns of a row with a prompt and answers; none if it is of another kind.
fn sides(fields: &Fields) -> Vec<&'static str> {
    let is_side = |value: &Value| match value.as_array().map(|list| list.first()) {
        None => value.is_string(),
        Some(first) => first.is_some_and(|e| e.get("role").or_else(|| e.get("type")).is_some()),
    };
    let has = |name: &&str| fields.get(*name).is_some_and(is_side);
    let is_answered = has(&"completion") || (has(&"chosen") && has(&"rejected"));
    match is_answered && document(fields).is_none() {
        true => SIDES.into_iter().filter(|name| has(name)).collect(),
        false => Vec::new(),
    }
}

/// The texts in `sides`, in the order of the document.
fn texts_of_sides<'a>(fields: &'a mut Fields, sides: &[&str]) -> Vec<&'a mut Value> {
    let mut columns: Vec<(usize, &mut Value)> = Vec::new();
    for (name, value) in fields.iter_mut() {
        columns.extend(sides.iter().position(|side| side == name).map(|at| (at, value)));
    }
    columns.sort_by_key(|(at, _)| *at);
    columns.into_iter().flat_map(|(_, value)| texts_of(value)).collect()
}

/// The texts of a column: itself, those of its messages or turns, or a list of segments as one.
fn texts_of(column: &mut Value) -> Vec<&mut Value> {
    let is_one = |value: &Value| match value.as_array().and_then(|list| list.first()) {
        Some(first) => first.get("type").is_some(),
        None => true,
    };
    match is_one(column) {
        true => vec![column],
        false => column.as_array_mut().into_iter().flatten().filter_map(text_of_turn).collect(),
    }
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
    /// Reads a prompt and its answers.
    fn sides(&mut self, fields: &mut Fields, sides: &[&str]) -> Checked<()> {
        let has_parts = sides.iter().any(|side| {
            let value = &fields[*side];
            has_image_parts(value) || has_image_messages(value)
        });
        for side in sides {
            let Some(value) = fields.get_mut(*side) else { continue };
            match value {
                Value::String(_) => self.text(value, has_parts),
                value if is_messages(value) => self.messages(value, side, has_parts)?,
                value => {
                    self.segments(value, side)?;
                    self.text(value, has_parts);
                }
            }
        }
        Ok(())
    }

    /// Reads messages with `role` and `content` in the column `name`.
    fn messages(&mut self, messages: &mut Value, name: &str, has_parts: bool) -> Checked<()> {
        let messages = list_mut(messages, name)?;
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

/// Whether an image is a part of one of the `messages`.
fn has_image_messages(messages: &Value) -> bool {
    let messages = messages.as_array().into_iter().flatten();
    messages.filter_map(|message| message.get("content")).any(has_image_parts)
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
    let all = all + history_of(fields).map(|text| marks_in(text)).sum::<usize>();
    let is_instruction = ["instruction", "query"].iter().any(|name| fields.contains_key(*name));
    if all == 0 || count == 0 || !is_instruction {
        return Ok(());
    }
    if all != count {
        return Err(disagreement("instruction", all, count));
    }
    history_of(fields).for_each(split_marks);
    for name in PROMPTS.iter().chain(&ANSWERS) {
        if let Some(text @ Value::String(_)) = fields.get_mut(*name) {
            split_marks(text);
        }
    }
    Ok(())
}

/// The texts of earlier exchanges, which come first.
fn history_of(fields: &mut Fields) -> impl Iterator<Item = &mut Value> {
    let pairs = fields.get_mut("history").and_then(Value::as_array_mut).into_iter().flatten();
    pairs.filter_map(Value::as_array_mut).flatten()
}

/// The value as a list to be changed.
fn list_mut<'a>(value: &'a mut Value, name: &str) -> Checked<&'a mut Vec<Value>> {
    list(value, name)?;
    Ok(value.as_array_mut().expect("it is a list"))
}

#[cfg(test)]
mod tests;
