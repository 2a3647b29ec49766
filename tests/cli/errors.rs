//! Bad input gives one message, the documented exit code, and no partial output.

use std::path::Path;

use super::{calumma_in, image, text, tiny};
use crate::common::{fixture, tiny_checkpoint};

fn empty() -> tempfile::TempDir {
    tempfile::tempdir().unwrap()
}

/// A new checkpoint for a test to damage.
fn new_checkpoint(dir: &Path) -> std::path::PathBuf {
    let path = dir.join("own");
    tiny_checkpoint(&path);
    path
}

/// The start of a PNG of 60000x60000 pixels, without pixel data.
fn huge_png() -> Vec<u8> {
    let mut bytes = vec![0x89, b'P', b'N', b'G', b'\r', b'\n', 0x1a, b'\n', 0, 0, 0, 13];
    let mut header = b"IHDR".to_vec();
    header.extend(60_000_u32.to_be_bytes());
    header.extend(60_000_u32.to_be_bytes());
    header.extend([8, 2, 0, 0, 0]);
    let crc = !header.iter().fold(u32::MAX, |crc, &byte| {
        (0..8).fold(crc ^ u32::from(byte), |crc, _| {
            (crc >> 1) ^ (0xedb8_8320 & (crc & 1).wrapping_neg())
        })
    });
    bytes.extend(header);
    bytes.extend(crc.to_be_bytes());
    bytes.extend([0, 0, 0, 0]);
    bytes.extend(b"IDAT\x35\xaf\x06\x1e");
    bytes
}

#[test]
fn missing_files_are_named() {
    let dir = empty();
    let run = |args: &[&str]| calumma_in(dir.path(), args);
    run(&["caption", tiny(), "no.png"]).fails(3, &["no.png"]);
    image(dir.path(), "p.png");
    run(&["caption", "nowhere", "p.png"]).fails(3, &["nowhere", "no checkpoint"]);
    run(&["vq", "encode", "nowhere", "p.png"]).fails(3, &["nowhere", "no checkpoint"]);
    run(&["train", "no.toml"]).fails(3, &["no.toml"]);
    run(&["score", tiny(), "no.jsonl"]).fails(3, &["no.jsonl"]);
    run(&["inspect", "no.safetensors"]).fails(3, &["no.safetensors"]);
    run(&["data", "inspect", "no.parquet"]).fails(3, &["no.parquet"]);
    run(&["demo", "--checkpoint", "nowhere"]).fails(3, &["nowhere"]);
    assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 1);
}

#[test]
fn a_truncated_weight_file_is_named() {
    let dir = empty();
    let checkpoint = new_checkpoint(dir.path());
    let weights = checkpoint.join("model.safetensors");
    let bytes = std::fs::read(&weights).unwrap();
    std::fs::write(&weights, &bytes[..bytes.len() / 2]).unwrap();
    let draw = ["draw", text(&checkpoint), "a circle", "--out", "new"];
    calumma_in(dir.path(), &draw).fails(3, &["model.safetensors", "manifest"]);
    std::fs::remove_file(checkpoint.join("manifest.json")).unwrap();
    calumma_in(dir.path(), &draw).fails(3, &["model.safetensors", "safetensors file"]);
    calumma_in(dir.path(), &["inspect", text(&weights)])
        .fails(3, &["model.safetensors", "tensor model.", "it is cut off"]);
    calumma_in(dir.path(), &["export", text(&checkpoint), "release"]).fails(3, &["safetensors"]);
    assert!(!dir.path().join("new").exists() && !dir.path().join("release").exists());
}

#[test]
fn tensors_with_the_wrong_shape_are_named() {
    let dir = empty();
    let checkpoint = new_checkpoint(dir.path());
    let path = checkpoint.join("config.json");
    let config = std::fs::read_to_string(&path).unwrap();
    let changed = config.replace("\"intermediate_size\": 48", "\"intermediate_size\": 40");
    assert_ne!(config, changed);
    std::fs::write(&path, changed).unwrap();
    std::fs::remove_file(checkpoint.join("manifest.json")).unwrap();
    let outcome = calumma_in(dir.path(), &["draw", text(&checkpoint), "a circle"]);
    outcome.fails(3, &["model.safetensors", "of another shape", "gate_proj"]);
}

