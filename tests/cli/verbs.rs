//! Output and files of the verbs, on a checkpoint with random weights.

use std::io::Read;
use std::path::Path;
use std::process::{Command, Stdio};

use image::GenericImageView;
use serde_json::json;

use super::{calumma_in, image, text, tiny};
use crate::common::{Expected, TINY_CONTEXT, TINY_SIDE, fixture};

fn empty() -> tempfile::TempDir {
    tempfile::tempdir().unwrap()
}

#[test]
fn with_json_standard_output_is_json_only() {
    let dir = empty();
    let (image, tiny) = (image(dir.path(), "p.png"), tiny());
    let image = text(&image);
    std::fs::write(dir.path().join("d.jsonl"), "{\"ids\": [0, 5, 6]}\n").unwrap();
    for args in [
        &["doctor"][..],
        &["generate", tiny, "--prompt", "a red"],
        &["caption", tiny, image],
        &["ask", tiny, image, "what colour is it?"],
        &["draw", tiny, "a red square", "--out", "drawn"],
        &["edit", tiny, image, "a red square", "--keep-rows", "2"],
        &["score", tiny, "d.jsonl"],
        &["vq", "encode", tiny, image],
        &["vq", "reconstruct", tiny, image],
        &["vq", "reconstruct", tiny, image, "--own-size=32"],
        &["vq", "encode", tiny, "--own-size", image],
        &["vq", "eval", tiny, "scenes:val?count=4", "--out", "scores"],
        &["inspect", tiny],
        &["bench", tiny, "--prompt", "5", "--seconds", "0", "--precision", "bf16"],
        &["data", "inspect", "scenes:val?count=8"],
        &["data", "scenes", "--out", "s", "--count", "2"],
        &["export", tiny, "e"],
        &["demo", "--checkpoint", tiny],
    ] {
        let outcome = calumma_in(dir.path(), &[args, &["--json"]].concat());
        assert!(!outcome.json().is_empty(), "{args:?}");
        assert!(outcome.json().iter().all(|line| line.is_object()), "{args:?}");
    }
}

#[test]
fn a_drawn_image_records_its_settings_and_is_reproduced_by_its_seed() {
    let dir = empty();
    let draw = |out: &str, seed: &str| {
        let args = ["draw", tiny(), "a r\u{fc}d square", "--out", out, "--seed", seed, "--json"];
        let path = calumma_in(dir.path(), &args).json()[0]["path"].as_str().unwrap().to_owned();
        dir.path().join(path)
    };
    let (first, again) = (draw("a", "7"), draw("b", "7"));
    assert_eq!(std::fs::read(&first).unwrap(), std::fs::read(again).unwrap());
    let drawn = image::open(&first).unwrap();
    assert_eq!(drawn.dimensions(), (TINY_SIDE, TINY_SIDE));
    let inspected = calumma_in(dir.path(), &["inspect", text(&first), "--json"]).json();
    let made_by = &inspected[0]["made_by"];
    assert_eq!(made_by["prompt"], "a r\u{fc}d square");
    assert_eq!(made_by["seed"], 7);
    assert_eq!(made_by["settings"]["guidance_scale"], 2.0);
    assert_eq!(made_by["checkpoint"].as_str().unwrap().len(), 12);
    let args = ["draw", tiny(), "bare", "--no-metadata", "--json"];
    let path = calumma_in(dir.path(), &args).json()[0]["path"].as_str().unwrap().to_owned();
    let inspected = calumma_in(dir.path(), &["inspect", &path, "--json"]);
    assert!(inspected.json()[0]["made_by"].is_null());
}

#[test]
fn generate_makes_the_requested_number_of_continuations() {
    let dir = empty();
    let image = image(dir.path(), "p.png");
    let args = [
        "generate",
        tiny(),
        "--prompt",
        "what is <image>?",
        "--image",
        text(&image),
        "--modality",
        "image",
        "--out",
        "made",
        "--num",
        "2",
        "--json",
    ];
    let made = calumma_in(dir.path(), &args).json();
    let paths: Vec<_> = made
        .iter()
        .map(|line| {
            assert_eq!(line["segments"].as_array().unwrap().len(), 1);
            line["segments"][0]["path"].as_str().unwrap().to_owned()
        })
        .collect();
    assert_eq!(paths.len(), 2);
    assert_ne!(paths[0], paths[1]);
    assert!(paths.iter().all(|path| dir.path().join(path).is_file()));
    let text_only = ["generate", tiny(), "--prompt", "a", "--modality", "text", "--greedy"];
    let outcome = calumma_in(dir.path(), &text_only);
    assert_eq!(outcome.code, 0, "{}", outcome.stderr);
    assert!(outcome.stdout.ends_with('\n') && !outcome.stdout.contains("[image"));
}

