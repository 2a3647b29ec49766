//! Marks and image parts of rows.
#![allow(clippy::unwrap_used, reason = "tests")]

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
