//! Rows that compare answers, in the forms of all projects, and their ids.

use std::fs;

use calumma::data::{self, AnswerLayout, PreferenceRow, UnpairedRow, split_at_common_prefix};
use calumma::tokenize::CodedSegment;
use proptest::prelude::*;
use serde_json::{Value, json};
use vq_tokenizer::Codes;

use super::{RED, png, processor};

fn said(role: &str, content: &str) -> Value {
    json!({ "role": role, "content": content })
}

/// The fields of `row` read from a file, and the widths of its images, in whose names are digits.
fn read(row: &Value) -> Result<(data::Fields, Vec<u32>), String> {
    let dir = tempfile::tempdir().unwrap();
    for width in 1..6 {
        fs::write(dir.path().join(format!("{width}.png")), png(width, 1, RED)).unwrap();
    }
    let path = dir.path().join("rows.jsonl");
    fs::write(&path, row.to_string()).unwrap();
    let sample = data::open(path.to_str().unwrap()).unwrap().get(0).map_err(|e| e.to_string())?;
    let widths = sample.images.iter().map(|image| image.width()).collect();
    Ok((sample.fields, widths))
}

fn pair(row: &Value) -> (PreferenceRow, Vec<u32>) {
    let (fields, widths) = read(row).unwrap_or_else(|e| panic!("{row}: {e}"));
    (PreferenceRow::of(&fields).unwrap(), widths)
}

#[test]
fn pairs_of_all_projects_have_one_form() {
    let (user, good, bad) =
        (said("user", "q"), said("assistant", "good"), said("assistant", "bad"));
    let turn = |from: &str, value: &str| json!({ "from": from, "value": value });
    for row in [
        json!({ "prompt": [user], "chosen": [good], "rejected": [bad] }),
        json!({ "chosen": [user, good], "rejected": [user, bad] }),
        json!({ "conversations": [turn("human", "q")], "chosen": turn("gpt", "good"), "rejected": turn("gpt", "bad") }),
        json!({ "messages": [user], "chosen": good, "rejected": bad }),
        json!({ "messages": [user, good], "rejected_response": "bad" }),
        json!({ "messages": [user, good], "rejected_messages": [user, bad] }),
    ] {
        let (found, images) = pair(&row);
        assert_eq!((found.prompt, images), (vec![user.clone()], vec![]), "{row}");
        assert_eq!((found.chosen, found.rejected), (vec![good.clone()], vec![bad.clone()]));
    }
    let text = |text: &str| json!({ "type": "text", "text": text });
    let (plain, _) =
        pair(&json!({ "prompt": "q", "chosen": "good", "rejected": "bad", "margin": 2 }));
    assert_eq!((plain.prompt, plain.chosen), (vec![text("q")], vec![text("good")]));
    assert_eq!(plain.margin, Some(2.0));
}

#[test]
fn images_of_prompt_and_answers_come_in_this_order() {
    let image = json!({ "type": "image" });
    let at = |name: &str| json!({ "type": "image", "path": name });
    let text = |text: &str| json!({ "type": "text", "text": text });
    let marked = [said("user", "<image>q"), said("assistant", "<image>")];
    for (row, prompt, images) in [
        (json!({ "prompt": "q", "better_image": "1.png", "worse_image": "2.png" }), 1, vec![1, 2]),
        (
            json!({ "input_text": "q", "input_image": "1.png", "better_text": "a", "better_img": "2.png",
                "worse_text": "b <image>", "worse_img": "3.png" }),
            2,
            vec![1, 2, 3],
        ),
        (
            json!({ "prompt": [at("4.png"), text("q")], "chosen": [at("2.png")], "rejected": [at("5.png"), text("b")] }),
            2,
            vec![4, 2, 5],
        ),
        (
            json!({ "messages": marked, "rejected_messages": [said("user", "<image>q"), said("assistant", "b<image>")],
                "images": ["1.png", "2.png"], "rejected_images": ["1.png", "3.png"] }),
            1,
            vec![1, 2, 3],
        ),
        (
            json!({ "prompt": [{ "role": "user", "content": [image, text("q")] }],
                "chosen": [said("assistant", "a")], "rejected": [said("assistant", "b")], "images": ["3.png"] }),
            1,
            vec![3],
        ),
        (
            json!({ "prompt": "<image>q", "chosen": "a", "rejected": "b", "images": ["3.png"] }),
            2,
            vec![3],
        ),
    ] {
        let (found, widths) = pair(&row);
        assert_eq!((found.prompt.len(), widths), (prompt, images), "{row}");
    }
}

#[test]
fn images_without_a_mark_belong_to_the_prompt() {
    let row = json!({ "prompt": [said("system", "s"), said("user", "q")],
        "chosen": [said("assistant", "a")], "rejected": [said("assistant", "b")], "image": "2.png" });
    let content = json!([{ "type": "image" }, { "type": "text", "text": "q" }]);
    let (found, widths) = pair(&row);
    let shown = json!({ "role": "user", "content": content });
    assert_eq!((found.prompt, widths), (vec![said("system", "s"), shown], vec![2]));
    let row =
        json!({ "prompt": "q", "chosen": "a", "rejected": "b", "images": ["3.png", "1.png"] });
    let (found, widths) = pair(&row);
    assert_eq!((found.prompt.len(), widths), (3, vec![3, 1]));
}

#[test]
fn rows_with_a_verdict_have_one_form() {
    let turns = [said("user", "q"), said("assistant", "a")];
    for row in [
        json!({ "prompt": [turns[0]], "completion": [turns[1]], "label": true }),
        json!({ "messages": turns, "kto_tag": true }),
        json!({ "messages": turns, "kto_tag": 1 }),
    ] {
        let found = UnpairedRow::of(&read(&row).unwrap().0).unwrap();
        assert_eq!(found.prompt, [turns[0].clone()], "{row}");
        assert!(found.label && found.is_conversation());
    }
}

