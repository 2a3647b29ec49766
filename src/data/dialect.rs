//! Rows of all dialects of instruction data as one conversation.
//!
//! | dialect | columns |
//! |---|---|
//! | OpenAI, TRL | `messages` |
//! | ShareGPT, LLaVA | `conversations`, beside them `system` |
//! | TRL, mlx-lm | `prompt` and `completion`, texts or lists of messages |
//! | Alpaca | `instruction`, `input`, `output`, beside them `system`, `history` |
//! | ms-swift | `query` and `response`, beside them `system`, `history` |
//!
//! ms-swift's further names for a prompt and an answer are read too, see [`PROMPTS`] and [`ANSWERS`].

use serde_json::{Value, json};

use super::dataset::Fields;
use super::messages::{Checked, list, type_name};

/// Names of a prompt; the first that a row has counts.
const PROMPTS: [&str; 5] = ["prompt", "query", "instruction", "question", "problem"];
/// Names of an answer; the first that a row has counts.
const ANSWERS: [&str; 6] = ["completion", "output", "response", "answer", "solution", "target"];
/// Names of what comes before the first prompt.
pub(super) const SYSTEMS: [&str; 2] = ["system", "system_prompt"];
const OTHERS: [&str; 4] = ["messages", "conversations", "history", "input"];

/// A conversation.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Conversation {
    /// Its messages, each with `role` and `content`: a text or a list of segments.
    pub(super) messages: Vec<Value>,
    /// The number of messages that are a prompt, where a row tells prompt and completion apart.
    pub(super) prompt: Option<usize>,
}

/// The columns that a conversation may be read from.
pub(super) fn columns() -> impl Iterator<Item = &'static str> {
    OTHERS.into_iter().chain(PROMPTS).chain(ANSWERS).chain(SYSTEMS)
}

/// The conversation in `fields`. The error is the message.
pub(super) fn conversation(fields: &Fields) -> Checked<Conversation> {
    let find = |name: &str| fields.get(name).filter(|value| !value.is_null());
    let mut found = if let Some(messages) = find("messages") {
        Conversation { messages: list(messages, "messages")?.to_vec(), prompt: None }
    } else if let Some(turns) = find("conversations") {
        let turns = list(turns, "conversations")?.iter().enumerate();
        let messages = turns.map(|(at, turn)| message_of(turn, at)).collect::<Checked<_>>()?;
        Conversation { messages, prompt: None }
    } else {
        instruction(fields)?
    };
    let system = SYSTEMS.iter().find_map(|name| Some((*name, find(name)?)));
    if let Some((name, system)) = system
        && system != ""
        && found.messages.first().is_none_or(|first| first["role"] != "system")
    {
        found.messages.insert(0, message("system", content(name, system)?));
        found.prompt = found.prompt.map(|prompt| prompt + 1);
    }
    Ok(found)
}

/// Messages for the template `{messages}`: those of a prompt beside a completion are not learnt unless
/// `whole`. A row that has `messages` stays as it is, and so does one without any conversation. The error is the
/// message.
pub(super) fn add_messages(fields: &mut Fields, whole: bool) -> Checked<()> {
    let Some(Conversation { mut messages, prompt }) = unwritten(fields)? else { return Ok(()) };
    for message in messages.iter_mut().take(prompt.unwrap_or(0)) {
        if !whole && let Some(message) = message.as_object_mut() {
            message.insert("loss".to_owned(), false.into());
        }
    }
    fields.insert("messages".to_owned(), messages.into());
    Ok(())
}

/// The conversation in `fields` if it has to be written as messages.
fn unwritten(fields: &Fields) -> Checked<Option<Conversation>> {
    let has = |names: &[&str]| {
        names.iter().any(|name| fields.get(*name).is_some_and(|value| !value.is_null()))
    };
    let is_needed = match has(&["messages"]) {
        true => has(&SYSTEMS),
        false => has(&["conversations"]) || has(&PROMPTS) && has(&ANSWERS),
    };
    is_needed.then(|| conversation(fields)).transpose()
}

/// Why a conversation in `fields` cannot be read, also after [`add_messages`].
pub(super) fn unreadable(fields: &Fields) -> Option<String> {
    unwritten(fields).err()
}