#[test]
fn an_unknown_recipe_key_names_the_nearest() {
    let dir = empty();
    let recipe = "[run]\nname = \"x\"\nstpes = 3\n[bpe]\n[[data]]\npath = \"scenes:train\"\n";
    std::fs::write(dir.path().join("r.toml"), recipe.replace("stpes", "documnets")).unwrap();
    calumma_in(dir.path(), &["bpe", "train", "r.toml"])
        .fails(3, &["r.toml", "`documnets`", "`documents`"]);
    calumma_in(dir.path(), &["inspect", "r.toml"]).fails(3, &["`documents`"]);
    std::fs::write(dir.path().join("v.toml"), "[run]\nname = \"x\"\nstpes = 3\n").unwrap();
    calumma_in(dir.path(), &["vq", "train", "v.toml"]).fails(3, &["v.toml", "`stpes`", "`steps`"]);
    assert!(!dir.path().join("runs").exists());
}

#[test]
fn files_that_are_not_images_are_refused() {
    let dir = empty();
    std::fs::write(dir.path().join("words.png"), "these are words").unwrap();
    calumma_in(dir.path(), &["caption", tiny(), "words.png"]).fails(3, &["words.png"]);
    let good = std::fs::read(image(dir.path(), "good.png")).unwrap();
    std::fs::write(dir.path().join("half.png"), &good[..good.len() / 2]).unwrap();
    calumma_in(dir.path(), &["vq", "encode", tiny(), "half.png"]).fails(3, &["half.png"]);
    calumma_in(dir.path(), &["inspect", "words.png"]).fails(3, &["words.png"]);
}

#[test]
fn an_oversized_image_is_refused_before_it_is_decoded() {
    let dir = empty();
    std::fs::write(dir.path().join("huge.png"), huge_png()).unwrap();
    let outcome = calumma_in(dir.path(), &["caption", tiny(), "huge.png"]);
    outcome.fails(3, &["huge.png", "60000"]);
}

#[test]
fn more_image_marks_than_images_are_refused() {
    let dir = empty();
    let image = image(dir.path(), "p.png");
    let outcome = calumma_in(
        dir.path(),
        &["generate", tiny(), "--prompt", "<image> or <image>?", "--image", text(&image)],
    );
    outcome.fails(3, &["2 <image> marks", "1 image was"]);
}

#[test]
fn a_prompt_longer_than_the_context_is_refused() {
    let dir = empty();
    let long = "a red square ".repeat(60);
    let outcome = calumma_in(dir.path(), &["generate", tiny(), "--prompt", &long]);
    outcome.fails(3, &["context", "96"]);
    std::fs::write(dir.path().join("d.jsonl"), format!("{{\"ids\": {:?}}}\n", [0; 97])).unwrap();
    calumma_in(dir.path(), &["score", tiny(), "d.jsonl"]).fails(3, &["line 1", "97"]);
}

#[test]
fn settings_out_of_range_are_named() {
    let dir = empty();
    let run = |flag: &str, value: &str| {
        calumma_in(dir.path(), &["draw", tiny(), "a circle", flag, value])
    };
    run("--temperature", "0").fails(3, &["temperature is 0", "0.0001 or more"]);
    run("--top-p", "1.5").fails(3, &["top_p is 1.5"]);
    run("--guidance-scale=-1", "--no-metadata").fails(3, &["guidance_scale is -1"]);
}

#[test]
fn wrong_usage_exits_with_2() {
    let dir = empty();
    for args in [
        &["dance"][..],
        &["draw"],
        &["doctor", "--device", "gpu"],
        &["doctor", "--precision", "f8"],
        &["doctor", "--quiet", "--verbose"],
        &["generate", "x", "--prompt", "y", "--num", "0"],
        &["generate", "x", "--prompt", "y", "--greedy", "--temperature", "2"],
        &["data", "scenes", "--out", "x", "--count", "1", "--split", "test"],
    ] {
        let outcome = calumma_in(dir.path(), args);
        assert_eq!(outcome.code, 2, "{args:?}: {}", outcome.stderr);
        assert_eq!(outcome.stdout, "", "{args:?}");
    }
}

#[cfg(not(feature = "cuda"))]
#[test]
fn a_device_missing_from_the_build_exits_with_4() {
    let dir = empty();
    image(dir.path(), "p.png");
    let outcome = calumma_in(dir.path(), &["caption", tiny(), "p.png", "--device", "cuda"]);
    outcome.fails(4, &["this build has no cuda"]);
}