#[test]
fn what_is_wrong_with_a_row_is_named() {
    let messages = json!([said("user", "q"), said("assistant", "a")]);
    for (row, words) in [
        (json!({ "chosen": "a", "rejected": "b" }), "no lists of messages"),
        (
            json!({ "chosen": [said("user", "q")], "rejected": [said("user", "r")] }),
            "begin differently",
        ),
        (json!({ "messages": messages, "rejected_images": ["1.png"] }), "rejected_images without"),
        (
            json!({ "messages": [said("user", "<image>"), said("assistant", "a")], "rejected_response": "b",
                "images": ["1.png"], "rejected_images": ["2.png"] }),
            "different prompts",
        ),
        (json!({ "prompt": "<image>", "chosen": "a", "rejected": "b" }), "1 <image> mark"),
        (
            json!({ "input_text": "q", "better_text": "<image>", "worse_text": "b" }),
            "better_text: 1 <image> marks, but 0 images",
        ),
    ] {
        let message = read(&row).unwrap_err();
        assert!(message.contains(words), "{row}: {message}");
    }
    for (row, words) in [
        (
            json!({ "prompt": "q", "chosen": "a" }),
            "there is no rejected; available are chosen, prompt",
        ),
        (
            json!({ "prompt": "q", "chosen": [said("assistant", "a")], "rejected": "b" }),
            "some are messages",
        ),
        (
            json!({ "prompt": "q", "chosen": "a", "rejected": "b", "margin": "x" }),
            "margin is \"x\"",
        ),
    ] {
        let error = PreferenceRow::of(row.as_object().unwrap()).unwrap_err().to_string();
        assert!(error.contains(words), "{row}: {error}");
    }
    let odd = json!({ "prompt": "q", "completion": "a", "label": "yes" });
    let error = UnpairedRow::of(odd.as_object().unwrap()).unwrap_err().to_string();
    assert!(error.contains("label is \"yes\"; allowed: true, false"), "{error}");
}

#[test]
fn answers_may_be_images() {
    let processor = processor();
    let row = json!({ "prompt": "red", "better_image": "1.png", "worse_image": "2.png" });
    let (row, _) = pair(&row);
    let codes = |ids: [u32; 2]| Codes { ids: ids.into(), height: 1, width: 2 };
    let (good, bad) = (codes([1, 2]), codes([3, 4]));
    let layout = AnswerLayout::new(&processor).unwrap();
    let found = layout.preference(&row, &[good.clone(), bad.clone()]).unwrap();
    let text = CodedSegment::text("red");
    let whole =
        |image: Codes| processor.document(&[text.clone(), CodedSegment::Image(image)]).unwrap();
    let documents = found.documents();
    for (document, image) in documents.iter().zip([good.clone(), bad]) {
        assert_eq!(document.ids, whole(image).ids);
        let learnt = document.loss_mask.iter().filter(|is_target| **is_target).count();
        // Begin-image, two codes, end-image, end-of-text.
        assert_eq!(learnt, 5);
    }
    let error = layout.preference(&row, &[good]).unwrap_err().to_string();
    assert!(error.contains("2 image parts, but 1 images"), "{error}");
    let separated = AnswerLayout::with_template(&processor, "{prompt}<sep>{answer}").unwrap();
    let row = json!({ "prompt": "what", "completion": "red", "label": 0 });
    let row = UnpairedRow::of(row.as_object().unwrap()).unwrap();
    let found = separated.unpaired(&row, &[]).unwrap();
    assert_eq!(found.prompt.last(), Some(&processor.vocabulary().special().sep.unwrap()));
    assert!(!found.label);
}

#[test]
fn conversations_without_a_chat_template_have_the_separators_layout() {
    let processor = processor();
    let row = json!({ "prompt": [said("user", "is it"), said("assistant", "red"), said("user", "what")],
        "chosen": [said("assistant", "red")], "rejected": [said("assistant", "it")] });
    let (row, _) = pair(&row);
    let found = AnswerLayout::new(&processor).unwrap().preference(&row, &[]).unwrap();
    let special = processor.vocabulary().special();
    let separators = found.prompt.iter().filter(|id| **id == special.sep.unwrap()).count();
    assert_eq!((separators, found.prompt.last()), (3, Some(&special.sep.unwrap())));
    assert_eq!(found.chosen.last(), Some(&special.eos));
}

proptest! {
    #[test]
    fn prompt_and_answers_are_the_ids_of_the_whole_text(
        prompt in "[redis what ]{1,8}", good in "[redis what ]{1,6}", bad in "[redis what ]{1,6}",
    ) {
        let processor = processor();
        let text = |text: &str| vec![json!({ "type": "text", "text": text })];
        let row = PreferenceRow {
            prompt: text(&prompt),
            chosen: text(&good),
            rejected: text(&bad),
            margin: None,
        };
        let found = AnswerLayout::new(&processor).unwrap().preference(&row, &[]).unwrap();
        let ids = |text: &str| processor.document(&[CodedSegment::text(text)]).unwrap().ids;
        let wholes = [&good, &bad].map(|answer| ids(&format!("{prompt}{answer}")));
        for (document, whole) in found.documents().iter().zip(&wholes) {
            prop_assert_eq!(&document.ids, whole);
        }
        let mut alone = ids(&prompt);
        alone.pop();
        let [good, bad] = &wholes;
        prop_assert_eq!(found.prompt.len(), split_at_common_prefix(&alone, [&good[..], &bad[..]]));
    }
}
