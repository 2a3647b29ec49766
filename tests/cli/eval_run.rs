//! `calumma eval run`, and few-shot examples and choices.

use std::path::Path;

use serde_json::Value;

use super::{calumma_in, text, tiny};

const RECIPE: &str = r#"
[run]
name = "scores"
checkpoint = "CHECKPOINT"
[[task]]
name = "asked"
measure = "vqa"
data = "scenes:val?count=3&size=32&objects=1-1"
generation = { max_new_tokens = 3 }
[[task]]
name = "chosen"
measure = "vqa"
data = "scenes:val?count=3&size=32&objects=1-1"
train = "scenes:train?count=4&size=32&objects=1-1"
shots = 1
answer = "choose"
prompt = "<image><sep>"
[[task]]
name = "captions"
measure = "captioning"
data = "scenes:val?count=3&size=32"
generation = { max_new_tokens = 3 }
[[task]]
name = "drawn"
measure = "text-to-image"
data = "scenes:val?count=3&size=32&objects=1-1"
batch = 2
[[task]]
name = "named"
measure = "captioning"
data = "scenes:val?count=3&size=32"
answer = "choose-by-length"
[[task]]
name = "found"
measure = "text-to-image"
data = "scenes:val?count=3&size=32&objects=1-1"
prompt = "{caption}"
[[task]]
name = "lost"
measure = "reconstruction"
data = "scenes:val?count=3&size=32"
[[task]]
name = "foreseen"
measure = "loss"
data = "scenes:val?count=3&size=32"
templates = ["{caption}<image>"]
"#;

fn samples(dir: &Path, task: &str) -> Vec<Value> {
    let text = std::fs::read_to_string(dir.join("results/scores").join(task).join("samples.jsonl"));
    text.unwrap().lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

#[test]
fn a_recipe_makes_one_table_and_finished_tasks_are_skipped() {
    let scratch = tempfile::tempdir().unwrap();
    let dir = scratch.path();
    std::fs::write(dir.join("e.toml"), RECIPE.replace("CHECKPOINT", tiny())).unwrap();
    let told = &calumma_in(dir, &["eval", "run", "e.toml", "--json"]).json()[0];
    assert_eq!(told["tasks"].as_array().unwrap().len(), 8);
    let table = std::fs::read_to_string(dir.join("results/scores/scores.md")).unwrap();
    for row in ["| asked | exact_match |", "| drawn | accuracy |", "| lost | psnr |"] {
        assert!(table.contains(row), "{table}");
    }
    let chosen = samples(dir, "chosen");
    assert!(chosen.iter().all(|one| !one["response"].as_str().unwrap().is_empty()), "{chosen:?}");

    let asked = samples(dir, "asked");
    let stopped = calumma_in(dir, &["eval", "run", "e.toml", "--only", "asked", "--only", "no"]);
    stopped.fails(3, &["--only no", "asked, chosen"]);
    assert!(asked.len() > 3);
    // Finished tasks are skipped and stay in the table.
    std::fs::write(dir.join("results/scores/asked/samples.jsonl"), "").unwrap();
    let again = calumma_in(dir, &["eval", "run", "e.toml", "--only", "asked"]);
    assert!(again.stdout.contains("asked: measured before"), "{}", again.stdout);
    let table = std::fs::read_to_string(dir.join("results/scores/scores.md")).unwrap();
    assert!(table.contains("| drawn | accuracy |") && table.contains("| asked | exact_match |"));

    let bad = RECIPE.replace("CHECKPOINT", tiny()).replace("shots = 1", "shots = 900");
    std::fs::write(dir.join("bad.toml"), bad).unwrap();
    calumma_in(dir, &["eval", "run", "bad.toml", "--only", "chosen"])
        .fails(3, &["examples of the 900"]);
    let bad = RECIPE.replace("CHECKPOINT", tiny()).replace("name = \"lost\"", "name = \"asked\"");
    std::fs::write(dir.join("twice.toml"), bad).unwrap();
    calumma_in(dir, &["eval", "run", "twice.toml"]).fails(3, &["twice.toml", "given twice"]);
    for (key, message) in [
        ("shots = 2", "task drawn: the measure text-to-image does not read shots"),
        ("batches = 2", "unknown key `batches`; the nearest known key is `batch`"),
    ] {
        let bad = RECIPE.replace("CHECKPOINT", tiny()).replace("batch = 2", key);
        std::fs::write(dir.join("key.toml"), bad).unwrap();
        calumma_in(dir, &["eval", "run", "key.toml"]).fails(3, &["key.toml", message]);
    }
    let bad = RECIPE.replace("CHECKPOINT", tiny()).replace("max_new_tokens = 3", "max_tokens = 3");
    std::fs::write(dir.join("key.toml"), bad).unwrap();
    calumma_in(dir, &["eval", "run", "key.toml"])
        .fails(3, &["generation.max_tokens is no known key"]);
}

#[test]
fn vqa_takes_examples_and_choices() {
    let dir = tempfile::tempdir().unwrap();
    let out = dir.path().join("out");
    let scenes = "scenes:val?count=2&size=32&objects=1-1";
    let args = [
        "eval",
        "vqa",
        tiny(),
        scenes,
        "--out",
        text(&out),
        "--train",
        "scenes:train?count=2&size=32&objects=1-1",
        "--shots",
        "1",
        "--prompt",
        "<image><sep>",
        "--answer",
        "choose",
        "--choice",
        "yes",
        "--choice",
        "no",
        "--json",
    ];
    let told = &calumma_in(dir.path(), &args).json()[0];
    assert_eq!(told["config"]["task"]["shots"], 1);
    let lines = std::fs::read_to_string(out.join("samples.jsonl")).unwrap();
    for line in lines.lines() {
        let sample: Value = serde_json::from_str(line).unwrap();
        assert!(["yes", "no"].contains(&sample["response"].as_str().unwrap()), "{sample}");
    }
    let leaking = ["eval", "vqa", tiny(), scenes, "--out", "o", "--train", scenes, "--shots", "1"];
    calumma_in(dir.path(), &leaking).fails(3, &["answers of the data that is measured"]);
    let without = ["eval", "vqa", tiny(), scenes, "--out", "o", "--shots", "1"];
    assert_eq!(calumma_in(dir.path(), &without).code, 2, "examples come from --train");
}
