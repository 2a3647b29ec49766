//! What templates write, and that checking and rendering agree.
#![allow(clippy::unwrap_used, reason = "tests")]

use proptest::prelude::*;
use proptest::sample::{select, subsequence};
use rand::SeedableRng;
use serde_json::{Value, json};

use super::*;

#[test]
fn the_name_of_a_loss_in_identities_is_its_first_one_and_both_are_read() {
    let written = serde_json::to_string(&Loss::ImagesAndAnswers).unwrap();
    assert_eq!(written, "\"pictures-and-answers\"");
    for name in ["pictures-and-answers", "images-and-answers"] {
        let read: Loss = serde_json::from_value(name.into()).unwrap();
        assert_eq!(read, Loss::ImagesAndAnswers);
    }
}

fn render(source: &str, fields: Value, options: &RenderOptions) -> Result<Rendered> {
    let Value::Object(fields) = fields else { panic!("fields are an object") };
    let images = vec![Codes { ids: vec![1, 2], height: 1, width: 2 }];
    let mut rng = ChaCha8Rng::seed_from_u64(1);
    Template::parse(source)?.render(&fields, &images, options, &mut rng)
}

/// Text in quotes, `I` for an image, `|` for a separator; `+` after each target of the loss.
fn shown(rendered: &Rendered) -> String {
    let parts = rendered.segments.iter().zip(&rendered.supervised);
    let parts = parts.map(|(segment, counts)| {
        let text = match segment {
            CodedSegment::Text(text) => format!("'{text}'"),
            CodedSegment::Image(_) => "I".to_owned(),
            _ => "|".to_owned(),
        };
        format!("{text}{}", if *counts { "+" } else { "" })
    });
    parts.collect::<Vec<_>>().join(" ")
}

const ANSWERS: RenderOptions = RenderOptions { loss: Loss::Answers, max_turns: None };

#[test]
fn only_answers_and_the_separator_after_them_count() {
    let fields = json!({ "turns": [{ "q": "a", "a": "b" }, { "q": "c", "a": "d" }] });
    let source = "<image>{#turns|<sep>}{q}?<sep>{a}{/turns}";
    let rendered = render(source, fields.clone(), &ANSWERS).unwrap();
    assert_eq!(shown(&rendered), "I 'a?' | 'b'+ |+ 'c?' | 'd'+");
    let images = RenderOptions { loss: Loss::ImagesAndAnswers, max_turns: None };
    let rendered = render(source, fields.clone(), &images).unwrap();
    assert_eq!(shown(&rendered), "I+ 'a?' | 'b'+ |+ 'c?' | 'd'+");
    let rendered = render("a {q}<image>", json!({ "q": "b" }), &images).unwrap();
    assert_eq!(shown(&rendered), "'a b' I+");
    let rendered = render(source, fields, &RenderOptions::default()).unwrap();
    assert_eq!(shown(&rendered), "I+ 'a?'+ |+ 'b'+ |+ 'c?'+ |+ 'd'+");
}

#[test]
fn an_answer_may_begin_without_a_separator() {
    let fields = json!({ "q": "a", "a": "b" });
    let rendered = render("{q}: <answer>{a}", fields.clone(), &ANSWERS).unwrap();
    assert_eq!(shown(&rendered), "'a: ' 'b'+");
    let rendered = render("{q}: <answer>{a}", fields, &RenderOptions::default()).unwrap();
    assert_eq!(shown(&rendered), "'a: b'+");
}

#[test]
fn the_last_answer_may_count_alone() {
    let last = RenderOptions { loss: Loss::LastAnswer, max_turns: None };
    let fields = json!({ "turns": [{ "q": "a", "a": "b" }, { "q": "c", "a": "d" }] });
    let source = "{#turns|<sep>}{q}?<sep>{a}{/turns}";
    let rendered = render(source, fields.clone(), &last).unwrap();
    assert_eq!(shown(&rendered), "'a?' | 'b' | 'c?' | 'd'+");
    let rendered = render(&format!("{source}<sep>"), fields, &last).unwrap();
    assert_eq!(shown(&rendered), "'a?' | 'b' | 'c?' | 'd'+ |+");
    let error = render("{a}<sep>b<sep>c<sep>", json!({ "a": "x" }), &last).unwrap_err();
    assert!(error.to_string().contains("the answer is empty"), "{error}");
}

