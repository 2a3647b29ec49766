//! Text models of other projects: every command that takes text, training, adapters and export.

use std::fs;
use std::path::Path;

use serde_json::{Value, json};
use tempfile::TempDir;

use super::{calumma_in, text};

/// A directory with the text model `lm`, as downloaded.
fn downloaded() -> TempDir {
    let dir = tempfile::tempdir().unwrap();
    let from = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/architectures/llama-gqa");
    let to = dir.path().join("lm");
    fs::create_dir(&to).unwrap();
    for name in [
        "config.json",
        "model.safetensors",
        "tokenizer.json",
        "tokenizer_config.json",
        "chat_template.jinja",
    ] {
        fs::copy(from.join(name), to.join(name)).unwrap();
    }
    dir
}

/// Eight questions with answers, and a recipe that learns the answers; `more` is added to it.
fn recipe(dir: &Path, name: &str, more: &str) {
    let row = |number: usize| {
        json!({ "messages": [
            { "role": "user", "content": format!("How many squares {number}?") },
            { "role": "assistant", "content": format!("There are {number}.") },
        ] })
    };
    let rows: Vec<String> = (0..8).map(|number| row(number).to_string()).collect();
    fs::write(dir.join("chat.jsonl"), rows.join("\n")).unwrap();
    let recipe = format!(
        r#"
[run]
name = "{name}"
init = "lm"
steps = 4
checkpoint_every = 2
shown = 2

[[data]]
path = "chat.jsonl"
loss = "last-answer"
templates = ["chat_template"]

[[validation]]
path = "chat.jsonl"
loss = "last-answer"
templates = ["chat_template"]

[batch]
sequences = 2
seq_len = 64
{more}
"#
    );
    fs::write(dir.join(format!("{name}.toml")), recipe).unwrap();
}

fn config(dir: &Path) -> Value {
    serde_json::from_slice(&fs::read(dir.join("config.json")).unwrap()).unwrap()
}

