//! Public benchmarks: tiny files in the official layouts, and what is wrong with broken ones.

use std::fs;

use calumma::data::{self, Counted, Dataset};
use calumma::eval::Majority;
use image::{Rgb, RgbImage};
use serde_json::{Value, json};
use tempfile::TempDir;

/// A folder with files of text; names that end in `.jpg` are images of the given width.
fn folder(files: &[(&str, &str)]) -> TempDir {
    let dir = tempfile::tempdir().unwrap();
    for (name, content) in files {
        let path = dir.path().join(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        match content.parse::<u32>() {
            Ok(width) if name.ends_with(".jpg") => {
                RgbImage::from_pixel(width, 2, Rgb([9; 3])).save(&path).unwrap();
            }
            _ => fs::write(&path, content).unwrap(),
        }
    }
    dir
}

/// `spec` with `@` for the folder.
fn at(dir: &TempDir, spec: &str) -> String {
    spec.replace('@', dir.path().to_str().unwrap())
}

fn open(dir: &TempDir, spec: &str) -> Box<dyn Dataset> {
    data::open(&at(dir, spec)).unwrap_or_else(|e| panic!("{e}"))
}

/// The message of an error whose exit code is that of bad data.
fn error(dir: &TempDir, spec: &str) -> String {
    let error = data::open(&at(dir, spec)).err().expect(spec);
    assert_eq!(error.exit_code(), 3);
    error.to_string()
}

fn fields(dataset: &dyn Dataset) -> Vec<Value> {
    (0..dataset.len()).map(|n| dataset.fields(n).unwrap().into()).collect()
}

fn width(dataset: &dyn Dataset, index: usize) -> u32 {
    let sample = dataset.get(index).unwrap();
    assert_eq!(sample.images.len(), 1);
    sample.images[0].width()
}

const VQA: &str = "vqav2:questions=@/q.json&annotations=@/a.json&images=@/val2014";

const QUESTIONS: &str = r#"{"info": {"version": "2.0"}, "task_type": "Open-Ended", "data_type": "mscoco",
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

/// The annotations file, an annotation a line from line 2 on.
fn annotations(annotations: &[Value]) -> String {
    let lines: Vec<_> = annotations.iter().map(Value::to_string).collect();
    format!("{{\"data_subtype\": \"val2014\", \"annotations\": [\n{}\n]}}", lines.join(",\n"))
}

const TEN: [&str; 10] = ["cat", "a cat", "cat", "dog", "cat", "cat", "Cat", "cat", "kitten", "cat"];

/// In another order than the questions.
fn three() -> [Value; 3] {
    [
        annotation(9000, 9, &["yes"; 10]),
        annotation(42000, 42, &["2"; 10]),
        annotation(42001, 42, &TEN),
    ]
}

fn vqa(questions: &str, annotations: &str) -> TempDir {
    folder(&[
        ("q.json", questions),
        ("a.json", annotations),
        ("val2014/COCO_val2014_000000000042.jpg", "5"),
        ("val2014/COCO_val2014_000000000009.jpg", "7"),
    ])
}

#[test]
fn vqa_questions_come_in_their_order_with_their_ten_answers() {
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
fn vqa_test_splits_have_questions_alone_and_the_images_of_test2015() {
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
fn a_missing_or_broken_image_is_an_error_of_its_samples_alone() {
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
fn malformed_annotations_are_named_with_line_column_and_field() {
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
fn questions_and_annotations_that_do_not_belong_together_are_named_by_id() {
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

#[test]
fn gqa_keeps_the_order_of_its_object_and_its_types() {
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
    assert!(dataset.get(2).unwrap_err().to_string().contains("without .."), "ids are no paths");

    let write = |text: &str| fs::write(dir.path().join("q.json"), text).unwrap();
    write(r#"{"5": {"imageId": "1", "question": "?", "isBalanced": false}}"#);
    let test = json!({"question_id": "5", "image_id": "1", "question": "?", "is_balanced": false});
    assert_eq!(fields(open(&dir, spec).as_ref()), [test]);
    write(&text.replace("\"07\"", "\"20\""));
    assert!(error(&dir, spec).contains("entry 1: 20 was already in entry 0"));
    write(&text.replacen("\"answer\"", "\"reply\"", 1));
    assert!(error(&dir, spec).contains("20.answer: missing field; 07.answer is there"));
    write("{\n\"20\": {\"imageId\": 3}}");
    let message = error(&dir, spec);
    assert!(message.contains("line 2 column 20: 20.imageId: invalid type"), "{message}");
    write("{}");
    assert!(error(&dir, spec).contains("holds no entries"));
}

#[test]
fn textvqa_answers_are_kept_and_the_most_frequent_is_the_answer() {
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
    assert!(error(&dir, spec).contains("data[0].answers: missing field; data[1].answers is there"));
    write(json!([test(1), test(1)]));
    assert!(error(&dir, spec).contains("data[1].question_id: 1 was already in data[0]"));
}

#[test]
fn pope_is_read_as_lines_and_as_a_list() {
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

fn coco(annotations: &Value) -> TempDir {
    let images = json!([{"id": 9, "file_name": "COCO_val2014_000000000009.jpg", "license": 3},
        {"id": 4, "file_name": "gone.jpg"}]);
    let mut whole = json!({"info": {}, "images": images, "licenses": []});
    if !annotations.is_null() {
        whole["annotations"] = annotations.clone();
    }
    folder(&[("a.json", &whole.to_string()), ("COCO_val2014_000000000009.jpg", "4")])
}

#[test]
fn coco_captions_stand_with_their_image() {
    let caption =
        |image: u64, id: u64, text: &str| json!({"image_id": image, "id": id, "caption": text});
    let (a, b, c) = (caption(4, 1, "A dog. "), caption(9, 2, "a cat"), caption(4, 3, "dogs"));
    let spec = "coco:annotations=@/a.json&images=@";
    let dir = coco(&json!([a, b, c]));
    let dataset = open(&dir, spec);
    let expected = [
        json!({"image_id": 9, "file_name": "COCO_val2014_000000000009.jpg", "captions": ["a cat"]}),
        json!({"image_id": 4, "file_name": "gone.jpg", "captions": ["A dog. ", "dogs"]}),
    ];
    assert_eq!(fields(dataset.as_ref()), expected);
    assert_eq!(width(dataset.as_ref(), 0), 4);
    assert!(dataset.get(1).unwrap_err().to_string().contains("a.json: image 4: image"));
    let test = open(&coco(&Value::Null), spec).fields(0).unwrap();
    assert!(!test.contains_key("captions"), "test splits have none");
    for (list, words) in [
        (json!([a, b, caption(5, 7, "x")]), "annotation 7 is about image 5, which is not there"),
        (json!([a, b, a]), "annotations[2].id: 1 was already in annotations[0].id"),
        (json!([a, c]), "image 9 has no caption"),
        (json!([a, {"image_id": 9, "id": 2}]), "annotations[1].caption: missing field"),
    ] {
        let message = error(&coco(&list), spec);
        assert!(message.contains("a.json: ") && message.contains(words), "{words}: {message}");
    }
}

#[test]
fn karpathy_splits_are_chosen_by_name() {
    let image = |id: u64, split: &str| {
        json!({"filepath": "val2014", "filename": format!("{id}.jpg"), "cocoid": id, "imgid": id % 7,
            "split": split, "sentids": [1], "sentences": [
            {"raw": format!("raw {id}"), "tokens": ["raw"], "imgid": 0, "sentid": 1}]})
    };
    let images = json!([
        image(391895, "test"),
        image(60623, "restval"),
        image(8, "train"),
        image(9, "test")
    ]);
    let text = json!({"dataset": "coco", "images": images}).to_string();
    let dir = folder(&[("d.json", &text), ("val2014/391895.jpg", "6")]);
    let spec = |split: &str| format!("karpathy:annotations=@/d.json&images=@&split={split}");
    let dataset = open(&dir, &spec("test"));
    let all = fields(dataset.as_ref());
    let first =
        json!({"image_id": 391895, "file_name": "val2014/391895.jpg", "captions": ["raw 391895"]});
    assert_eq!((all.len(), &all[0], &all[1]["image_id"]), (2, &first, &json!(9)));
    assert_eq!(width(dataset.as_ref(), 0), 6);
    let both: Vec<_> = fields(open(&dir, &spec("train,restval")).as_ref());
    assert_eq!([&both[0]["image_id"], &both[1]["image_id"]], [60623, 8]);
    assert!(error(&dir, &spec("val")).contains("no image of split val"));
    assert!(error(&dir, &spec("tset")).contains("unknown split \"tset\", the nearest is \"test\""));

    let flickr = json!({"images": [{"sentids": [0], "imgid": 3, "split": "test",
        "filename": "1000092795.jpg", "sentences": [{"raw": "Two men."}, {"raw": "Men"}]}]});
    let write = |value: Value| fs::write(dir.path().join("d.json"), value.to_string()).unwrap();
    write(flickr.clone());
    let one =
        json!({"image_id": 3, "file_name": "1000092795.jpg", "captions": ["Two men.", "Men"]});
    assert_eq!(fields(open(&dir, &spec("test")).as_ref()), [one]);
    let mut broken = flickr;
    broken["images"][0]["split"] = json!("tst");
    write(broken);
    assert!(error(&dir, &spec("test")).contains("images[0].split: unknown variant `tst`"));
}

#[test]
fn geneval_prompts_keep_their_metadata_and_need_no_images() {
    let line = json!({"tag": "counting", "include": [{"class": "orange", "count": 3}],
        "exclude": [{"class": "orange", "count": 4}], "prompt": "a photo of three oranges"});
    let placed = json!({"tag": "position", "include": [{"class": "sink", "count": 1},
        {"class": "tie", "count": 1, "position": ["above", 0]}], "prompt": "a tie above a sink"});
    let dir = folder(&[("p.jsonl", &format!("{line}\n{placed}\n"))]);
    let dataset = open(&dir, "geneval:prompts=@/p.jsonl");
    let sample = dataset.get(1).unwrap();
    let expected = json!({"prompt": "a tie above a sink", "tag": "position", "metadata": placed});
    assert_eq!(Value::from(sample.fields), expected);
    assert!(sample.images.is_empty() && sample.source.ends_with("p.jsonl: line 2"));
    assert_eq!(dataset.fields(0).unwrap()["metadata"], line);
    let broken = placed.to_string().replacen("class", "klass", 1);
    fs::write(dir.path().join("p.jsonl"), format!("{line}\n{broken}")).unwrap();
    let message = error(&dir, "geneval:prompts=@/p.jsonl");
    assert!(
        message.contains("line 2 column") && message.contains("include[0].class: missing field"),
        "{message}"
    );
}

#[test]
fn wrong_specs_and_places_are_refused() {
    let dir = vqa(QUESTIONS, &annotations(&three()));
    for (spec, words) in [
        ("vqav2:questions=@/q.json&image=@", "unknown key \"image\", the nearest is \"images\""),
        ("vqav2:questions=@/q.json", "key \"images\" is missing"),
        ("vqav3:questions=@/q.json", "unknown kind \"vqav3\", the nearest is \"vqav2\""),
        ("vqav2:questions=@/none.json&images=@", "none.json: No such file"),
        ("vqav2:questions=@&images=@", "not a regular file"),
        ("vqav2:questions=@/q.json&images=@/none", "none: No such file"),
        ("vqav2:questions=@/q.json&images=@/q.json", "must be a directory"),
    ] {
        let message = error(&dir, spec);
        assert!(message.contains(words), "{words}: {message}");
    }
}