#[test]
fn messages_say_what_is_not_learnt() {
    let said = |role: &str, content: &str| json!({ "role": role, "content": content });
    let mut messages =
        vec![said("user", "q"), said("assistant", "a"), said("user", "r"), said("assistant", "b")];
    messages[1]["loss"] = json!(false);
    let fields = json!({ "messages": messages });
    let rendered = render("{messages}", fields.clone(), &ANSWERS).unwrap();
    assert_eq!(shown(&rendered), "'q' | 'a' | 'r' | 'b'+");
    let rendered = render("{messages}", fields, &RenderOptions::default()).unwrap();
    assert_eq!(shown(&rendered), "'q'+ |+ 'a' | 'r'+ |+ 'b'+");
    messages[3]["loss_scale"] = json!(0);
    let error = render("{messages}", json!({ "messages": messages }), &ANSWERS).unwrap_err();
    assert!(error.to_string().contains("a message says that it is not learnt"), "{error}");
    messages[3]["loss_scale"] = json!(0.5);
    let error = render("{messages}", json!({ "messages": messages }), &ANSWERS).unwrap_err();
    assert!(
        error.to_string().contains("message 4 of field messages: loss_scale is 0.5"),
        "{error}"
    );
    let turns = json!([{ "from": "human", "value": "q" }, { "from": "gpt", "value": "a", "loss": false },
        { "from": "human", "value": "r" }, { "from": "gpt", "value": "b" }]);
    let source = "{#turns|<sep>}{value}{/turns}";
    let rendered = render(source, json!({ "turns": turns }), &ANSWERS).unwrap();
    assert_eq!(shown(&rendered), "'q' | 'a' | 'r' | 'b'+");
}

#[test]
fn adjacent_text_becomes_one_segment() {
    let fields = json!({ "name": "cat", "n": 3 });
    let rendered = render("{n} {name}s<image>", fields, &RenderOptions::default()).unwrap();
    assert_eq!(shown(&rendered), "'3 cats'+ I+");
}

#[test]
fn messages_and_segments_are_written_in_full() {
    let fields = json!({ "messages": [
        { "role": "system", "content": "short" },
        { "role": "user", "content": [{ "type": "image" }, { "type": "text", "text": "q" }] },
        { "role": "assistant", "content": "a" },
        { "role": "user", "content": "r" },
        { "role": "assistant", "content": "b" },
    ] });
    let rendered = render("{messages}", fields, &ANSWERS).unwrap();
    assert_eq!(shown(&rendered), "'short\n' I 'q' | 'a'+ |+ 'r' | 'b'+");
    let fields = json!({ "segments": [{ "type": "text", "text": "q" }, { "type": "image" }] });
    let rendered = render("{segments}", fields, &RenderOptions::default()).unwrap();
    assert_eq!(shown(&rendered), "'q'+ I+");
}

#[test]
fn long_lists_are_cut_to_a_subset_in_order() {
    let fields = json!({ "n": (0..20).collect::<Vec<_>>() });
    let options = RenderOptions { max_turns: Some(5), ..Default::default() };
    let rendered = render("{#n| }{.}{/n}", fields, &options).unwrap();
    let CodedSegment::Text(text) = &rendered.segments[0] else { panic!("text") };
    let numbers: Vec<u32> = text.split(' ').map(|n| n.parse().unwrap()).collect();
    assert!(numbers.len() == 5 && numbers.is_sorted_by(|a, b| a < b), "{numbers:?}");
}

