//! Rows of all dialects as documents, what is learnt in parentheses.

use calumma::data::{AnswerLayout, Loss, Preferences, SourceConfig, Unpaired};
use serde_json::{Value, json};

use super::sft::Setting;
use crate::common::fixture;

fn setting() -> Setting {
    let json = std::fs::read(fixture("post-training/sft.json")).unwrap();
    Setting::open(&serde_json::from_slice(&json).unwrap(), &fixture("tokenizer"))
}

/// The document of `row`, or why there is none.
fn shown(setting: &Setting, row: &Value, template: &str, loss: Loss) -> Result<String, String> {
    let document = setting.document(row, &[template], loss, None)?.ok_or("it is cut")?;
    let (mut text, mut start) = (String::new(), 0);
    for run in document.loss_mask.chunk_by(|a, b| a == b) {
        let segments = setting.processor.decode(&document.ids[start..start + run.len()]).unwrap();
        let part: String = segments.iter().map(ToString::to_string).collect();
        text += &if run[0] { format!("({part})") } else { part };
        start += run.len();
    }
    Ok(text.replace("<reserved08706>", "|"))
}

#[test]
fn rows_of_all_dialects_are_conversations_in_either_layout() {
    let setting = setting();
    let said = |role: &str, content: &str| json!({ "role": role, "content": content });
    let turns = json!([{ "from": "human", "value": "q" }, { "from": "gpt", "value": "a" }]);
    for row in [
        json!({ "messages": [said("user", "q"), said("assistant", "a")] }),
        json!({ "conversations": turns }),
        json!({ "instruction": "q", "input": "", "output": "a" }),
        json!({ "query": "q", "response": "a" }),
        json!({ "prompt": "q", "completion": "a" }),
        json!({ "prompt": [said("user", "q")], "completion": [said("assistant", "a")] }),
    ] {
        let layout = |template| shown(&setting, &row, template, Loss::Answers).unwrap();
        assert_eq!(layout("{messages}"), "q|(a</s>)", "{row}");
        assert_eq!(layout("chat_template"), "q|(a|)", "{row}");
    }
    let row = json!({ "instruction": "q", "input": "i", "output": "a", "system": "s", "history": [["p", "b"]] });
    let layout = |template, loss| shown(&setting, &row, template, loss).unwrap();
    assert_eq!(layout("{messages}", Loss::Answers), "s\np|(b|)q\ni|(a</s>)");
    assert_eq!(layout("{messages}", Loss::LastAnswer), "s\np|b|q\ni|(a</s>)");
    assert_eq!(layout("chat_template", Loss::Answers), "s|p|(b|)q\ni|(a|)");
}

#[test]
fn a_completion_is_all_that_is_learnt_beside_a_prompt_with_answers() {
    let setting = setting();
    let said = |role: &str, content: &str| json!({ "role": role, "content": content });
    let prompt = [said("user", "p"), said("assistant", "b"), said("user", "q")];
    let row = json!({ "prompt": prompt, "completion": [said("assistant", "a")] });
    for (template, loss, expected) in [
        ("{messages}", Loss::Answers, "p|b|q|(a</s>)"),
        ("chat_template", Loss::Answers, "p|b|q|(a|)"),
        ("chat_template", Loss::LastAnswer, "p|b|q|(a|)"),
        ("{messages}", Loss::All, "(p|b|q|a</s>)"),
    ] {
        assert_eq!(shown(&setting, &row, template, loss).unwrap(), expected, "{template}");
    }
    let plain = json!({ "prompt": "q: ", "completion": "a" });
    let found = shown(&setting, &plain, "{prompt}<answer>{completion}", Loss::Answers).unwrap();
    assert_eq!(found, "q:( a</s>)");
}

#[test]
fn rows_that_cannot_be_read_are_named() {
    let setting = setting();
    for (row, template, words) in [
        (
            json!({ "instruction": "q", "output": "a", "history": [["p", "b"]] }),
            "alpaca",
            "no place for history",
        ),
        (json!({ "instruction": "q" }), "alpaca", "there is no field output"),
        (
            json!({ "caption": "q" }),
            "chat_template",
            "there is no conversation; it may be in messages",
        ),
        (
            json!({ "query": "q", "response": "a", "history": ["p"] }),
            "chat_template",
            "entry 1 of history is not a pair",
        ),
        (json!({ "query": "q", "response": "" }), "{messages}", "the answer is empty"),
    ] {
        let error = shown(&setting, &row, template, Loss::Answers).unwrap_err();
        assert!(error.contains(words) && error.contains("line 1"), "{row}: {error}");
    }
}

#[test]
fn sources_of_compared_answers_count_the_rows_that_cannot_be_read() {
    let setting = setting();
    let layout = AnswerLayout::new(&setting.processor).unwrap();
    let cache_dir = setting.cache_dir();
    let open =
        |rows: &[Value]| SourceConfig { max_bad: 0.5, ..SourceConfig::new(setting.write(rows)) };
    let pair =
        json!({ "prompt": "Name it: ", "chosen": "fox", "rejected": "a dog", "margin": 0.5 });
    let source = open(&[pair.clone(), json!({ "prompt": "q", "chosen": "a" }), pair]);
    let found = Preferences::open(&source, setting.encoding(&cache_dir), &layout).unwrap();
    assert_eq!((found.pairs.len(), found.pairs[1].margin, found.left_out.bad), (2, Some(0.5), 1));
    let reason = &found.left_out.bad_samples[0].reason;
    assert!(reason.contains("line 2: there is no rejected"), "{reason}");
    let verdict = json!({ "prompt": "q", "completion": "a", "label": true });
    let source = open(&[verdict, json!({ "prompt": "q", "completion": "a", "label": 2 })]);
    let found = Unpaired::open(&source, setting.encoding(&cache_dir), &layout).unwrap();
    assert_eq!((found.answers.len(), found.left_out.bad), (1, 1));
    assert!(found.answers[0].label && !found.answers[0].prompt.is_empty());
}
