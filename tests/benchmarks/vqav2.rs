//! VQA v2.

use std::fs;

use calumma::data::Counted;
use calumma::eval::Majority;
use serde_json::{Value, json};
use tempfile::TempDir;

use super::{at, error, fields, folder, open, width};

const VQA: &str = "vqav2:questions=@/q.json&annotations=@/a.json&images=@/val2014";

pub const QUESTIONS: &str = r#"{"info": {"version": "2.0"}, "task_type": "Open-Ended", "data_type": "mscoco",
"license": {}, "data_subtype": "val2014", "questions": [
{"image_id": 42, "question": "What is it?", "question_id": 42001},
{"image_id": 9, "question": "Is it red?", "question_id": 9000},
{"image_id": 42, "question": "How many?", "question_id": 42000}]}"#;

fn annotation(question: u64, image: u64, answers: &[&str]) -> Value {
    let answers: Vec<_> = (1..)
        .zip(answers)
        .map(|(id, answer)| json!({"answer": answer, "answer_confidence": "yes", "answer_id": id}))
        .collect();
    json!({"question_id": question, "image_id": image, "question_type": "what is",
        "answer_type": "other", "multiple_choice_answer": answers[0]["answer"], "answers": answers})
}

/// An annotation file with one annotation per line from line 2.
pub fn annotations(annotations: &[Value]) -> String {
    let lines: Vec<_> = annotations.iter().map(Value::to_string).collect();
    format!("{{\"data_subtype\": \"val2014\", \"annotations\": [\n{}\n]}}", lines.join(",\n"))
}

const TEN: [&str; 10] = ["cat", "a cat", "cat", "dog", "cat", "cat", "Cat", "cat", "kitten", "cat"];

/// Annotations in a different order than the questions.
pub fn three() -> [Value; 3] {
    [
        annotation(9000, 9, &["yes"; 10]),
        annotation(42000, 42, &["2"; 10]),
        annotation(42001, 42, &TEN),
    ]
}

pub fn vqa(questions: &str, annotations: &str) -> TempDir {
    folder(&[
        ("q.json", questions),
        ("a.json", annotations),
        ("val2014/COCO_val2014_000000000042.jpg", "5"),
        ("val2014/COCO_val2014_000000000009.jpg", "7"),
    ])
}

#[test]
fn vqa_questions_keep_their_order_and_their_ten_answers() {
    let dir = vqa(QUESTIONS, &annotations(&three()));
    let dataset = open(&dir, VQA);
    assert_eq!((dataset.len(), dataset.name()), (3, &*at(&dir, VQA)));
    let all = fields(dataset.as_ref());
    let first = json!({"question_id": 42001, "image_id": 42, "question": "What is it?",
        "answer": "cat", "answers": TEN, "question_type": "what is", "answer_type": "other"});
    assert_eq!(all[0], first);
    assert_eq!((&all[1]["answer"], &all[2]["answer"]), (&json!("yes"), &json!("2")));
    assert_eq!([0, 1, 2].map(|n| width(dataset.as_ref(), n)), [5, 7, 5]);
    let sample = dataset.get(1).unwrap();
    assert_eq!(Value::from(sample.fields), all[1]);
    assert_eq!(sample.source, at(&dir, "@/q.json: question 9000"));
    assert!(dataset.get(3).unwrap_err().to_string().contains("it has 3"));
    assert!(Majority::learn(dataset.as_ref()).is_ok(), "the evaluation finds its columns");
}

#[test]
fn vqa_test_splits_have_only_questions_and_use_images_of_test2015() {
    for subtype in ["test2015", "test-dev2015"] {
        let dir = folder(&[
            ("q.json", &QUESTIONS.replace("val2014", subtype)),
            ("test2015/COCO_test2015_000000000042.jpg", "3"),
        ]);
        let dataset = open(&dir, "vqav2:questions=@/q.json&images=@/test2015");
        let first = json!({"question_id": 42001, "image_id": 42, "question": "What is it?"});
        assert_eq!(dataset.fields(0).map(Value::from).unwrap(), first);
        assert_eq!(width(dataset.as_ref(), 2), 3);
    }
}

