//! Readers against the Python packages `datasets`, `webdataset` and `safetensors`, if `tests/peers.sh` has
//! installed them.

use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::Command;

use calumma::data;
use safetensors::Dtype;
use serde_json::{Value, json};
use sha2::{Digest, Sha256};
use tempfile::TempDir;
use tensor_files::WeightFiles;

use super::{RED, png, tar};

/// What the packages read from the files at the paths of `jobs`, with the kind for `tests/data_peer.py`: a
/// list of samples or the text of an error for each. `None`, said loudly, without the packages.
pub(super) fn python(jobs: &[(&str, PathBuf)]) -> Option<Vec<Value>> {
    let Some(python) = std::env::var_os("CALUMMA_DATA_PEER_PYTHON") else {
        let message =
            "SKIPPED: no datasets, webdataset and safetensors; tests/peers.sh installs them\n";
        std::io::stderr().write_all(message.as_bytes()).unwrap();
        return None;
    };
    let home = tempfile::tempdir().unwrap();
    let list = home.path().join("jobs.json");
    let jobs: Vec<_> =
        jobs.iter().map(|(kind, path)| json!({ "kind": kind, "path": path })).collect();
    fs::write(&list, Value::from(jobs).to_string()).unwrap();
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data_peer.py");
    let run = Command::new(python).arg(script).arg(&list).env("HF_HOME", home.path()).output();
    let output = run.unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    Some(serde_json::from_slice(&output.stdout).unwrap())
}

/// What this project reads from `path`, in the form of `tests/data_peer.py`; bad samples are texts.
pub(super) fn ours(path: &Path) -> Vec<Value> {
    let dataset = data::open(path.to_str().unwrap()).unwrap_or_else(|e| panic!("{e}"));
    let sample = |index| {
        let sample = match dataset.get(index) {
            Ok(sample) => sample,
            Err(error) => return error.to_string().into(),
        };
        let images = sample.images.iter().map(|image| {
            let digest = Sha256::digest(image.as_raw());
            let digest: String = digest.iter().map(|byte| format!("{byte:02x}")).collect();
            json!([image.width(), image.height(), digest])
        });
        json!({ "fields": sample.fields, "images": images.collect::<Vec<_>>() })
    };
    (0..dataset.len()).map(sample).collect()
}

/// Asserts that both read the same: numbers by value, a null as if it were absent.
pub(super) fn assert_same(ours: &Value, theirs: &Value, what: &str) {
    assert_eq!(normal(ours), normal(theirs), "{what}: ours, and that of the package");
}

/// `value` with numbers as floats, and without nulls and the names of image files, which `datasets`
/// replaces by the images.
fn normal(value: &Value) -> Value {
    let is_name = |key: &str| key.ends_with("file_name") || key.ends_with("file_names");
    match value {
        Value::Number(number) => number.as_f64().into(),
        Value::Array(list) => list.iter().map(normal).collect(),
        Value::Object(fields) => {
            let kept = fields.iter().filter(|(key, value)| !is_name(key) && !value.is_null());
            Value::Object(kept.map(|(key, value)| (key.clone(), normal(value))).collect())
        }
        other => other.clone(),
    }
}