#[test]
fn every_entry_of_a_list_valued_field_is_drawn_sometimes() {
    let template = Template::parse("{word}").unwrap();
    let fields = json!({ "word": ["a", "b", "c"] }).as_object().unwrap().clone();
    let mut rng = ChaCha8Rng::seed_from_u64(7);
    let seen: std::collections::BTreeSet<String> = (0..50)
        .map(|_| {
            let options = RenderOptions::default();
            shown(&template.render(&fields, &[], &options, &mut rng).unwrap())
        })
        .collect();
    assert_eq!(seen.len(), 3);
}

#[test]
fn what_cannot_be_filled_in_is_named() {
    for (source, fields, words) in [
        ("{nam}", json!({ "name": "x", "id": 1 }), "no field nam; available are id, name"),
        ("{name}", json!({ "name": null }), "field name is null"),
        ("{name}", json!({ "name": [] }), "empty list"),
        ("<image><image>", json!({}), "more <image> marks than images (1)"),
        ("{#t}a{/t}", json!({ "t": 1 }), "not a list"),
    ] {
        let error = render(source, fields, &RenderOptions::default()).unwrap_err();
        assert!(error.to_string().contains(words), "{source}: {error}");
    }
    let error = render("{a}", json!({ "a": "" }), &ANSWERS).unwrap_err();
    assert!(error.to_string().contains("the document is empty"), "{error}");
    let error = render("{a}", json!({ "a": "b" }), &ANSWERS).unwrap_err();
    assert!(error.to_string().contains("answers follow a <sep>"), "{error}");
}

#[test]
fn alternating_entries_are_cut_in_pairs() {
    let turns: Vec<String> = (0..20).map(|n| n.to_string()).collect();
    let options = RenderOptions { loss: Loss::Answers, max_turns: Some(3) };
    let fields = json!({ "turns": turns });
    let rendered = render("{#turns|<sep>}{.}{/turns}", fields.clone(), &options).unwrap();
    let texts: Vec<usize> = rendered
        .segments
        .iter()
        .filter_map(|segment| match segment {
            CodedSegment::Text(text) => Some(text.parse().unwrap()),
            _ => None,
        })
        .collect();
    assert_eq!(texts.len(), 6);
    for pair in texts.chunks(2) {
        assert!(pair[0].is_multiple_of(2) && pair[1] == pair[0] + 1, "{texts:?}");
    }
    let one = RenderOptions { max_turns: Some(1), ..options };
    let template = Template::parse("{#turns|<sep>}{.}{/turns}").unwrap();
    template.check(fields.as_object().unwrap(), 0, &one).unwrap();
}

#[test]
fn conversations_begin_with_a_prompt_and_end_with_an_answer() {
    let source = "{#conversations|<sep>}{value}{/conversations}";
    let of = |names: &[&str]| {
        let entries: Vec<Value> =
            names.iter().map(|name| json!({ "from": name, "value": name })).collect();
        render(source, json!({ "conversations": entries }), &ANSWERS)
    };
    assert_eq!(shown(&of(&["human", "gpt"]).unwrap()), "'human' | 'gpt'+");
    let rendered = of(&["system", "human", "gpt", "human", "gpt"]).unwrap();
    assert_eq!(shown(&rendered), "'system\nhuman' | 'gpt'+ |+ 'human' | 'gpt'+");
    for names in [&["gpt", "human"][..], &["human", "human"], &["human", "gpt", "human"]] {
        assert!(of(names).unwrap_err().to_string().contains("conversations: "), "{names:?}");
    }
}

#[test]
fn the_entry_at_fault_and_the_empty_answer_are_named() {
    for (source, fields, words) in [
        ("{a}", json!({ "a": ["x", null] }), "entry 2 of field a is null"),
        ("{#t}{.}{/t}", json!({ "t": ["x", null] }), "entry 2 of t is null"),
        ("{#t}{q}{/t}", json!({ "t": [{ "q": null }] }), "field q of entry 1 of t is null"),
        (
            "{#t}{q}{/t}",
            json!({ "t": [{ "a": 1 }] }),
            "entry 1 of t has no field q; available are a",
        ),
        ("{q}<sep>{a}", json!({ "q": "x", "a": "" }), "the answer is empty"),
        ("{m}", json!({ "m": [{ "role": "user", "content": null }] }), "entry 1 of field m"),
    ] {
        let template = Template::parse(source).unwrap();
        let checked = template.check(fields.as_object().unwrap(), 0, &ANSWERS);
        let message = checked.unwrap_err().to_string();
        assert!(message.contains(words), "{source}: {message}");
    }
}

