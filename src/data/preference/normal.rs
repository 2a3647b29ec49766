//! Rows of all projects in one form.

use serde_json::{Value, json};

use crate::data::dataset::Fields;
use crate::data::dialect::{SYSTEMS, is_messages, message, message_of, segments};
use crate::data::marks::{marks_in, split_marks};
use crate::data::messages::{Checked, list, string};

/// Brings a row that compares answers into the form of the columns `prompt`, `chosen` and `rejected`, or `prompt`,
/// `completion` and `label`. Other rows stay as they are. The error is the message.
pub(in crate::data) fn normalise(fields: &mut Fields) -> Checked<()> {
    let has = |name: &str| fields.get(name).is_some_and(|value| !value.is_null());
    if has("better_image") && has("worse_image") {
        compared_images(fields);
    } else if (has("better_text") || has("better_img")) && (has("worse_text") || has("worse_img")) {
        compared_documents(fields)?;
    } else if ["rejected_response", "rejected_messages", "rejected_images"].iter().any(|n| has(n)) {
        rejected_beside_messages(fields)?;
    } else if has("chosen") && has("rejected") && !has("segments") {
        match (has("conversations") || has("messages"), has("prompt")) {
            (true, _) => answers_beside_messages(fields)?,
            (false, false) => implicit_prompt(fields)?,
            (false, true) => {}
        }
    } else if has("kto_tag") {
        verdict_beside_messages(fields)?;
    }
    Ok(())
}

/// Puts `count` images before the prompt of a row whose texts have no place for them.
pub(in crate::data) fn show_in_prompt(fields: &mut Fields, count: usize) {
    let Some(prompt) = fields.get_mut("prompt").filter(|_| count > 0) else { return };
    let place = match is_messages(prompt) {
        false => prompt,
        true => {
            let mut messages = prompt.as_array_mut().into_iter().flatten();
            let Some(user) = messages.find(|message| message["role"] == "user") else { return };
            &mut user["content"]
        }
    };
    let images = vec![json!({ "type": "image" }); count];
    *place = images.into_iter().chain(segments(place.take())).collect();
}

/// align-anything, text to image: the answers are images.
fn compared_images(fields: &mut Fields) {
    for (from, to) in [("better_image", "chosen"), ("worse_image", "rejected")] {
        let image = fields.remove(from).unwrap_or_default();
        fields.insert(to.to_owned(), json!([{ "type": "image", "path": path(image) }]));
    }
}

/// The path in a value that may be an object with one, as `datasets` writes images to JSON.
fn path(mut image: Value) -> Value {
    match image.get_mut("path") {
        Some(path) => path.take(),
        None => image,
    }
}

/// align-anything, text and image to text and image.
fn compared_documents(fields: &mut Fields) -> Checked<()> {
    for (text, image, to, images_first) in [
        ("input_text", "input_image", "prompt", true),
        ("better_text", "better_img", "chosen", false),
        ("worse_text", "worse_img", "rejected", false),
    ] {
        let images = match fields.remove(image).unwrap_or_default() {
            Value::Null => Vec::new(),
            Value::Array(images) => images,
            image => vec![image],
        };
        let image = |image| json!({ "type": "image", "path": path(image) });
        let images: Vec<Value> = images.into_iter().map(image).collect();
        let mut words = fields.remove(text).unwrap_or_default();
        let marks = marks_in(&words);
        let side: Vec<Value> = if marks > 0 {
            if marks != images.len() {
                let count = images.len();
                return Err(format!("{text}: {marks} <image> marks, but {count} images beside it"));
            }
            split_marks(&mut words);
            let mut images = images.into_iter();
            let parts = words.as_array().cloned().unwrap_or_default().into_iter();
            parts
                .filter_map(|part| if part["type"] == "image" { images.next() } else { Some(part) })
                .collect()
        } else {
            let text = words.as_str().filter(|text| !text.is_empty());
            let text = text.map(|text| json!({ "type": "text", "text": text }));
            match images_first {
                true => images.into_iter().chain(text).collect(),
                false => text.into_iter().chain(images).collect(),
            }
        };
        fields.insert(to.to_owned(), side.into());
    }
    Ok(())
}

/// Takes the conversation in `messages` or `conversations` out of a row, as messages.
fn take_messages(fields: &mut Fields) -> Checked<Vec<Value>> {
    for name in ["messages", "conversations"] {
        let Some(turns) = fields.remove(name).filter(|turns| !turns.is_null()) else { continue };
        return with_system(fields, messages(&turns, name)?);
    }
    Err("there are no messages beside the answers".to_owned())
}

/// `messages` behind the instructions in the column `system`, if there are any.
fn with_system(fields: &mut Fields, mut messages: Vec<Value>) -> Checked<Vec<Value>> {
    for name in SYSTEMS {
        let Some(system) = fields.remove(name).filter(|value| !value.is_null()) else { continue };
        let system = string(&system, name)?;
        if !system.is_empty() {
            messages.insert(0, message("system", system.into()));
        }
    }
    Ok(messages)
}