/// The message of a turn with `from` and `value`, or with `role` and `content`, at index `at`.
pub(super) fn message_of(turn: &Value, at: usize) -> Checked<Value> {
    let known = |keys: [&str; 2]| keys.iter().find_map(|key| turn.get(*key));
    let (Some(from), Some(said)) = (known(["from", "role"]), known(["value", "content"])) else {
        return Err(format!("entry {} of conversations has no from and value", at + 1));
    };
    let role = match from.as_str() {
        Some("human" | "user" | "observation" | "tool") => "user",
        Some("gpt" | "assistant" | "model" | "function_call") => "assistant",
        Some("system") => "system",
        _ => {
            let at = at + 1;
            return Err(format!("entry {at} of conversations is from {from}, which is unknown"));
        }
    };
    let mut found = message(role, said.clone());
    for key in ["loss", "loss_scale"] {
        if let Some(value) = turn.get(key) {
            found[key] = value.clone();
        }
    }
    Ok(found)
}

/// A message by `role`.
pub(super) fn message(role: &str, content: Value) -> Value {
    json!({ "role": role, "content": content })
}

/// Whether `value` is a list of messages.
pub(super) fn is_messages(value: &Value) -> bool {
    let of = |first: &Value| first.get("role").is_some();
    value.as_array().and_then(|list| list.first()).is_some_and(of)
}

/// The conversation of a row with a prompt and an answer.
fn instruction(fields: &Fields) -> Checked<Conversation> {
    let find = |names: &[&'static str]| {
        let has = |name: &&'static str| fields.get(*name).is_some_and(|value| !value.is_null());
        names.iter().copied().find(has).map(|name| (name, &fields[name]))
    };
    let (Some((asked, prompt)), Some((said, answer))) = (find(&PROMPTS), find(&ANSWERS)) else {
        return Err(format!(
            "there is no conversation; it may be in messages, conversations, or in a prompt ({}) and an \
             answer ({})",
            PROMPTS.join(", "),
            ANSWERS.join(", ")
        ));
    };
    let mut messages = history(fields.get("history").unwrap_or(&Value::Null))?;
    match is_messages(prompt) {
        true => messages.extend(list(prompt, asked)?.iter().cloned()),
        false if asked == "instruction" => {
            let input = fields.get("input").unwrap_or(&Value::Null);
            messages.push(message("user", joined(content(asked, prompt)?, input)?));
        }
        false => messages.push(message("user", content(asked, prompt)?)),
    }
    // In rows of other names the whole conversation is learnt that the loss asks for.
    let prompt = (said == "completion").then_some(messages.len());
    match is_messages(answer) {
        true => messages.extend(list(answer, said)?.iter().cloned()),
        false => messages.push(message("assistant", content(said, answer)?)),
    }
    Ok(Conversation { messages, prompt })
}

/// The earlier exchanges in the column `history`.
fn history(history: &Value) -> Checked<Vec<Value>> {
    if history.is_null() {
        return Ok(Vec::new());
    }
    let mut messages = Vec::new();
    for (at, pair) in list(history, "history")?.iter().enumerate() {
        let Some([prompt, answer]) = pair.as_array().map(Vec::as_slice) else {
            return Err(format!("entry {} of history is not a pair of prompt and answer", at + 1));
        };
        messages.push(message("user", content("history", prompt)?));
        messages.push(message("assistant", content("history", answer)?));
    }
    Ok(messages)
}

/// Instruction and, on the next line, input if there is one.
fn joined(instruction: Value, input: &Value) -> Checked<Value> {
    if input.is_null() || input == "" {
        return Ok(instruction);
    }
    let input = content("input", input)?;
    if let (Some(instruction), Some(input)) = (instruction.as_str(), input.as_str()) {
        return Ok(format!("{instruction}\n{input}").into());
    }
    let mut parts = segments(instruction);
    parts.push(json!({ "type": "text", "text": "\n" }));
    parts.extend(segments(input));
    Ok(parts.into())
}

/// A text or list of segments as segments.
pub(super) fn segments(content: Value) -> Vec<Value> {
    match content {
        Value::Array(parts) => parts,
        text => vec![json!({ "type": "text", "text": text })],
    }
}