#[test]
fn quiet_leaves_standard_error_empty() {
    let dir = empty();
    let args =
        ["generate", tiny(), "--prompt", "a", "--num", "2", "--modality", "text", "--greedy"];
    let outcome = calumma_in(dir.path(), &args);
    assert_eq!((outcome.code, outcome.stderr.matches("seed ").count()), (0, 2));
    let quiet = calumma_in(dir.path(), &[&args[..], &["--quiet"]].concat());
    assert_eq!((quiet.code, quiet.stderr.as_str()), (0, ""));
    assert_eq!(quiet.stdout, outcome.stdout);
}

#[test]
fn encoded_codes_decode_to_the_reconstruction() {
    let dir = empty();
    let image = image(dir.path(), "p.png");
    let vq = Path::new(tiny()).join("vq_tokenizer");
    let encode = |checkpoint: &str| {
        calumma_in(dir.path(), &["vq", "encode", checkpoint, text(&image), "--json"])
    };
    let encoded = encode(tiny());
    assert_eq!(encoded.stdout, encode(text(&vq)).stdout);
    let line = &encoded.json()[0];
    assert_eq!((&line["height"], &line["width"]), (&json!(4), &json!(4)));
    assert_eq!(line["path"], text(&image));
    assert_eq!(line["codes"].as_array().unwrap().len(), 16);

    std::fs::write(dir.path().join("c.json"), encoded.stdout.repeat(2)).unwrap();
    let decode = ["vq", "decode", tiny(), "c.json", "--out", "back/p.png", "--json"];
    assert_eq!(calumma_in(dir.path(), &decode).json().len(), 2);
    let reconstruct =
        ["vq", "reconstruct", tiny(), text(&image), text(&image), "--out", "r", "--json"];
    let lines = calumma_in(dir.path(), &reconstruct).json();
    assert!(lines[0]["psnr"].as_f64().unwrap() > 0.0 && lines[0]["ssim"].is_f64());
    assert_eq!(lines[2]["mean"]["count"], 2);
    let bytes = |name: &str| std::fs::read(dir.path().join(name)).unwrap();
    assert_eq!(bytes("back/p.png"), bytes("r/p.png"));
    assert_eq!(bytes("back/p-1.png"), bytes("r/p-1.png"));

    let outside = r#"{"height": 1, "width": 1, "codes": [24]}"#;
    std::fs::write(dir.path().join("bad.json"), outside).unwrap();
    let decode = ["vq", "decode", tiny(), "bad.json", "--out", "bad.png"];
    calumma_in(dir.path(), &decode).fails(3, &["bad.json", "24"]);
    assert!(!dir.path().join("bad.png").exists());
}

#[test]
fn scores_equal_the_reference_model() {
    let dir = empty();
    let expected = Expected::open("models/prenorm-gqa/expected.safetensors");
    let ids = expected.ids("mixed_one_image.inline_input_ids");
    let logits: Vec<f64> =
        expected.floats("mixed_one_image.raw_logits").iter::<f32>().map(f64::from).collect();
    let vocab = logits.len() / ids.len();
    let line = json!({ "ids": ids }).to_string();
    std::fs::write(dir.path().join("d.jsonl"), format!("{line}\n\n{line}\n")).unwrap();
    let model = fixture("models/prenorm-gqa");
    let lines = calumma_in(dir.path(), &["score", text(&model), "d.jsonl", "--json"]).json();
    assert_eq!(lines.len(), 3);
    assert_eq!(lines[0], lines[1]);
    assert_eq!(lines[0]["ids"], json!(ids));
    let logprobs = lines[0]["logprobs"].as_array().unwrap();
    assert_eq!(logprobs.len(), ids.len());
    assert!(logprobs[0].is_null());
    for ((row, id), logprob) in logits.chunks(vocab).zip(&ids[1..]).zip(&logprobs[1..]) {
        let sum: f64 = row.iter().map(|logit| logit.exp()).sum();
        let want = row[*id as usize] - sum.ln();
        assert!((logprob.as_f64().unwrap() - want).abs() < 5e-4, "{logprob} instead of {want}");
    }
    let mean = lines[2]["mean_loss"].as_object().unwrap();
    assert!(mean["image"].is_f64() && mean["text"].is_f64());
}