#[test]
fn a_missing_or_broken_image_is_an_error_of_its_sample_only() {
    let dir = vqa(QUESTIONS, &annotations(&three()));
    let image = dir.path().join("val2014/COCO_val2014_000000000009.jpg");
    fs::remove_file(&image).unwrap();
    let dataset = open(&dir, VQA);
    let message = dataset.get(1).unwrap_err().to_string();
    for words in ["q.json: question 9000: image", "COCO_val2014_000000000009.jpg", "No such file"] {
        assert!(message.contains(words), "{message}");
    }
    fs::write(&image, "no image").unwrap();
    assert!(dataset.get(1).unwrap_err().to_string().contains("question 9000: image"));
    assert!(dataset.get(0).is_ok() && dataset.get(2).is_ok() && dataset.fields(1).is_ok());
    let counted = Counted::new(dataset, 0.5).unwrap();
    let good = (0..3).map(|n| counted.take(n).unwrap().is_some());
    assert_eq!(good.collect::<Vec<_>>(), [true, false, true]);
    assert_eq!(counted.bad()[0].index, 1);
}

#[test]
fn errors_of_malformed_annotations_name_line_column_and_field() {
    let mut without = three();
    without[1].as_object_mut().unwrap().remove("answers");
    let end = 1 + without[1].to_string().len() - 1;
    let whole = annotations(&three());
    let mut of_text = three();
    of_text[2]["image_id"] = json!("42");
    let mut no_answer = three();
    no_answer[0]["answers"][3] = json!({"answer_id": 4});
    for (text, words) in [
        (
            annotations(&without),
            &*format!("a.json: line 3 column {end}: annotations[1].answers: missing field"),
        ),
        (
            annotations(&of_text),
            "annotations[2].image_id: invalid type: string \"42\", expected u64",
        ),
        (annotations(&no_answer), "annotations[0].answers[3].answer: missing field"),
        (whole.replace("\n]}", ""), "line 4 column"),
        (whole.clone() + "x", "line 5 column 3: trailing characters"),
        ("{}".to_owned(), "line 1 column 2: annotations: missing field"),
        ("[1]".to_owned(), "line 1"),
        (String::new(), "EOF"),
    ] {
        let message = error(&vqa(QUESTIONS, &text), VQA);
        assert!(message.contains("a.json: line") && message.contains(words), "{words}: {message}");
    }
    let no_subtype = QUESTIONS.replace("data_subtype", "subtype");
    assert!(
        error(&vqa(&no_subtype, &whole), VQA).contains("q.json: line 5 column 65: data_subtype")
    );
}

#[test]
fn errors_of_mismatched_questions_and_annotations_name_the_id() {
    let [a, b, c] = three();
    let stranger = annotation(77, 9, &TEN);
    let elsewhere = annotation(42000, 43, &TEN);
    let mut empty = b.clone();
    empty["answers"] = json!([]);
    let cases: [(&[&Value], &str); 6] = [
        (&[&a, &c], "question 42000 has no annotation (1 of 3 have none)"),
        (&[&a, &b, &c, &stranger], "annotations[3]: question 77 is not in"),
        (&[&a, &b, &c, &b], "annotations[3]: question 42000 is annotated twice"),
        (&[&a, &elsewhere, &c], "question 42000 is about image 43 here, about image 42 in"),
        (&[&a, &empty, &c], "annotations[1]: question 42000 has no answers"),
        (&[&a, &json!({}), &c], "annotations[1].question_id: missing field"),
    ];
    for (list, words) in cases {
        let list: Vec<_> = list.iter().map(|one| (*one).clone()).collect();
        let message = error(&vqa(QUESTIONS, &annotations(&list)), VQA);
        assert!(message.contains("a.json: ") && message.contains(words), "{words}: {message}");
    }
    let twice = QUESTIONS.replace("42000", "42001");
    let message = error(&vqa(&twice, &annotations(&three())), VQA);
    let words = "questions[2].question_id: 42001 was already in questions[0].question_id";
    assert!(message.contains(words), "{message}");
}
