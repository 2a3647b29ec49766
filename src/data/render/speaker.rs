//! Who speaks in an entry of a dialogue, by the names of ShareGPT's and OpenAI's layouts.

use serde_json::Value;

/// The side of an entry.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Speaker {
    /// Instructions before the first prompt.
    System,
    /// Prompts, and the results of tools.
    Prompter,
    /// Answers, and calls of tools.
    Answerer,
}

impl Speaker {
    /// The speaker that an entry names by `from` or `role`, if its name is known.
    pub(super) fn of(entry: &Value) -> Option<Self> {
        match name(entry)? {
            "system" => Some(Self::System),
            "human" | "user" | "observation" | "tool" => Some(Self::Prompter),
            "gpt" | "assistant" | "function_call" | "model" => Some(Self::Answerer),
            _ => None,
        }
    }

    /// Checks that `entries` of the list `field` are prompts and answers in turn and that no prompt is
    /// without an answer, as far as they name their speakers. LLaMA-Factory leaves out the same ones.
    /// `is_next` says whether an answer, or else a prompt, is to come first.
    pub(super) fn check(
        field: &str,
        entries: &[Value],
        is_next: impl Fn(bool) -> bool,
    ) -> Result<(), String> {
        for (at, entry) in entries.iter().enumerate() {
            let Some(speaker) = Self::of(entry) else { continue };
            let from = name(entry).unwrap_or_default();
            let answers = speaker == Self::Answerer;
            let wanted = if answers { "a prompt" } else { "an answer" };
            // The first entry and every second one after it are on the same side.
            if speaker == Self::System {
                let at = at + 1;
                return Err(format!(
                    "{field}: entry {at} is from {from}, which may only come first"
                ));
            }
            if !is_next(answers == at.is_multiple_of(2)) {
                let at = at + 1;
                return Err(format!(
                    "{field}: entry {at} is from {from}, where {wanted} is expected"
                ));
            }
            if speaker == Self::Prompter && at + 1 == entries.len() {
                return Err(format!("{field}: the last entry, from {from}, has no answer"));
            }
        }
        Ok(())
    }
}

/// Whether a message may be learnt: its key `loss` or `loss_scale` (ms-swift), else yes. Only those that
/// `answers` can be asked for. The error is the message.
pub(in crate::data) fn learnt(message: &Value, answers: bool) -> Result<bool, String> {
    for key in ["loss", "loss_scale"] {
        let learnt = match message.get(key) {
            None | Some(Value::Null) => continue,
            Some(Value::Bool(learnt)) => *learnt,
            Some(value) => match value.as_f64() {
                Some(0.0) => false,
                Some(1.0) => true,
                _ => return Err(format!("{key} is {value}; allowed: true, false, 0, 1")),
            },
        };
        return match learnt && !answers {
            true => Err(format!("{key} is {}, but only answers can be asked for", message[key])),
            false => Ok(learnt),
        };
    }
    Ok(true)
}

fn name(entry: &Value) -> Option<&str> {
    entry.get("from").or_else(|| entry.get("role"))?.as_str()
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests")]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_message_may_be_left_out_of_the_loss() {
        for (message, answers, expected) in [
            (json!({}), true, Ok(true)),
            (json!({}), false, Ok(true)),
            (json!({ "loss": false }), true, Ok(false)),
            (json!({ "loss": null, "loss_scale": 0 }), true, Ok(false)),
            (json!({ "loss_scale": 1.0 }), true, Ok(true)),
            (json!({ "loss": false }), false, Ok(false)),
            (json!({ "loss": true }), false, Err("loss is true, but only answers")),
            (json!({ "loss_scale": 0.5 }), true, Err("loss_scale is 0.5; allowed: true, false")),
            (json!({ "loss": "no" }), true, Err("loss is \"no\"; allowed")),
        ] {
            match (learnt(&message, answers), expected) {
                (Err(error), Err(words)) => assert!(error.starts_with(words), "{error}"),
                (found, expected) => assert_eq!(found, expected.map_err(str::to_owned)),
            }
        }
    }

    #[test]
    fn prompts_and_answers_must_take_turns_as_far_as_speakers_are_named() {
        let check = |names: &[&str], answers_first: bool| {
            let entries: Vec<Value> = names.iter().map(|name| json!({ "from": name })).collect();
            Speaker::check("turns", &entries, |answers| answers == answers_first)
        };
        for good in
            [&["human", "gpt"][..], &["user", "assistant", "tool", "gpt"], &[], &["x", "gpt"]]
        {
            check(good, false).unwrap();
        }
        check(&["gpt"], true).unwrap();
        for (bad, words) in [
            (&["gpt", "human"][..], "entry 1 is from gpt, where a prompt is expected"),
            (&["human", "human"], "entry 2 is from human, where an answer is expected"),
            (&["human", "gpt", "human"], "the last entry, from human, has no answer"),
            (&["human", "gpt", "system"], "entry 3 is from system, which may only come first"),
        ] {
            let message = check(bad, false).unwrap_err();
            assert!(message.contains(words), "{message}");
        }
    }
}