#[test]
fn score_accepts_segments_with_images() {
    let dir = empty();
    image(dir.path(), "p.png");
    let segments =
        json!([{ "type": "text", "text": "a red" }, { "type": "image", "path": "p.png" }]);
    let line = json!({ "segments": segments }).to_string();
    std::fs::write(dir.path().join("d.jsonl"), line).unwrap();
    let lines = calumma_in(dir.path(), &["score", tiny(), "d.jsonl", "--json"]).json();
    let ids = lines[0]["ids"].as_array().unwrap();
    assert_eq!(lines[0]["logprobs"].as_array().unwrap().len(), ids.len());
    assert!(lines[1]["mean_loss"]["image"].as_f64().unwrap() > 0.0);
    std::fs::write(dir.path().join("bad.jsonl"), "{\"idz\": [1]}\n").unwrap();
    let bad = calumma_in(dir.path(), &["score", tiny(), "bad.jsonl"]);
    bad.fails(3, &["bad.jsonl", "line 1", "idz"]);
}

#[test]
fn an_export_gives_the_same_answers_and_has_the_requested_dtype() {
    let dir = empty();
    let image = image(dir.path(), "p.png");
    let export = |dest: &str, dtype: &str| {
        calumma_in(dir.path(), &["export", tiny(), dest, "--dtype", dtype, "--json"]).json();
        std::fs::metadata(dir.path().join(dest).join("model.safetensors")).unwrap().len()
    };
    let (whole, half) = (export("f32", "f32"), export("bf16", "bf16"));
    assert!(half < whole * 2 / 3, "{half} of {whole} bytes");
    let ask = |checkpoint: &str| {
        let outcome =
            calumma_in(dir.path(), &["ask", checkpoint, text(&image), "what colour is it?"]);
        assert_eq!(outcome.code, 0, "{}", outcome.stderr);
        outcome.stdout
    };
    assert_eq!(ask("f32"), ask(tiny()));
    let again = calumma_in(dir.path(), &["export", tiny(), "f32"]);
    again.fails(3, &["f32", "already exists"]);
    let exported = &calumma_in(dir.path(), &["inspect", "bf16", "--json"]).json()[0];
    assert_eq!(exported["kind"], "checkpoint");
    assert_eq!(exported["dtype"], "BF16");
    assert_eq!(exported["config"]["max_position_embeddings"], TINY_CONTEXT);
}

#[test]
fn the_demo_runs_all_tasks_and_writes_its_sheet() {
    let dir = empty();
    let outcome = calumma_in(dir.path(), &["demo", "--checkpoint", tiny(), "--out", "s.png"]);
    assert_eq!(outcome.code, 0, "{}", outcome.stderr);
    let count = |what: &str| outcome.stdout.lines().filter(|line| line.starts_with(what)).count();
    assert_eq!((count("drew"), count("captioned"), count("asked")), (4, 2, 3));
    assert!(image::open(dir.path().join("s.png")).unwrap().width() > 1000);
}

#[test]
fn scenes_are_written_and_inspected() {
    let dir = empty();
    let args = ["data", "scenes", "--out", "new/s", "--count", "3", "--split", "held-out"];
    assert_eq!(calumma_in(dir.path(), &args).code, 0);
    let found = &calumma_in(dir.path(), &["data", "inspect", "new/s", "--json"]).json()[0];
    assert_eq!((&found["samples"], &found["bad"]), (&json!(3), &json!([])));
    calumma_in(dir.path(), &args).fails(3, &["new/s", "exists already"]);
}

#[test]
fn a_closed_pipe_is_not_an_error() {
    let mut child = Command::new(env!("CARGO_BIN_EXE_calumma"))
        .args(["data", "inspect", "scenes:train?count=64", "--limit", "64"])
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    drop(child.stdout.take());
    let status = child.wait().unwrap();
    let mut stderr = String::new();
    child.stderr.take().unwrap().read_to_string(&mut stderr).unwrap();
    assert!(status.success(), "{stderr}");
    assert_eq!(stderr, "");
}

