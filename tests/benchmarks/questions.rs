//! GQA, TextVQA and POPE.

use std::fs;

use serde_json::{Value, json};

use super::{error, fields, folder, open, width};

#[test]
fn gqa_questions_keep_file_order_and_types() {
    let entry = |image: &str, answer: &str| {
        format!(
            r#"{{"semantic": [{{"operation": "select", "dependencies": [], "argument": "x (1)"}}],
            "entailed": [], "equivalent": [], "groups": {{"global": null, "local": "l"}},
            "question": "Who?", "imageId": "{image}", "isBalanced": true, {answer}
            "types": {{"structural": "query", "semantic": "rel", "detailed": "relS"}}}}"#
        )
    };
    let answered = r#""answer": "man", "fullAnswer": "The man.","#;
    let text = format!(
        "{{\"20\": {}, \"07\": {}, \"1\": {}}}",
        entry("n16", answered),
        entry("24", answered),
        entry("../24", answered)
    );
    let dir = folder(&[("q.json", &text), ("images/n16.jpg", "3"), ("24.jpg", "4")]);
    let spec = "gqa:questions=@/q.json&images=@/images";
    let dataset = open(&dir, spec);
    let all = fields(dataset.as_ref());
    let first = json!({"question_id": "20", "image_id": "n16", "question": "Who?", "answer": "man",
        "full_answer": "The man.", "is_balanced": true, "question_type": "query",
        "semantic_type": "rel", "detailed_type": "relS"});
    assert_eq!(all[0], first);
    assert_eq!([&all[1]["question_id"], &all[2]["question_id"]], ["07", "1"]);
    assert_eq!(width(dataset.as_ref(), 0), 3);
    assert!(dataset.get(1).unwrap_err().to_string().contains("question 07: image"));
    assert!(
        dataset.get(2).unwrap_err().to_string().contains("without .."),
        "ids must not leave the directory"
    );

    let write = |text: &str| fs::write(dir.path().join("q.json"), text).unwrap();
    write(r#"{"5": {"imageId": "1", "question": "?", "isBalanced": false}}"#);
    let test = json!({"question_id": "5", "image_id": "1", "question": "?", "is_balanced": false});
    assert_eq!(fields(open(&dir, spec).as_ref()), [test]);
    write(&text.replace("\"07\"", "\"20\""));
    assert!(error(&dir, spec).contains("entry 1: 20 was already in entry 0"));
    write(&text.replacen("\"answer\"", "\"reply\"", 1));
    assert!(error(&dir, spec).contains("20.answer: missing field; 07.answer exists"));
    write("{\n\"20\": {\"imageId\": 3}}");
    let message = error(&dir, spec);
    assert!(message.contains("line 2 column 20: 20.imageId: invalid type"), "{message}");
    write("{}");
    assert!(error(&dir, spec).contains("holds no entries"));
}

#[test]
fn the_most_frequent_textvqa_answer_is_the_answer() {
    let answers = ["b", "a", "c", "a", "b", "d", "e", "f", "g", "h"];
    let entry = json!({"question_id": 34602, "image_id": "003a8ae2ef43b901", "question": "brand?",
        "answers": answers, "question_tokens": ["brand"], "set_name": "val", "image_width": 1024});
    let text =
        json!({"dataset_type": "val", "dataset_name": "textvqa", "data": [entry]}).to_string();
    let dir = folder(&[("q.json", &text), ("i/003a8ae2ef43b901.jpg", "6")]);
    let spec = "textvqa:questions=@/q.json&images=@/i";
    let dataset = open(&dir, spec);
    let first = json!({"question_id": 34602, "image_id": "003a8ae2ef43b901", "question": "brand?",
        "answer": "b", "answers": answers});
    assert_eq!(fields(dataset.as_ref()), [first]);
    assert_eq!(width(dataset.as_ref(), 0), 6);

    let write = |data: Value| {
        fs::write(dir.path().join("q.json"), json!({ "data": data }).to_string()).unwrap();
    };
    let test = |id: u64| json!({"question_id": id, "image_id": "x", "question": "?"});
    write(json!([test(1)]));
    assert_eq!(fields(open(&dir, spec).as_ref()), [test(1)]);
    write(json!([test(1), entry]));
    assert!(error(&dir, spec).contains("data[0].answers: missing field; data[1].answers exists"));
    write(json!([test(1), test(1)]));
    assert!(error(&dir, spec).contains("data[1].question_id: 1 was already in data[0]"));
}

#[test]
fn pope_may_be_json_lines_or_a_list() {
    let row = |id: u64, label: &str| {
        json!({"question_id": id, "image": "COCO_val2014_000000310196.jpg",
            "text": "Is there a car in the image?", "label": label})
    };
    let lines = format!("{}\r\n\n{}\n", row(1, "yes"), row(2, "no"));
    let list = serde_json::to_string_pretty(&[row(1, "yes"), row(2, "no")]).unwrap();
    let spec = "pope:questions=@/q.json&images=@";
    for text in [lines, list] {
        let dir = folder(&[("q.json", &text), ("COCO_val2014_000000310196.jpg", "8")]);
        let dataset = open(&dir, spec);
        let second = json!({"question_id": 2, "file_name": "COCO_val2014_000000310196.jpg",
            "question": "Is there a car in the image?", "answer": "no"});
        assert_eq!(fields(dataset.as_ref())[1], second);
        assert_eq!((dataset.len(), width(dataset.as_ref(), 1)), (2, 8));
    }
    for (text, words) in [
        (
            format!("{}\n\n{}", row(1, "yes"), row(1, "no")),
            "line 3: question_id: 1 was already in line 1",
        ),
        (format!("{}\n\n{}", row(1, "yes"), row(2, "maybe")), "label: unknown variant `maybe`"),
        (format!("{}\n{{\"image\": }}", row(1, "no")), "line 2 column 11: image: expected value"),
        (json!([row(1, "no"), {}]).to_string(), "[1].question_id: missing field"),
    ] {
        let message = error(&folder(&[("q.json", &text)]), spec);
        assert!(message.contains("q.json: ") && message.contains(words), "{words}: {message}");
    }
}
