//! COCO captions, Karpathy's splits and GenEval.

use std::fs;

use serde_json::{Value, json};
use tempfile::TempDir;

use super::{error, fields, folder, open, width};

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
fn coco_captions_are_grouped_by_image() {
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
        (json!([a, b, caption(5, 7, "x")]), "annotation 7 is about image 5, which does not exist"),
        (json!([a, b, a]), "annotations[2].id: 1 was already in annotations[0].id"),
        (json!([a, c]), "image 9 has no caption"),
        (json!([a, {"image_id": 9, "id": 2}]), "annotations[1].caption: missing field"),
    ] {
        let message = error(&coco(&list), spec);
        assert!(message.contains("a.json: ") && message.contains(words), "{words}: {message}");
    }
}

#[test]
fn karpathy_splits_are_selected_by_name() {
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
fn geneval_prompts_have_metadata_and_no_images() {
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