#[test]
fn a_directory_in_place_of_a_file_is_named_and_nothing_is_left_behind() {
    let dir = empty();
    std::fs::create_dir(dir.path().join("out")).unwrap();
    let run = |args: &[&str]| calumma_in(dir.path(), args);
    run(&["demo", "--checkpoint", tiny(), "--out", "out"]).fails(3, &["out", "is a directory"]);
    std::fs::write(dir.path().join("c.json"), r#"{"height": 1, "width": 1, "codes": [3]}"#)
        .unwrap();
    run(&["vq", "decode", tiny(), "c.json", "--out", "out"]).fails(3, &["out", "is a directory"]);
    assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 2);
    let exported = run(&["export", tiny(), "release/", "--json"]);
    assert_eq!(exported.json()[0]["path"], "release/");
    assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 3);
}

#[test]
fn an_image_tokenizer_is_not_trained_in_bfloat16_on_the_cpu() {
    let dir = empty();
    std::fs::write(dir.path().join("vq.toml"), super::training::VQ).unwrap();
    let outcome = calumma_in(dir.path(), &["vq", "train", "vq.toml", "--precision", "bf16"]);
    outcome.fails(4, &["--precision is bf16", "f32 only on cpu", "allowed: f32"]);
    assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 1);
}

#[test]
fn training_an_image_tokenizer_needs_images() {
    let dir = empty();
    std::fs::write(dir.path().join("t.jsonl"), "{\"text\": \"hello\"}\n".repeat(3)).unwrap();
    let recipe = super::training::VQ.replace("scenes:train?count=16&size=32", "t.jsonl");
    std::fs::write(dir.path().join("vq.toml"), recipe).unwrap();
    calumma_in(dir.path(), &["vq", "train", "vq.toml"]).fails(3, &["t.jsonl", "no image"]);
}

#[test]
fn recipe_values_are_checked_before_training_starts() {
    let dir = empty();
    std::fs::write(dir.path().join("lm.toml"), super::training::LM).unwrap();
    for (change, message) in [
        ("loss.z_loss=nan", "loss.z_loss is NaN"),
        ("generation.top_p=7", "top_p is 7"),
        ("batch.seq_len=4096", "batch.seq_len is 4096"),
        ("model.initializer_range=-1", "initializer_range is -1"),
        ("run.name=../up", "run.name is \"../up\""),
    ] {
        calumma_in(dir.path(), &["train", "lm.toml", "--set", change]).fails(3, &[message]);
    }
    assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 1);
}

#[test]
fn drawing_without_a_decoder_names_the_missing_file_and_the_command() {
    let dir = tempfile::tempdir().unwrap();
    let theirs = fixture("models/prenorm-gqa");
    let theirs = text(&theirs);
    std::fs::write(dir.path().join("c.json"), r#"{"height": 1, "width": 1, "codes": [0]}"#)
        .unwrap();
    let needed = ["tokenizer/vqgan.ckpt", "calumma import CHECKPOINT --vqgan"];
    for args in [
        &["draw", theirs, "a square", "--out", "out"][..],
        &["vq", "decode", theirs, "c.json", "--out", "p.png"],
        &["generate", theirs, "--prompt", "a", "--modality", "image", "--out", "out"],
    ] {
        calumma_in(dir.path(), args).fails(3, &needed);
    }
    assert!(!dir.path().join("p.png").exists());
}

#[test]
fn bad_samples_are_listed_and_too_many_exit_with_3() {
    let dir = empty();
    let whole = image(dir.path(), "whole.png");
    let half = std::fs::read(&whole).unwrap();
    std::fs::write(dir.path().join("half.png"), &half[..half.len() / 2]).unwrap();
    let lines = ["whole.png", "half.png", "none.png", "whole.png"];
    let lines = lines.map(|name| format!("{{\"file_name\": \"{name}\"}}\n")).concat();
    std::fs::write(dir.path().join("metadata.jsonl"), lines).unwrap();
    let run = |args: &[&str]| calumma_in(dir.path(), &[&["data", "validate", "."], args].concat());
    let outcome = run(&[]);
    assert_eq!(outcome.code, 3);
    for part in ["1: ", "half.png", "2: ", "none.png", "4 samples, 2 bad"] {
        assert!(outcome.stdout.contains(part), "{part}: {}", outcome.stdout);
    }
    let tolerated = &run(&["--max-bad", "0.5", "--json"]).json()[0];
    assert_eq!(tolerated["bad"].as_array().unwrap().len(), 2);
}

#[test]
fn malformed_benchmarks_are_named_by_file_line_and_field() {
    let dir = empty();
    std::fs::write(dir.path().join("a.json"), "{\"images\": [\n{\"id\": 1}]}").unwrap();
    let spec = "coco:annotations=a.json&images=.";
    let field = "a.json: line 2 column 9: images[0].file_name: missing field";
    calumma_in(dir.path(), &["data", "inspect", spec]).fails(3, &[field]);
}