#[test]
fn a_text_model_opens_as_downloaded_and_takes_text_only() {
    let dir = downloaded();
    let run = |args: &[&str]| calumma_in(dir.path(), args);
    let said = |seed: &str| {
        let generate = ["generate", "lm", "--prompt", "A picture", "--max-tokens", "8"];
        let all = run(&[&["--json", "--seed", seed], &generate[..]].concat()).json();
        all[0]["segments"].clone()
    };
    // Without a word in its files a text model decodes greedily, whatever the seed.
    assert_eq!(said("1"), said("7"));
    fs::write(dir.path().join("s.jsonl"), r#"{"segments": [{"type": "text", "text": "A cat"}]}"#)
        .unwrap();
    let scored = run(&["score", "lm", "s.jsonl"]);
    assert_eq!(scored.code, 0, "{}", scored.stderr);
    let scored: Value = serde_json::from_str(scored.stdout.lines().next().unwrap()).unwrap();
    assert_eq!(scored["ids"], json!([32, 284, 272]));
    let inspected = run(&["--json", "inspect", "lm"]).json();
    assert_eq!(inspected[0]["codes"], 0);

    let told = "the checkpoint has no image tokenizer, so it takes text only";
    run(&["draw", "lm", "a cat", "--out", "."]).fails(3, &[told]);
    run(&["generate", "lm", "--prompt", ""]).fails(3, &["the prompt has no ids"]);
    let path = dir.path().join("lm/config.json");
    let mut changed = config(&dir.path().join("lm"));
    changed["model_type"] = json!("gpt2");
    fs::write(&path, changed.to_string()).unwrap();
    run(&["generate", "lm", "--prompt", "a"]).fails(3, &["lm/config.json", "gpt2", "supported"]);
}

#[test]
fn a_text_model_is_trained_adapted_and_exported() {
    let dir = downloaded();
    let run = |args: &[&str]| calumma_in(dir.path(), args);
    // What the model says of decoding goes on to checkpoints, several ends of an answer too.
    let settings =
        json!({ "eos_token_id": [2, 7], "do_sample": false, "repetition_penalty": 1.25 });
    fs::write(dir.path().join("lm/generation_config.json"), settings.to_string()).unwrap();
    recipe(dir.path(), "whole", "");
    recipe(dir.path(), "small", "[adapter]\nr = 4\n");
    let shown = run(&["train", "whole.toml", "--dry-run"]);
    assert!(shown.stdout.contains("⟦There are "), "{}", shown.stdout);
    for name in ["whole.toml", "small.toml"] {
        let trained = run(&["train", name]);
        assert_eq!(trained.code, 0, "{}", trained.stderr);
    }
    let latest = dir.path().join("runs/whole/latest");
    let (before, after) = (config(&dir.path().join("lm")), config(&latest));
    for key in ["model_type", "architectures", "rope_parameters", "head_dim", "vocab_size"] {
        assert_eq!(before[key], after[key], "{key}");
    }
    let kept = fs::read(latest.join("generation_config.json")).unwrap();
    let kept: Value = serde_json::from_slice(&kept).unwrap();
    for key in ["eos_token_id", "do_sample", "repetition_penalty"] {
        assert_eq!(kept[key], settings[key], "{key}");
    }
    let generate = |checkpoint: &str, more: &[&str]| {
        let args = ["--json", "generate", checkpoint, "--prompt", "How", "--max-tokens", "6"];
        run(&[&args, more].concat()).json()
    };
    generate(text(&latest), &[]);
    let adapted = generate("lm", &["--adapter", "runs/small/latest"]);
    let merged = run(&["export", "lm", "merged", "--merge", "runs/small/latest"]);
    assert_eq!(merged.code, 0, "{}", merged.stderr);
    assert_eq!(generate("merged", &[]), adapted);
    for layout in ["calumma", "hf"] {
        let dest = format!("out-{layout}");
        let exported = run(&["export", "lm", &dest, "--layout", layout]);
        assert_eq!((exported.code, exported.stderr.contains("warning")), (0, false));
        assert_eq!(generate(&dest, &[]), generate("lm", &[]), "{layout}");
    }
}

/// Rows with an image: beside a text, in a conversation, and in answers with verdicts.
fn rows_with_images(dir: &Path) {
    let asked = json!([{ "type": "image" }, { "type": "text", "text": "What is it?" }]);
    let said = |content: Value| json!([{ "role": "user", "content": content }]);
    let answered = |text: &str| json!([{ "role": "assistant", "content": text }]);
    let talk = [&said(asked.clone()), &answered("A dot.")];
    let talk: Vec<Value> = talk.iter().flat_map(|part| part.as_array().unwrap().clone()).collect();
    let rows = [
        ("images", json!({ "image": "a.png", "text": "b" })),
        ("talk", json!({ "image": "a.png", "messages": talk })),
        (
            "pairs",
            json!({ "image": "a.png", "prompt": said(asked.clone()), "chosen": answered("A dot."),
            "rejected": answered("A cat.") }),
        ),
        (
            "verdicts",
            json!({ "image": "a.png", "prompt": said(asked), "completion": answered("A dot."),
            "label": true }),
        ),
    ];
    for (name, row) in rows {
        let lines = vec![row.to_string(); 8];
        fs::write(dir.join(format!("{name}.jsonl")), lines.join("\n")).unwrap();
    }
}

#[test]
fn images_are_refused_wherever_a_document_of_a_text_model_would_have_them() {
    let dir = downloaded();
    let run = |args: &[&str]| calumma_in(dir.path(), args);
    recipe(dir.path(), "whole", "");
    super::image(dir.path(), "a.png");
    rows_with_images(dir.path());
    let whole = fs::read_to_string(dir.path().join("whole.toml")).unwrap();
    let written = |name: &str, data: &str, template: &str, more: &str| {
        let mut recipe = whole.replace("chat.jsonl", data).replace("chat_template", template);
        if !more.is_empty() {
            recipe = recipe.replace("loss = \"last-answer\"\n", "");
        }
        fs::write(dir.path().join(format!("{name}.toml")), recipe + more).unwrap();
        format!("{name}.toml")
    };
    let told = "the checkpoint has no image tokenizer, so it takes text only";
    for (name, data, template, more) in [
        ("template", "images.jsonl", "<image>{text}<sep>b", ""),
        ("chat", "talk.jsonl", "chat_template", ""),
        ("messages", "talk.jsonl", "{messages}", ""),
        ("preference", "pairs.jsonl", "{prompt}<answer>{answer}", "[preference]\n"),
        (
            "rl",
            "talk.jsonl",
            "{messages}",
            "[rl]\nprompts_per_step = 1\nmode = \"text\"\nmax_new_tokens = 4\n\
            [rl.advantage]\nnum_generations = 2\n[[rl.reward]]\nkind = \"length\"\nmax_completion_len = 9\n\
            soft_punish_cache = 1\n",
        ),
        ("kto", "verdicts.jsonl", "{prompt}<answer>{answer}", "[kto]\n"),
    ] {
        let recipe = written(name, data, template, more);
        run(&["train", &recipe]).fails(3, &[data, told]);
    }
    for (name, data, template) in [
        ("shards", "images.jsonl", "<image>{text}"),
        ("shards-chat", "talk.jsonl", "chat_template"),
    ] {
        let recipe = format!(
            "[run]\nname = \"{name}\"\n[tokenizer]\ncheckpoint = \"lm\"\n[[data]]\npath = \"{data}\"\n\
             templates = [\"{template}\"]\n"
        );
        fs::write(dir.path().join(format!("{name}.toml")), recipe).unwrap();
        run(&["tokenize", &format!("{name}.toml")]).fails(3, &[data, told]);
    }
    // Images that no template writes are no fault.
    let recipe = written("text", "images.jsonl", "{text}<answer>b", "");
    assert_eq!(run(&["train", &recipe]).code, 0);
}
