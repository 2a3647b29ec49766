//! Image folders: metadata below the directory, splits, labels, links.

use std::fs;
use std::path::Path;

use calumma::data::Dataset;
use serde_json::json;

use super::{RED, open, open_error, png, samples};

/// Writes files; those that end in `.png` become images of the given width.
fn write(dir: &Path, files: &[(&str, &str)]) {
    for (name, content) in files {
        let path = dir.join(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        match content.parse::<u32>() {
            Ok(width) => fs::write(&path, png(width, 1, RED)).unwrap(),
            Err(_) => fs::write(&path, content).unwrap(),
        }
    }
}

fn widths(dataset: &dyn Dataset) -> Vec<Vec<u32>> {
    let of = |sample: &calumma::data::Sample| sample.images.iter().map(|i| i.width()).collect();
    samples(dataset).iter().map(of).collect()
}

#[test]
fn metadata_is_relative_to_its_own_directory() {
    let dir = tempfile::tempdir().unwrap();
    write(
        dir.path(),
        &[
            (
                "metadata.jsonl",
                r#"{"file_name": "b/1.png", "right_file_name": "2.png", "left_file_name": "b/1.png"}"#,
            ),
            ("b/metadata.jsonl", "{\"file_names\": [\"1.png\", \"c/3.png\"]}\n"),
            ("b/1.png", "1"),
            ("b/c/3.png", "3"),
            ("2.png", "2"),
            ("b/metadata.csv", "file_name\n1.png\n"),
            ("val/metadata.jsonl", "{\"file_name\": \"4.png\"}"),
            ("val/4.png", "4"),
        ],
    );
    let dataset = open(dir.path());
    assert_eq!(widths(dataset.as_ref()), [vec![1, 2, 1], vec![1, 3]]);
    let found = samples(dataset.as_ref());
    assert!(found[1].source.contains("b/metadata.jsonl: line 1"), "{}", found[1].source);
    let unused = dataset.unused();
    let told = |name: &str, words: &str| {
        unused.iter().any(|u| u.what.ends_with(name) && u.count == 1 && u.reason.contains(words))
    };
    assert!(told("b/metadata.csv", "metadata.jsonl"), "{unused:?}");
    assert!(told("val/metadata.jsonl", "split validation"), "{unused:?}");
    assert!(told("val/4.png", "no row"), "{unused:?}");
}

#[test]
fn several_splits_are_not_one_data_set() {
    let line = r#"{"file_name": "1.png"}"#;
    let with_metadata = [
        ("train/metadata.jsonl", line),
        ("train/1.png", "1"),
        ("test/metadata.jsonl", line),
        ("test/1.png", "1"),
    ];
    for files in [&with_metadata[..], &[("train/cat/1.png", "1"), ("test/cat/1.png", "1")]] {
        let dir = tempfile::tempdir().unwrap();
        write(dir.path(), files);
        let at = dir.path().to_str().unwrap();
        let message = open_error(at);
        assert!(message.contains("holds the splits test, train; name"), "{message}");
        assert_eq!(open(&dir.path().join("train")).len(), 1);
        assert_eq!(calumma::data::open(&format!("{at}/{{train,test}}")).unwrap().len(), 2);
    }
}

#[test]
fn names_of_directories_are_labels_if_there_are_several_at_one_depth() {
    let labels = |files: &[(&str, &str)]| {
        let dir = tempfile::tempdir().unwrap();
        write(dir.path(), files);
        let dataset = open(dir.path());
        let of = |index| dataset.fields(index).unwrap().get("label").cloned().unwrap_or_default();
        (0..dataset.len()).map(of).collect::<Vec<_>>()
    };
    let two = [("train/cat/1.png", "1"), ("train/dog/2.png", "2"), ("train/cat/3.PNG", "x")];
    assert_eq!(labels(&two), [json!("cat"), json!("cat"), json!("dog")]);
    assert_eq!(labels(&[("cat/1.png", "1"), ("2.png", "2")]), [json!(null), json!(null)]);
    assert_eq!(labels(&[("1.png", "1"), ("2.png", "2")]), [json!(null), json!(null)]);
}

#[test]
fn images_of_class_folders_that_cannot_be_read_are_bad_samples() {
    let dir = tempfile::tempdir().unwrap();
    write(
        dir.path(),
        &[("a/1.png", "1"), ("b/2.png", "no image"), ("b/3.gif", "GIF89a"), ("b/x.zip", "x")],
    );
    #[cfg(unix)]
    {
        std::os::unix::fs::symlink("nowhere.png", dir.path().join("a/gone.png")).unwrap();
        std::os::unix::fs::symlink("..", dir.path().join("a/up")).unwrap();
    }
    let dataset = open(dir.path());
    let bad: Vec<_> = (0..dataset.len()).filter_map(|n| dataset.get(n).err()).collect();
    let bad: Vec<_> = bad.iter().map(ToString::to_string).collect();
    let expected = if cfg!(unix) { 3 } else { 2 };
    assert_eq!((dataset.len(), bad.len()), (expected + 1, expected), "{bad:?}");
    assert!(bad.iter().any(|message| message.contains("b/3.gif")), "{bad:?}");
    let unused = dataset.unused();
    let ends: &[&str] = if cfg!(unix) { &["x.zip", "a/up"] } else { &["x.zip"] };
    assert_eq!(unused.len(), ends.len(), "{unused:?}");
    assert!(unused.iter().zip(ends).all(|(one, end)| one.what.ends_with(end)), "{unused:?}");
}

#[test]
fn rows_of_csv_are_counted_like_lines() {
    let dir = tempfile::tempdir().unwrap();
    let text =
        "file_name,caption,score\n1.png,\"a, b\",1\ngone.png,c,\n1.png,d,2,3\n../1.png,e,4\n,f,5\n";
    write(dir.path(), &[("metadata.csv", text), ("1.png", "1")]);
    let dataset = open(dir.path());
    let first = dataset.get(0).unwrap().fields;
    assert_eq!((&first["caption"], &first["score"]), (&json!("a, b"), &json!(1.0)));
    for (index, words) in [
        (1, "line 3: image"),
        (2, "line 4: has 4 cells; the header names 3"),
        (3, "line 5: column file_name: "),
        (4, "line 6: there is no string file_name"),
    ] {
        let message = dataset.get(index).unwrap_err().to_string();
        assert!(message.contains("metadata.csv: ") && message.contains(words), "{message}");
    }
    fs::write(dir.path().join("metadata.csv"), "file;caption\n1.png;x\n").unwrap();
    let message = open_error(dir.path().to_str().unwrap());
    assert!(message.contains("its columns are file;caption"), "{message}");
}

#[test]
fn marks_in_conversations_stand_for_the_images_of_the_row() {
    let dir = tempfile::tempdir().unwrap();
    let row = |question: &str| {
        let turns =
            json!([{ "from": "human", "value": question }, { "from": "gpt", "value": "x" }]);
        json!({ "file_name": "1.png", "conversations": turns }).to_string()
    };
    let rows = [row("<image>\nWhat?"), row("<image><image>"), row("Why?")].join("\n");
    write(dir.path(), &[("metadata.jsonl", rows.as_str()), ("1.png", "1")]);
    let dataset = open(dir.path());
    let sample = dataset.get(0).unwrap();
    let question = json!([{ "type": "image" }, { "type": "text", "text": "\nWhat?" }]);
    assert_eq!(sample.fields["conversations"][0]["value"], question);
    assert_eq!((dataset.fields(0).unwrap(), sample.images.len()), (sample.fields, 1));
    for result in [dataset.get(1).map(drop), dataset.fields(1).map(drop)] {
        let message = result.unwrap_err().to_string();
        let words = "metadata.jsonl: line 2: conversations: 2 <image> marks";
        assert!(message.contains(words), "{message}");
    }
    assert_eq!(dataset.fields(2).unwrap()["conversations"][0]["value"], "Why?");
    assert_eq!(dataset.image_keys(1).unwrap(), dataset.image_keys(0).unwrap());
}