/// The column `name` as content: a text or a list of segments.
pub(super) fn content(name: &str, value: &Value) -> Checked<Value> {
    match value {
        Value::String(_) => Ok(value.clone()),
        Value::Number(_) | Value::Bool(_) => Ok(value.to_string().into()),
        Value::Array(parts) if parts.first().is_some_and(|part| part.get("type").is_some()) => {
            Ok(value.clone())
        }
        _ => Err(format!("{name} is a {}; it must be text or segments", type_name(value))),
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;

    fn read(row: Value) -> Checked<Conversation> {
        conversation(row.as_object().unwrap())
    }

    /// Roles and contents, such as `u:a` for a user who says `a`.
    fn shown(row: Value) -> String {
        let found = read(row).unwrap();
        let show = |message: &Value| {
            let (role, content) = (message["role"].as_str().unwrap(), &message["content"]);
            format!("{}:{}", &role[..1], content.as_str().unwrap_or(&content.to_string()))
        };
        found.messages.iter().map(show).collect::<Vec<_>>().join(" ")
    }

    #[test]
    fn rows_of_all_dialects_become_messages() {
        let said = |role: &str, content: &str| message(role, content.into());
        let turns = json!([{ "from": "human", "value": "q" }, { "from": "gpt", "value": "a" }]);
        for (row, expected) in [
            (json!({ "messages": [said("user", "q"), said("assistant", "a")] }), "u:q a:a"),
            (json!({ "conversations": turns, "messages": null }), "u:q a:a"),
            (json!({ "conversations": turns, "system": "s" }), "s:s u:q a:a"),
            (json!({ "instruction": "q", "input": "i", "output": "a" }), "u:q\ni a:a"),
            (json!({ "instruction": "q", "input": "", "output": "a" }), "u:q a:a"),
            (json!({ "instruction": "q", "output": 3 }), "u:q a:3"),
            (
                json!({ "instruction": "q", "output": "a", "system": "s", "history": [["p", "b"]] }),
                "s:s u:p a:b u:q a:a",
            ),
            (json!({ "query": "q", "response": "a", "history": null, "system": "" }), "u:q a:a"),
            (json!({ "question": "q", "answer": "a" }), "u:q a:a"),
            (json!({ "prompt": "q", "completion": "a" }), "u:q a:a"),
            (
                json!({ "prompt": [said("user", "q")], "completion": [said("assistant", "a")] }),
                "u:q a:a",
            ),
        ] {
            assert_eq!(shown(row.clone()), expected, "{row}");
        }
        let image = json!([{ "type": "image" }]);
        let joined = shown(json!({ "instruction": image, "input": "i", "output": "a" }));
        assert!(joined.contains(r#"{"type":"image"},{"text":"\n","type":"text"}"#), "{joined}");
    }

    #[test]
    fn what_is_no_conversation_is_named() {
        for (row, words) in [
            (json!({ "caption": "a" }), "there is no conversation"),
            (json!({ "prompt": "a" }), "there is no conversation"),
            (json!({ "messages": 3 }), "messages is a integer"),
            (json!({ "conversations": [{ "from": "human" }] }), "entry 1 of conversations has no"),
            (json!({ "conversations": [{ "from": "x", "value": "a" }] }), "from \"x\", which is"),
            (json!({ "prompt": "a", "completion": ["b", "c"] }), "completion is a list"),
            (json!({ "query": "a", "response": "b", "history": [["c"]] }), "entry 1 of history"),
        ] {
            let message = read(row.clone()).unwrap_err();
            assert!(message.contains(words), "{row}: {message}");
        }
    }

    #[test]
    fn the_prompt_beside_a_completion_is_not_learnt_unless_all_is() {
        let said = |role: &str| message(role, role.into());
        let prompt = json!([said("user"), said("assistant"), said("user")]);
        let row = json!({ "prompt": prompt, "completion": [said("assistant")], "system": "s" });
        for whole in [true, false] {
            let mut fields = row.as_object().unwrap().clone();
            add_messages(&mut fields, whole).unwrap();
            let messages = fields["messages"].as_array().unwrap();
            let flags: Vec<bool> = messages.iter().map(|m| m.get("loss").is_none()).collect();
            assert_eq!(flags, [whole, whole, whole, whole, true]);
        }
    }

    #[test]
    fn a_conversation_that_cannot_be_read_is_an_error_and_none_is_not() {
        let adding = |row: Value| {
            let mut fields = row.as_object().unwrap().clone();
            add_messages(&mut fields, true).map(|()| fields.contains_key("messages"))
        };
        let from = |from: &str| json!({ "conversations": [{ "from": from, "value": "hello" }] });
        assert_eq!(adding(from("human")), Ok(true));
        let message = adding(from("narrator")).unwrap_err();
        assert!(message.contains("entry 1 of conversations is from \"narrator\""), "{message}");
        let message = adding(json!({ "conversations": "hello" })).unwrap_err();
        assert!(message.contains("conversations"), "{message}");
        let row = json!({ "query": "a", "response": "b", "history": ["c"] });
        assert!(adding(row).unwrap_err().contains("entry 1 of history"));
        assert_eq!(adding(json!({ "caption": "a", "input": 3 })), Ok(false));
    }
}