/// The turns of a list, or a single one, as messages.
fn messages(turns: &Value, name: &str) -> Checked<Vec<Value>> {
    match turns {
        Value::Object(_) => Ok(vec![message_of(turns, 0)?]),
        Value::String(text) => Ok(vec![message("assistant", text.as_str().into())]),
        turns => {
            list(turns, name)?.iter().enumerate().map(|(at, turn)| message_of(turn, at)).collect()
        }
    }
}

/// LLaMA-Factory: the answers are messages of their own.
fn answers_beside_messages(fields: &mut Fields) -> Checked<()> {
    let prompt = take_messages(fields)?;
    fields.insert("prompt".to_owned(), prompt.into());
    for name in ["chosen", "rejected"] {
        let answer = messages(&fields[name], name)?;
        fields.insert(name.to_owned(), answer.into());
    }
    Ok(())
}

/// ms-swift: the preferred answer is the end of the messages.
fn rejected_beside_messages(fields: &mut Fields) -> Checked<()> {
    let mut chosen = take_messages(fields)?;
    let rejected = fields.remove("rejected_messages").filter(|value| !value.is_null());
    let response = fields.remove("rejected_response").filter(|value| !value.is_null());
    let (prompt, rejected) = match (rejected, response) {
        (Some(rejected), _) => {
            let mut rejected = messages(&rejected, "rejected_messages")?;
            let common = common(&chosen, &rejected);
            (common, rejected.split_off(common))
        }
        (None, Some(response)) => {
            let prompt = chosen.len().saturating_sub(1);
            (prompt, vec![message("assistant", string(&response, "rejected_response")?.into())])
        }
        (None, None) => {
            return Err("rejected_images without rejected_response or rejected_messages".to_owned());
        }
    };
    let answer = chosen.split_off(prompt);
    join_images(fields, &chosen)?;
    for (name, side) in [("prompt", chosen), ("chosen", answer), ("rejected", rejected)] {
        fields.insert(name.to_owned(), side.into());
    }
    Ok(())
}

/// Adds to `images` those in `rejected_images` that are not of the prompt, which both answers share.
fn join_images(fields: &mut Fields, prompt: &[Value]) -> Checked<()> {
    let Some(rejected) = fields.remove("rejected_images").filter(|value| !value.is_null()) else {
        return Ok(());
    };
    let many = |value: Value| match value {
        Value::Null => Vec::new(),
        Value::Array(images) => images,
        image => vec![image],
    };
    let mut images = many(fields.remove("images").unwrap_or_default());
    let rejected = many(rejected);
    let shared: usize = prompt.iter().map(|message| images_in(&message["content"])).sum();
    if images.get(..shared) != rejected.get(..shared) {
        return Err(
            "rejected_images: the prompt has other images than in images, so the answers are to \
                    different prompts"
                .to_owned(),
        );
    }
    images.extend(rejected.into_iter().skip(shared));
    fields.insert("images".to_owned(), images.into());
    Ok(())
}

/// The number of marks and image parts in a message's content.
fn images_in(content: &Value) -> usize {
    let is_image = |part: &&Value| matches!(part["type"].as_str(), Some("image" | "image_url"));
    marks_in(content) + content.as_array().map_or(0, |parts| parts.iter().filter(is_image).count())
}

/// TRL without a prompt: both answers are whole conversations, which begin alike.
fn implicit_prompt(fields: &mut Fields) -> Checked<()> {
    let names = ["chosen", "rejected"];
    if !names.iter().all(|name| is_messages(&fields[*name])) {
        return Err(
            "there is no prompt, and chosen and rejected are no lists of messages".to_owned()
        );
    }
    let [mut chosen, mut rejected] =
        [messages(&fields["chosen"], "chosen")?, messages(&fields["rejected"], "rejected")?];
    let common = common(&chosen, &rejected);
    if common == 0 {
        return Err("there is no prompt, and chosen and rejected begin differently".to_owned());
    }
    let answers = [chosen.split_off(common), rejected.split_off(common)];
    let prompt = with_system(fields, chosen)?;
    fields.insert("prompt".to_owned(), prompt.into());
    for (name, answer) in names.into_iter().zip(answers) {
        fields.insert(name.to_owned(), answer.into());
    }
    Ok(())
}

/// The number of messages that both conversations begin with; at least one is left to each.
fn common(chosen: &[Value], rejected: &[Value]) -> usize {
    let same = chosen.iter().zip(rejected).take_while(|(a, b)| a == b).count();
    same.min(chosen.len().saturating_sub(1)).min(rejected.len().saturating_sub(1))
}

/// LLaMA-Factory's KTO: the last message is good or not.
fn verdict_beside_messages(fields: &mut Fields) -> Checked<()> {
    let label = fields.remove("kto_tag").unwrap_or_default();
    fields.insert("label".to_owned(), label);
    if !["messages", "conversations"].iter().any(|name| fields.contains_key(*name)) {
        return Ok(());
    }
    let mut prompt = take_messages(fields)?;
    let completion = prompt.split_off(prompt.len().saturating_sub(1));
    fields.insert("prompt".to_owned(), prompt.into());
    fields.insert("completion".to_owned(), completion.into());
    Ok(())
}
