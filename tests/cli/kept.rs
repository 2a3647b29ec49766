//! Codes, shards and responses kept from earlier runs: only what is new or has changed is computed.

use std::path::{Path, PathBuf};

use serde_json::{Value, json};

use super::{calumma_in, tiny};
use crate::data::{parquet, png, tar};

const RED: [u8; 3] = [200, 30, 30];
const GREEN: [u8; 3] = [30, 200, 30];
const BLUE: [u8; 3] = [30, 30, 200];
const WHITE: [u8; 3] = [255; 3];

/// Samples by the name of their image, with its colour; `None` if the image is missing.
type Samples<'a> = &'a [(&'a str, Option<[u8; 3]>)];

fn file(colour: [u8; 3]) -> Vec<u8> {
    png(32, 32, colour)
}

/// Makes the image files below `dir` those of `samples`.
fn write_images(dir: &Path, samples: Samples<'_>) {
    if dir.exists() {
        std::fs::remove_dir_all(dir).unwrap();
    }
    std::fs::create_dir_all(dir).unwrap();
    for (name, colour) in samples {
        if let Some(colour) = colour {
            std::fs::write(dir.join(name), file(*colour)).unwrap();
        }
    }
}

/// Writes one line per sample.
fn write_lines(path: &Path, samples: Samples<'_>, line: impl Fn(&str) -> Value) {
    let lines: String = samples.iter().map(|(name, _)| format!("{}\n", line(name))).collect();
    std::fs::write(path, lines).unwrap();
}

fn jsonl(dir: &Path, samples: Samples<'_>) {
    write_images(&dir.join("i"), samples);
    let line = |name: &str| json!({ "image": format!("i/{name}") });
    write_lines(&dir.join("d.jsonl"), samples, line);
}

fn segments(dir: &Path, samples: Samples<'_>) {
    write_images(&dir.join("i"), samples);
    let line =
        |name: &str| json!({ "segments": [{ "type": "image", "path": format!("i/{name}") }] });
    write_lines(&dir.join("d.jsonl"), samples, line);
}

fn folder(dir: &Path, samples: Samples<'_>) {
    write_images(&dir.join("f"), samples);
    write_lines(&dir.join("f/metadata.jsonl"), samples, |name| json!({ "file_name": name }));
}

fn archive(dir: &Path, samples: Samples<'_>) {
    let mut members = Vec::new();
    for (name, colour) in samples {
        let key = name.trim_end_matches(".png");
        members.push((format!("{key}.txt"), b"text".to_vec()));
        members.extend(colour.map(|colour| (format!("{key}.png"), file(colour))));
    }
    let members: Vec<(&str, &[u8])> =
        members.iter().map(|(name, bytes)| (name.as_str(), bytes.as_slice())).collect();
    tar(&dir.join("a.tar"), &members);
}

fn parquet_paths(dir: &Path, samples: Samples<'_>) {
    write_images(&dir.join("i"), samples);
    let paths: Vec<String> = samples.iter().map(|(name, _)| format!("i/{name}")).collect();
    let paths: Vec<Option<&str>> = paths.iter().map(|path| Some(path.as_str())).collect();
    parquet(&dir.join("p.parquet"), &vec![None; samples.len()], &paths);
}

fn parquet_bytes(dir: &Path, samples: Samples<'_>) {
    let images: Vec<_> = samples.iter().map(|(_, colour)| colour.map(file)).collect();
    parquet(&dir.join("b.parquet"), &images, &vec![None; samples.len()]);
}

fn karpathy(dir: &Path, samples: Samples<'_>) {
    write_images(&dir.join("i"), samples);
    let images: Vec<Value> = (1..)
        .zip(samples)
        .map(|(id, (name, _))| {
            json!({ "imgid": id, "filename": name, "split": "test",
                    "sentences": [{ "raw": "a circle" }] })
        })
        .collect();
    std::fs::write(dir.join("k.json"), json!({ "images": images }).to_string()).unwrap();
}

/// Writes a data set of samples into a directory.
type Write = fn(&Path, Samples<'_>);

/// The readers, each with the spec of what it writes.
const READERS: [(&str, Write); 7] = [
    ("d.jsonl", jsonl),
    ("./d.jsonl", segments),
    ("f", folder),
    ("a.tar", archive),
    ("p.parquet", parquet_paths),
    ("b.parquet", parquet_bytes),
    ("karpathy:annotations=k.json&images=i&split=test", karpathy),
];

fn tokenize(dir: &Path, spec: &str) -> Value {
    let template = if spec.starts_with("./") { "{segments}" } else { "x<image>" };
    let recipe = format!(
        "[run]\nname = \"r\"\n[tokenizer]\ncheckpoint = {:?}\n\
         [[data]]\npath = {spec:?}\nmax_bad = 1.0\ntemplates = [{template:?}]\n",
        tiny()
    );
    std::fs::write(dir.join("t.toml"), recipe).unwrap();
    calumma_in(dir, &["tokenize", "t.toml", "--json"]).json().remove(0)
}

#[test]
fn only_new_and_changed_images_are_encoded_whatever_holds_them() {
    let (a, b, c) = ("a.png", "b.png", "c.png");
    let first = [(a, Some(RED)), (b, Some(BLUE)), (c, None)];
    let late = [(a, Some(RED)), (b, Some(BLUE)), (c, Some(GREEN))];
    let changed = [(a, Some(WHITE)), (b, Some(BLUE)), (c, Some(GREEN))];
    let renamed = [("z.png", Some(WHITE)), (b, Some(BLUE)), ("y.png", Some(GREEN))];
    let removed = [("z.png", Some(WHITE)), (b, None), ("y.png", Some(GREEN))];
    let doubled = [(a, Some(GREEN)), (b, Some(GREEN)), (c, Some(RED))];
    for (spec, write) in READERS {
        let dir = tempfile::tempdir().unwrap();
        let dir = dir.path();
        for (state, samples, encoded, documents) in [
            ("first", &first, 2, 2),
            ("again", &first, 0, 2),
            ("late", &late, 1, 3),
            ("changed", &changed, 1, 3),
            ("touched", &changed, 0, 3),
            ("renamed", &renamed, 0, 3),
            ("removed", &removed, 0, 2),
            ("back", &renamed, 0, 3),
            ("known images in other places", &doubled, 0, 3),
        ] {
            write(dir, samples);
            let told = tokenize(dir, spec);
            let found = (&told["encoded"], &told["documents"]);
            assert_eq!(found, (&json!(encoded), &json!(documents)), "{spec}, {state}: {told}");
            // No field of the Parquet files names the image.
            let is_kept = matches!(state, "again" | "touched")
                || (state == "renamed" && spec.ends_with(".parquet"));
            assert_eq!(told["kept"], json!(usize::from(is_kept)), "{spec}, {state}: {told}");
        }
    }
}

#[test]
fn a_run_encodes_an_image_of_several_samples_once() {
    let dir = tempfile::tempdir().unwrap();
    let samples: Vec<_> = (0..100).map(|_| ("a.png", Some(RED))).collect();
    jsonl(dir.path(), &samples);
    let told = tokenize(dir.path(), "d.jsonl");
    assert_eq!((&told["encoded"], &told["documents"]), (&json!(1), &json!(100)));
}

/// The file of codes kept below `dir`.
fn codes_file(dir: &Path) -> PathBuf {
    let entries = std::fs::read_dir(dir.join("codes")).unwrap().map(|entry| entry.unwrap().path());
    let named = |path: &PathBuf| path.file_name().unwrap().to_str().unwrap().starts_with("codes-");
    let mut files: Vec<PathBuf> = entries.filter(named).collect();
    assert_eq!(files.len(), 1);
    files.remove(0)
}

/// The number of codes kept below `dir`.
fn kept_codes(dir: &Path) -> usize {
    std::fs::read_to_string(codes_file(dir)).unwrap().lines().count()
}

#[test]
fn training_data_are_read_anew_and_survive_a_torn_file_of_codes() {
    let dir = tempfile::tempdir().unwrap();
    let dir = dir.path();
    let loss = || {
        let args = ["eval", "loss", tiny(), "d.jsonl", "--out", "o", "--template", "x<image>"];
        let told = calumma_in(dir, &[&args[..], &["--json"]].concat()).json().remove(0);
        (told["scores"]["loss"]["n"].as_u64().unwrap(), kept_codes(&dir.join("o")))
    };
    let many = |colour: [u8; 3]| -> Vec<(String, [u8; 3])> {
        (0..40).map(|n| (format!("{n}.png"), [colour[0], colour[1], n])).collect()
    };
    let write = |images: &[(String, [u8; 3])]| {
        let samples: Vec<_> = images.iter().map(|(name, c)| (name.as_str(), Some(*c))).collect();
        jsonl(dir, &samples);
    };
    let mut images = many(RED);
    write(&images);
    let (tokens, kept) = loss();
    assert_eq!(kept, 40);
    assert_eq!(loss(), (tokens, 40));
    images[7].1 = WHITE;
    write(&images);
    assert_eq!(loss(), (tokens, 41));

    // Killed while codes were written: the torn line is encoded again, the others are not.
    let codes = codes_file(&dir.join("o"));
    let whole = std::fs::read_to_string(&codes).unwrap();
    std::fs::write(&codes, &whole[..whole.len() - 9]).unwrap();
    assert_eq!(loss(), (tokens, 42), "a torn line and a whole one");
    assert_eq!(loss(), (tokens, 42));
}

#[test]
fn only_changed_samples_are_asked_again() {
    let dir = tempfile::tempdir().unwrap();
    let dir = dir.path();
    let recipe = format!(
        "[run]\nname = \"r\"\ncheckpoint = {:?}\n[[task]]\nname = \"j\"\nmeasure = \"captioning\"\n\
         data = \"d.jsonl\"\ngeneration = {{ max_new_tokens = 3 }}\n",
        tiny()
    );
    std::fs::write(dir.join("e.toml"), recipe).unwrap();
    let write = |samples: Samples<'_>| {
        write_images(&dir.join("i"), samples);
        let line = |name: &str| json!({ "image": format!("i/{name}"), "caption": "a circle" });
        write_lines(&dir.join("d.jsonl"), samples, line);
    };
    let run = || {
        let outcome = calumma_in(dir, &["eval", "run", "e.toml"]);
        assert_eq!(outcome.code, 0, "{}", outcome.stderr);
        let text = std::fs::read_to_string(dir.join("results/r/j/responses.jsonl")).unwrap();
        (outcome.stdout.contains("measured before"), text.lines().count() - 1)
    };
    let first = [("a.png", Some(RED)), ("b.png", Some(BLUE)), ("c.png", Some(GREEN))];
    write(&first);
    assert_eq!(run(), (false, 3));
    assert_eq!(run(), (true, 3));
    write(&first);
    assert_eq!(run(), (true, 3), "touched");
    let changed = [("a.png", Some(RED)), ("b.png", Some(WHITE)), ("c.png", Some(GREEN))];
    write(&changed);
    assert_eq!(run(), (false, 4), "one more response, which replaces an earlier one");
    assert_eq!(run(), (true, 4));
    let more = [changed[0], changed[1], changed[2], ("d.png", Some(BLUE))];
    write(&more);
    assert_eq!(run(), (false, 4), "three and a new one");
}

#[test]
#[cfg(target_os = "linux")]
fn file_names_that_are_no_text_keep_nothing_from_working() {
    use std::ffi::OsStr;
    use std::os::unix::ffi::OsStrExt;

    let dir = tempfile::tempdir().unwrap();
    folder(dir.path(), &[("a.png", Some(RED))]);
    std::fs::write(dir.path().join("f").join(OsStr::from_bytes(b"caf\xe9.txt")), "stray").unwrap();
    assert_eq!(tokenize(dir.path(), "f")["documents"], 1);
    let odd = dir.path().join(OsStr::from_bytes(b"out\xe9"));
    for verb in ["captioning", "reconstruction"] {
        let mut command = std::process::Command::new(env!("CARGO_BIN_EXE_calumma"));
        command.args(["--device", "cpu", "eval", verb, tiny(), "scenes:val?count=2&size=32"]);
        let output = command.arg("--out").arg(&odd).current_dir(dir.path()).output().unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    }
}
