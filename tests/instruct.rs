//! Documents of instruction tuning: those of TRL, and rows of all dialects with what is learnt in parentheses.

#[path = "post_training/sft.rs"]
mod sft;

use calumma::data::{AnswerLayout, Loss, Preferences, SourceConfig, Unpaired};
use serde_json::{Value, json};

use self::sft::{Setting, check};
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
    let first = &found.answers[0].tokens;
    assert!(first.label && !first.prompt.is_empty());
}

#[test]
fn documents_equal_those_of_trl() {
    let outcomes = check(&fixture("post-training/sft.json"), &fixture("tokenizer"));
    assert_eq!(outcomes.len(), 14);
    let failed: Vec<_> = outcomes.iter().filter(|(_, outcome)| outcome.is_err()).collect();
    assert!(failed.is_empty(), "{failed:#?}");
}

#[test]
fn a_case_that_is_not_met_is_reported() {
    let mut file: Value =
        serde_json::from_slice(&std::fs::read(fixture("post-training/sft.json")).unwrap()).unwrap();
    let cases = &mut file["cases"];
    cases["chat_assistant_only"]["result"][0]["labels"][5] = json!(108);
    cases["chat_both"]["settings"]["unheard_of"] = json!(true);
    cases["truncated_rows_dropped"]["rows_left"] = json!(2);
    cases["packed_batch"]["position_ids"][0][3] = json!(4);
    cases["preference"]["ids"][1]["chosen_ids"][0] = json!(1);
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("sft.json");
    std::fs::write(&path, file.to_string()).unwrap();
    let outcomes = check(&path, &fixture("tokenizer"));
    let failed: Vec<&str> =
        outcomes.iter().filter(|(_, o)| o.is_err()).map(|(name, _)| name.as_str()).collect();
    let mut expected = [
        "chat_assistant_only",
        "chat_both",
        "packed_batch",
        "preference",
        "truncated_rows_dropped",
    ];
    expected.sort_unstable();
    let mut failed = failed;
    failed.sort_unstable();
    assert_eq!(failed, expected);
}