#[test]
fn completions_contain_the_verbs() {
    let dir = empty();
    for shell in ["bash", "zsh", "fish", "powershell", "elvish"] {
        let outcome = calumma_in(dir.path(), &["completions", shell]);
        assert_eq!(outcome.code, 0, "{shell}: {}", outcome.stderr);
        for verb in ["doctor", "reconstruct", "contamination"] {
            assert!(outcome.stdout.contains(verb), "{shell}: {verb}");
        }
    }
}

#[test]
fn a_reconstruction_never_overwrites_its_original() {
    let dir = empty();
    let image = image(dir.path(), "p.png");
    let before = std::fs::read(&image).unwrap();
    let reconstruct = ["vq", "reconstruct", tiny(), "p.png", "--out", ".", "--json"];
    let lines = calumma_in(dir.path(), &reconstruct).json();
    assert_eq!(std::fs::read(&image).unwrap(), before);
    assert_eq!(lines[0]["out"], "./p-1.png");
    assert!(dir.path().join("p-1.png").is_file());
}

#[test]
#[cfg(unix)]
fn a_path_with_invalid_utf8_is_accepted() {
    use std::ffi::OsStr;
    use std::os::unix::ffi::OsStrExt;
    let dir = empty();
    let image = image(dir.path(), "p.png");
    let odd = OsStr::from_bytes(b"caf\xe9.png");
    std::fs::copy(image, dir.path().join(odd)).unwrap();
    let mut command = std::process::Command::new(env!("CARGO_BIN_EXE_calumma"));
    command.args(["caption", tiny(), "--json", "--device", "cpu", "--max-tokens", "2"]);
    let output = command.arg(odd).current_dir(dir.path()).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let line: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(line["path"], "caf\u{fffd}.png");
}

#[test]
fn inspect_describes_checkpoints_of_other_projects() {
    let dir = empty();
    let inspect = |path: &str| {
        let path = fixture(path);
        calumma_in(dir.path(), &["inspect", text(&path), "--json"]).json().remove(0)
    };
    let theirs = inspect("models/prenorm-gqa");
    assert!(theirs["layout"].as_str().unwrap().starts_with("Hugging Face: "));
    assert_eq!((&theirs["draws"], &theirs["modalities"][1]), (&false.into(), &"image".into()));
    let release = inspect("meta/swin-gqa-mp2-bf16");
    assert_eq!((&release["kind"], &release["dtype"]), (&"release".into(), &"BF16".into()));
    assert_eq!(release["config"]["model_parallel_size"], 2);
    let same = calumma_in(dir.path(), &["import", text(&fixture("meta/swin-gqa-mp2-bf16")), "i"]);
    assert_eq!(same.code, 0, "{}", same.stderr);
    let imported = calumma_in(dir.path(), &["inspect", "i", "--json"]).json().remove(0);
    assert_eq!(imported["parameters"]["embedding"], release["parameters"]["embedding"]);
    assert_eq!(imported["layout"], "Hugging Face, without an image tokenizer");
}

#[test]
fn a_bare_image_tokenizer_can_be_exported() {
    let dir = tempfile::tempdir().unwrap();
    let vq = format!("{}/vq_tokenizer", tiny());
    let export = |args: &[&str]| calumma_in(dir.path(), &[&["export", vq.as_str()], args].concat());
    assert_eq!(export(&["half", "--dtype", "f16"]).code, 0);
    assert_eq!(export(&["whole"]).code, 0);
    let size = |name: &str| {
        std::fs::metadata(dir.path().join(name).join("model.safetensors")).unwrap().len()
    };
    assert!(size("half") < size("whole") * 6 / 10);
    let image = image(dir.path(), "p.png");
    let encode =
        |name: &str| calumma_in(dir.path(), &["vq", "encode", name, text(&image), "--json"]).json();
    assert_eq!(encode("whole")[0]["codes"].as_array().unwrap().len(), 16);
    assert_eq!(encode("half")[0]["height"], 4);
    export(&["b", "--dtype", "bf16"]).fails(3, &["bf16", "f32, f16"]);
    export(&["m", "--layout", "meta"]).fails(3, &["one layout"]);
    assert!(!dir.path().join("b").exists() && !dir.path().join("m").exists());
}
