//! Damaged copies of real files: no reader panics on them.
//!
//! `PROPTEST_CASES=1000000` and a filter make a long run of it.

use std::fs;
use std::path::Path;

use calumma::data;
use proptest::prelude::*;

use super::{RED, png, tar};

/// A change of a file's bytes; positions are shares of its length.
#[derive(Clone, Debug)]
enum Change {
    Set(f64, u8),
    Cut(f64),
    Remove(f64, usize),
    Repeat(f64, usize),
    Insert(f64, Vec<u8>),
}

fn change() -> impl Strategy<Value = Change> {
    let at = 0.0..1.0f64;
    let word = prop_oneof![
        prop::collection::vec(any::<u8>(), 1..5),
        prop::sample::select(vec![
            "<image>",
            "null",
            "NaN",
            "[",
            "]",
            "{",
            "}",
            "\"",
            ",",
            "\n",
            "\u{FEFF}",
            "\\u",
            "1e999",
            "../",
            "file_names",
            "\"type\": \"image\"",
            "data:image/png;base64,",
            "000000777777",
            "\0\0\0\0",
        ])
        .prop_map(|word| word.as_bytes().to_vec()),
    ];
    prop_oneof![
        (at.clone(), any::<u8>()).prop_map(|(at, byte)| Change::Set(at, byte)),
        at.clone().prop_map(Change::Cut),
        (at.clone(), 1..600usize).prop_map(|(at, len)| Change::Remove(at, len)),
        (at.clone(), 1..600usize).prop_map(|(at, len)| Change::Repeat(at, len)),
        (at, word).prop_map(|(at, word)| Change::Insert(at, word)),
    ]
}

fn apply(bytes: &mut Vec<u8>, change: Change) {
    let place = |at: f64| (at * bytes.len() as f64) as usize;
    match change {
        Change::Set(at, byte) => {
            let at = place(at);
            bytes.iter_mut().skip(at).take(1).for_each(|b| *b = byte);
        }
        Change::Cut(at) => bytes.truncate(place(at)),
        Change::Remove(at, len) => {
            let at = place(at);
            drop(bytes.drain(at..(at + len).min(bytes.len())));
        }
        Change::Repeat(at, len) => {
            let at = place(at);
            let copy = bytes[at..(at + len).min(bytes.len())].to_vec();
            drop(bytes.splice(at..at, copy));
        }
        Change::Insert(at, word) => {
            let at = place(at);
            drop(bytes.splice(at..at, word));
        }
    }
}

const LINES: &str = r#"{"messages":[{"role":"user","content":"<image>what?"},{"role":"assistant","content":"red"}],"images":["a.png"]}
{"conversations":[{"from":"human","value":"<image>\nwhat?"},{"from":"gpt","value":"red"}],"image":"a.png"}
{"messages":[{"role":"user","content":[{"type":"image_url","image_url":{"url":"data:image/png;base64,iVBORw0KGgo="}},{"type":"text","text":"x"}]}]}
{"segments":[{"type":"image","path":"a.png"},{"type":"text","text":"x"}],"score":NaN,"messages":null}
{"instruction":"<image>a","input":"b","output":"c","images":["a.png"],"history":[["<image>","d"]]}
{"prompt":[{"role":"user","content":"<image>q"}],"chosen":[{"role":"assistant","content":"a"}],"rejected":"b","images":["a.png"]}
{"messages":[{"role":"user","content":"q"},{"role":"assistant","content":"a"}],"rejected_response":"b","rejected_images":[]}
{"prompt":"q","better_image":"a.png","worse_image":"a.png","kto_tag":true,"completion":"x"}
"#;

const TABLE: &str = "file_name,n,text,yes\na.png,1,\"x, \"\"y\"\"\nz\",True\na.png,,NA,\n";

fn archive() -> Vec<u8> {
    let file = tempfile::NamedTempFile::new().unwrap();
    let image = png(2, 2, RED);
    let long = format!("{}/c.txt", "long".repeat(30));
    tar(
        file.path(),
        &[
            ("a.png", &image),
            ("a.json", b"{\"x\": [NaN], \"conversations\": [{\"value\": \"<image>a\"}]}"),
            ("b.left.png", &image),
            ("b.cls", b"3"),
            ("b.npy", b"x"),
            (&long, b"text"),
        ],
    );
    fs::read(file.path()).unwrap()
}

/// Reads all that the data set at `path` holds.
fn read_all(path: &Path) {
    let Ok(dataset) = data::open(path.to_str().unwrap()) else { return };
    for index in 0..dataset.len() {
        let (fields, sample) = (dataset.fields(index), dataset.get(index));
        assert!(sample.is_err() || fields.is_ok(), "{path:?}: fields of a good sample");
    }
    let _ = dataset.unused();
}

fn cases() -> u32 {
    std::env::var("PROPTEST_CASES").ok().and_then(|n| n.parse().ok()).unwrap_or(200)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: cases(), ..ProptestConfig::default() })]

    #[test]
    fn no_damaged_file_makes_a_reader_panic(
        changes in prop::collection::vec(change(), 1..5),
        kind in 0..5usize,
    ) {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join("a.png"), png(2, 2, RED)).unwrap();
        let list = format!("[{}]", LINES.trim().replace('\n', ","));
        let (name, mut bytes) = match kind {
            0 => ("a.tar", archive()),
            1 => ("a.jsonl", LINES.into()),
            2 => ("a.json", list.into()),
            3 => ("metadata.jsonl", LINES.replace("\"score\"", "\"file_name\"").into()),
            _ => ("metadata.csv", TABLE.into()),
        };
        changes.into_iter().for_each(|change| apply(&mut bytes, change));
        let path = dir.path().join(name);
        fs::write(&path, bytes).unwrap();
        read_all(if kind < 3 { &path } else { dir.path() });
    }
}
