//! Training an extended model: its new rows, then all of it.

use std::fs;
use std::path::Path;

use calumma::checkpoint::weight_files;
use serde_json::json;
use tensor_files::WeightFiles;

use super::{TABLES, calumma_in, demo, downloaded, extend, image, json_file, rows, text};

/// A recipe that trains `init` on images with captions.
fn recipe(dir: &Path, name: &str, init: &str, optimizer: &str) {
    let recipe = format!(
        r#"
[run]
name = "{name}"
init = "{init}"
steps = 2
checkpoint_every = 2
shown = 1
[[data]]
path = "scenes:train?count=16&seed=1&objects=1-1"
loss = "images-and-answers"
prompt_dropout = 0.1
templates = ["{{caption}}<image>"]
[[data]]
path = "scenes:train?count=16&seed=1&objects=1-1"
templates = ["{{caption}}"]
[[validation]]
name = "drawing"
path = "scenes:val?count=2&seed=1&objects=1-1"
templates = ["{{caption}}<image>"]
[optimizer]
lr = 1e-2
weight_decay = 0.5
{optimizer}
[schedule]
warmup = 1
[batch]
sequences = 2
seq_len = 128
"#
    );
    fs::write(dir.join(format!("{name}.toml")), recipe).unwrap();
}

#[test]
fn the_rows_of_images_are_trained_alone_and_then_all() {
    let dir = downloaded("llama-gqa");
    let run = |args: &[&str]| calumma_in(dir.path(), args);
    extend(dir.path(), "lm", "new", &[]).json();
    recipe(dir.path(), "rows", "new", "train_rows = \"images\"");
    recipe(dir.path(), "all", "runs/rows/latest", "");
    recipe(dir.path(), "text", "lm", "train_rows = \"images\"");
    let of_text = fs::read_to_string(dir.path().join("text.toml")).unwrap();
    let of_text = of_text.replace("<image>", "").replace("\"images-and-answers\"", "\"all\"");
    fs::write(dir.path().join("text.toml"), of_text).unwrap();
    let trained = run(&["train", "rows.toml"]);
    assert_eq!(trained.code, 0, "{}", trained.stderr);
    let [before, after] =
        ["new", "runs/rows/latest"].map(|name| weight_files(&dir.path().join(name)).unwrap().1);
    for (name, ..) in before.infos() {
        let (old, new) = (before.stored(&name).unwrap(), after.stored(&name).unwrap());
        if !TABLES.contains(&name.as_str()) {
            assert_eq!(old, new, "{name}");
            continue;
        }
        // Markers are 298 and 299, the placeholder 300; all other ids are text or holes.
        assert_eq!(rows(&old, 0..298), rows(&new, 0..298), "{name}");
        assert_eq!(rows(&old, 301..320), rows(&new, 301..320), "{name}");
        assert_ne!(rows(&old, 320..1344), rows(&new, 320..1344), "{name}");
    }
    let moments =
        WeightFiles::open(&dir.path().join("runs/rows/latest/trainer/optimizer.safetensors"));
    let moments = moments.unwrap();
    for (name, _, shape) in moments.infos().iter().filter(|(name, ..)| name != "step") {
        assert_eq!(shape[0], (1024 + 3) * 32, "{name}");
    }
    assert_eq!(moments.infos().len(), 5);
    let config = json_file(dir.path().join("runs/rows/latest/config.json"));
    assert_eq!((&config["model_type"], &config["vocab_size"]), (&json!("llama"), &json!(1344)));
    assert_eq!(config.get("vocabulary_map"), None);
    let settings = json_file(dir.path().join("runs/rows/latest/tokenizer_config.json"));
    assert_eq!(settings["boi_token"], "<|vision_start|>");
    let picture = image(dir.path(), "a.png");
    let captioned = run(&["caption", "runs/rows/latest", text(&picture), "--max-tokens", "4"]);
    assert_eq!(captioned.code, 0, "{}", captioned.stderr);
    let drawn = run(&["draw", "runs/rows/latest", "a circle", "--out", "."]);
    assert_eq!(drawn.code, 0, "{}", drawn.stderr);

    let trained = run(&["train", "all.toml"]);
    assert_eq!(trained.code, 0, "{}", trained.stderr);
    let last = weight_files(&dir.path().join("runs/all/latest")).unwrap().1;
    for (name, ..) in before.infos() {
        assert_ne!(after.stored(&name).unwrap(), last.stored(&name).unwrap(), "{name}");
    }

    run(&["train", "text.toml"])
        .fails(3, &["optimizer.train_rows is images", "has no codes of images"]);
    for (set, told) in [
        ("average.decay=0.9", "optimizer.train_rows and average.decay"),
        ("optimizer.train_rows=\"new\"", "unknown variant `new`, expected `images`"),
    ] {
        let refused = run(&["train", "rows.toml", "--set", set]);
        assert!(refused.code != 0 && refused.stderr.contains(told), "{}", refused.stderr);
    }
    // Moments of rows are none of whole matrices.
    recipe(dir.path(), "rows", "new", "");
    run(&["train", "rows.toml", "--set", "run.steps=9"])
        .fails(3, &["optimizer.safetensors", "optimizer.train_rows is another than before"]);
}

#[test]
fn the_recipes_make_an_extended_model_from_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let demo = demo();
    let run = |args: &[&str]| {
        let outcome = calumma_in(dir.path(), args);
        assert_eq!(outcome.code, 0, "{args:?}: {}", outcome.stderr);
    };
    // Fewer samples, steps and layers.
    let shortened = |name: &str| {
        let recipes = Path::new(env!("CARGO_MANIFEST_DIR")).join("recipes");
        let recipe = fs::read_to_string(recipes.join(name)).unwrap();
        let recipe = recipe.replace("count=40000", "count=8").replace("count=12000", "count=50");
        fs::write(dir.path().join(name), recipe).unwrap();
    };
    let train = |name: &str| {
        shortened(name);
        let mut args = vec!["train", name];
        for set in [
            "run.steps=2",
            "run.eval_samples=2",
            "run.checkpoint_every=2",
            "batch.sequences=2",
            "model.num_hidden_layers=1",
        ] {
            args.extend(["--set", set]);
        }
        run(&args);
    };
    shortened("extend-bpe.toml");
    run(&["bpe", "train", "extend-bpe.toml", "--set", "run.documents=50"]);
    train("extend-text.toml");
    let config = json_file(dir.path().join("runs/extend-text/latest/config.json"));
    assert_eq!((&config["model_type"], &config["vocab_size"]), (&json!("qwen3"), &json!(1024)));
    run(&["extend", "runs/extend-text/latest", text(&demo), "runs/extended"]);
    train("extend-rows.toml");
    train("extend-all.toml");
    train("extend-scratch.toml");
    let picture = image(dir.path(), "a.png");
    run(&["caption", "runs/extend-all/latest", text(&picture), "--max-tokens", "2"]);
    run(&["export", "runs/extend-all/latest", "hf", "--layout", "hf"]);
}