/// A directory of files; `png` as the content stands for an image, whose width is that of the name.
fn folder(files: &[(&str, &str)]) -> TempDir {
    let dir = tempfile::tempdir().unwrap();
    for (name, content) in files {
        let path = dir.path().join(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        let image = png(name.len() as u32, 2, RED);
        fs::write(&path, if *content == "png" { &image } else { content.as_bytes() }).unwrap();
    }
    dir
}

#[test]
fn peers_read_the_same_image_folders() {
    let folders = [
        folder(&[
            ("a.png", "png"),
            ("sub/bb.png", "png"),
            (
                "metadata.csv",
                "\u{FEFF}file_name,text,n,x,yes\r\na.png,\"red, \"\"and\"\"\nblue\",1,,True\r\n\r\nsub/bb.png,NA,2,0.5,\r\n",
            ),
        ]),
        folder(&[
            ("a.png", "png"),
            ("bb.png", "png"),
            ("unnamed.png", "png"),
            (".hidden/metadata.jsonl", "{}"),
            (
                "metadata.jsonl",
                "\u{FEFF}{\"right_file_name\":\"a.png\",\"n\":NaN,\"left_file_name\":\"bb.png\"}\r\n\r\n{\"right_file_name\":\"bb.png\",\"n\":1.5,\"left_file_name\":null}\r\n",
            ),
        ]),
        folder(&[
            ("a.png", "png"),
            ("bb.png", "png"),
            (
                "metadata.jsonl",
                "{\"file_names\":[\"bb.png\",\"a.png\"],\"words\":[\"x\"]}\n{\"file_names\":[\"./a.png\"],\"words\":[]}\n",
            ),
        ]),
        folder(&[
            ("one/a.png", "png"),
            ("one/metadata.jsonl", "{\"file_name\":\"a.png\",\"text\":\"x\"}"),
            ("two/deep/bb.png", "png"),
            ("two/metadata.jsonl", "{\"file_name\":\"deep/bb.png\",\"text\":\"y\"}"),
        ]),
        folder(&[
            ("cat/a.png", "png"),
            ("dog/bb.png", "png"),
            ("cat/.c.png", "x"),
            ("cat/notes.txt", "x"),
        ]),
        folder(&[("a.png", "png"), ("bb.png", "png")]),
        folder(&[("cat/a.png", "png"), ("bb.png", "png")]),
    ];
    let jobs: Vec<_> = folders.iter().map(|dir| ("imagefolder", dir.path().to_owned())).collect();
    let Some(theirs) = python(&jobs) else { return };
    for ((_, path), theirs) in jobs.iter().zip(theirs) {
        let mut ours = ours(path);
        ours.retain(|s| !s.as_str().is_some_and(|text| text.contains("no string file_name")));
        let names: Vec<_> = fs::read_dir(path).unwrap().map(|e| e.unwrap().file_name()).collect();
        // datasets takes several files of metadata in no particular order.
        let sorted = |samples: Vec<Value>| {
            let mut texts: Vec<String> = samples.iter().map(|s| normal(s).to_string()).collect();
            texts.sort();
            texts
        };
        let theirs = rows_with_images(&theirs);
        assert_eq!(sorted(ours), sorted(theirs), "{names:?}: ours, and those of the package");
    }
}

/// Without rows that name no image, which are bad samples here and samples without image there.
fn rows_with_images(samples: &Value) -> Vec<Value> {
    let samples = samples.as_array().unwrap_or_else(|| panic!("{samples}"));
    samples.iter().filter(|sample| sample["images"] != json!([])).cloned().collect()
}

#[test]
fn peers_read_the_same_archives() {
    let dir = tempfile::tempdir().unwrap();
    let (small, large) = (png(2, 2, RED), png(4, 2, [0, 0, 255]));
    let archives: [&[(&str, &[u8])]; 4] = [
        &[("a.png", &small), ("a.cls", b" 7\n"), ("b.png", &large), ("b.cls", b"-1")],
        &[
            ("22.05.png", &small),
            ("22.05.txt", b"x"),
            ("22.left.JPG.png", &large),
            ("README", b"x"),
        ],
        &[
            ("d/a.json", b"{\"x\": [1, NaN]}"),
            ("d/a.meta.json", b"[2]"),
            ("d/a.transcript", b"t"),
            ("__m__/a.txt", b"y"),
        ],
        &[("a.png", &small), ("b.txt", b"1"), ("a.txt", b"2"), ("a.index", b"3")],
    ];
    let path = |n: usize| dir.path().join(format!("{n}.tar"));
    archives.iter().enumerate().for_each(|(n, members)| tar(&path(n), members));
    let jobs: Vec<_> = (0..archives.len()).map(|n| ("webdataset", path(n))).collect();
    let Some(theirs) = python(&jobs) else { return };
    for ((_, path), mut theirs) in jobs.iter().zip(theirs) {
        let mut ours = ours(path);
        // Here the keys of the .json member are fields; long endings of images are listed.
        for sample in theirs.as_array_mut().unwrap() {
            let fields = sample["fields"].as_object_mut().unwrap();
            if let Some(Value::Object(object)) = fields.remove("json") {
                fields.extend(object);
            }
        }
        for sample in &mut ours {
            sample["fields"].as_object_mut().unwrap().remove("__images__");
        }
        assert_same(&ours.into(), &theirs, &path.display().to_string());
    }
}

#[test]
fn peers_read_the_same_json() {
    let dir = tempfile::tempdir().unwrap();
    let files = [
        ("bom.jsonl", "\u{FEFF}{\"a\":\"x\"}\r\n\r\n{\"a\":\"y\"}\r\n"),
        (
            "nan.jsonl",
            "{\"a\":\"NaN\",\"n\":NaN}\n{\"a\":\"[Infinity, \",\"n\":-Infinity}\n{\"a\":null,\"n\":0.5}",
        ),
        ("nulls.jsonl", "{\"segments\":null,\"text\":\"x\"}\n{\"segments\":[],\"text\":null}\n"),
        ("list.json", " [\n{\"a\":1},\n{\"a\":2,\"b\":{\"c\":[\"]\"]}}\n]\n"),
    ];
    let jobs = files.map(|(name, text)| {
        fs::write(dir.path().join(name), text).unwrap();
        ("json", dir.path().join(name))
    });
    let Some(theirs) = python(&jobs) else { return };
    for ((_, path), theirs) in jobs.iter().zip(theirs) {
        assert_same(&ours(path).into(), &theirs, &path.display().to_string());
    }
}

#[test]
fn peers_read_the_same_weights() {
    let files = [
        "models/prenorm-gqa/model.safetensors",
        "models/swin-gqa-mp2-bf16/expected.safetensors",
        "vqgan/decoder.safetensors",
    ];
    let fixtures = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures");
    let jobs = files.map(|name| ("safetensors", fixtures.join(name)));
    let Some(theirs) = python(&jobs) else { return };
    for ((_, path), theirs) in jobs.iter().zip(theirs) {
        let file = WeightFiles::open(path).unwrap();
        let tensor = |(name, dtype, shape): (&str, Dtype, &[usize])| {
            let digest = Sha256::digest(&file.stored(name).unwrap().bytes);
            let digest: String = digest.iter().map(|byte| format!("{byte:02x}")).collect();
            json!([name, format!("{dtype:?}"), shape, digest])
        };
        let ours: Vec<Value> = file.tensors().map(tensor).collect();
        assert!(!ours.is_empty());
        assert_eq!(Value::from(ours), theirs, "{}", path.display());
    }
}