const PARTS: [&str; 10] = [
    "t",
    "<answer>",
    "<image>",
    "<sep>",
    "{a}",
    "{b}",
    "{#t|<sep>}{.}{/t}",
    "{#t| }{a}{/t}",
    "{#t|<sep>}{a}<sep>{b}{/t}",
    "{#t}{b}<sep>{/t}",
];

/// Values of fields and entries, good and bad.
fn values() -> Vec<Value> {
    let image = json!({ "type": "image" });
    let words = json!({ "type": "text", "text": "w" });
    vec![
        json!("x"),
        json!("x"),
        json!(""),
        json!(2),
        json!(null),
        json!([]),
        json!(["x", ""]),
        json!(["x", "y"]),
        json!(["x", null]),
        json!(["x", ["y", ""]]),
        json!(["x", [image]]),
        json!([image, words]),
        json!([image, image]),
        json!([{ "type": "video" }]),
        json!([{ "role": "user", "content": "x" }, { "role": "assistant", "content": "y" }]),
        json!([{ "role": "user", "content": "x" }, { "role": "assistant", "content": "" }]),
        json!([{ "role": "assistant", "content": [image] }]),
        json!([{ "role": "user", "content": "x" }, { "role": "assistant", "content": "y", "loss": false }]),
        json!([{ "role": "assistant", "content": "y", "loss_scale": 0.5 }]),
    ]
}

/// Entries of the list `t`.
fn entries() -> Vec<Value> {
    let mut entries = values();
    for from in ["human", "gpt", "system", "other"] {
        entries.push(json!({ "from": from, "a": "x", "b": "" }));
    }
    entries.push(json!({ "from": "gpt", "a": "x", "b": "y", "loss": false }));
    entries.push(json!({ "a": ["x", ""], "b": "y" }));
    entries.push(json!({ "a": "x" }));
    entries
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 1500, ..ProptestConfig::default() })]
    #[test]
    fn a_sample_is_checked_good_exactly_if_every_draw_renders(
        parts in prop::collection::vec(select(PARTS.to_vec()), 1..4),
        fields in prop::collection::vec(select(values()), 2),
        entries in prop::collection::vec(select(entries()), 0..4),
        present in subsequence(vec!["a", "b", "t"], 2..=3),
        (num_images, max_turns) in (0_usize..4, 0_usize..4),
        loss in select(vec![Loss::All, Loss::Answers, Loss::LastAnswer, Loss::ImagesAndAnswers]),
    ) {
        let template = Template::parse(&parts.concat()).unwrap();
        let mut given = Fields::new();
        given.insert("a".to_owned(), fields[0].clone());
        given.insert("b".to_owned(), fields[1].clone());
        given.insert("t".to_owned(), Value::Array(entries));
        given.retain(|name, _| present.contains(&name.as_str()));
        let images = vec![Codes { ids: vec![1], height: 1, width: 1 }; num_images];
        let options = RenderOptions { loss, max_turns: Some(max_turns) };
        let checked = template.check(&given, num_images, &options);
        let draws = if checked.is_ok() { 60 } else { 6000 };
        let failed = (0..draws).find_map(|seed| {
            let mut rng = ChaCha8Rng::seed_from_u64(seed);
            template.render(&given, &images, &options, &mut rng).err()
        });
        let (checked, failed) = (checked.err(), failed);
        prop_assert_eq!(checked.is_some(), failed.is_some(), "{:?} {:?}", checked, failed);
    }
}
