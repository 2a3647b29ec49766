//! The commands in the documentation run, and the shipped recipes are valid.

use std::path::Path;
use std::process::Command;

/// `recipe` with fewer steps and layers.
fn shortened(recipe: &str) -> String {
    let short = |line: &str| match line.split_once(" = ") {
        Some(("steps", _)) => "steps = 4".to_owned(),
        Some(("checkpoint_every" | "eval_every", _)) => {
            line.split(" = ").next().unwrap().to_owned() + " = 2"
        }
        Some(("eval_samples", _)) => "eval_samples = 2\nshown = 1".to_owned(),
        Some(("autoencoder_steps", _)) => "autoencoder_steps = 1".to_owned(),
        Some(("preset", _)) => "preset = \"demo\"\nnum_hidden_layers = 1".to_owned(),
        _ => line.to_owned(),
    };
    recipe.lines().map(short).collect::<Vec<_>>().join("\n")
}

/// The commands in the `sh` blocks of a document.
fn commands(document: &str) -> Vec<&str> {
    let blocks = document.split("```sh\n").skip(1).map(|rest| rest.split("```").next().unwrap());
    blocks.flat_map(str::lines).filter(|line| !line.trim().is_empty()).collect()
}

#[test]
fn docs_train_your_own_runs_as_written() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let dir = tempfile::tempdir().unwrap();
    let recipes = dir.path().join("recipes/own");
    std::fs::create_dir_all(&recipes).unwrap();
    for name in ["vq.toml", "bpe.toml", "tokens.toml", "lm.toml"] {
        let text = std::fs::read_to_string(root.join("recipes/own").join(name)).unwrap();
        std::fs::write(recipes.join(name), shortened(&text)).unwrap();
    }
    let document = std::fs::read_to_string(root.join("docs/train-your-own.md")).unwrap();
    // Fewer scenes as well.
    run_all(&document, dir.path(), &[("--count 4000", "--count 60"), ("--count 200", "--count 8")]);
    assert!(dir.path().join("runs/own-lm/report.html").is_file());
    assert!(dir.path().join("own-model/model.safetensors").is_file());
    let drawn = std::fs::read_dir(dir.path().join("drawn")).unwrap().count();
    assert_eq!(drawn, 1);
}

#[test]
fn docs_fine_tune_runs_as_written() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let dir = tempfile::tempdir().unwrap();
    let recipes = dir.path().join("recipes/fine-tune");
    std::fs::create_dir_all(&recipes).unwrap();
    for entry in std::fs::read_dir(root.join("recipes/fine-tune")).unwrap() {
        let path = entry.unwrap().path();
        let text = shortened(&std::fs::read_to_string(&path).unwrap());
        let text = text.replace("count=2000", "count=12").replace("count=4000", "count=12");
        let text = text.replace("count=64", "count=4");
        let text = text
            .replace("eval_samples = 64", "eval_samples = 2")
            .replace("prompts_per_step = 8", "prompts_per_step = 1")
            .replace("num_generations = 8", "num_generations = 2");
        std::fs::write(recipes.join(path.file_name().unwrap()), text).unwrap();
    }
    let demo = dir.path().join("checkpoints/demo");
    std::fs::create_dir_all(demo.join("vq_tokenizer")).unwrap();
    for folder in ["", "vq_tokenizer"] {
        let from = root.join("checkpoints/demo").join(folder);
        for entry in std::fs::read_dir(from).unwrap() {
            let path = entry.unwrap().path();
            if path.is_file() {
                std::fs::copy(&path, demo.join(folder).join(path.file_name().unwrap())).unwrap();
            }
        }
    }
    let document = std::fs::read_to_string(root.join("docs/fine-tune.md")).unwrap();
    run_all(&document, dir.path(), &[("--count 200", "--count 8"), ("--count 1000", "--count 12")]);
    for made in ["runs/preferences/latest/adapter_config.json", "my-model/model.safetensors"] {
        assert!(dir.path().join(made).is_file(), "{made}");
    }
}

/// Runs the commands of a document in `dir`, made shorter by some replacements.
fn run_all(document: &str, dir: &Path, shorter: &[(&str, &str)]) {
    let commands = commands(document);
    assert!(commands.len() > 12, "{commands:?}");
    for command in commands {
        let mut line = command.to_owned();
        for (long, short) in shorter {
            line = line.replace(long, short);
        }
        let program = format!("{} --device cpu ", env!("CARGO_BIN_EXE_calumma"));
        let line = line.replacen("calumma ", &program, 1);
        let output = Command::new("sh").arg("-c").arg(&line).current_dir(dir).output().unwrap();
        assert!(output.status.success(), "{command}: {}", String::from_utf8_lossy(&output.stderr));
    }
}

#[test]
fn every_recipe_is_valid() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut seen = 0;
    for folder in ["recipes", "recipes/own", "recipes/ablation", "recipes/fine-tune"] {
        for entry in std::fs::read_dir(root.join(folder)).unwrap() {
            let path = entry.unwrap().path();
            let is_recipe = path.extension().is_some_and(|e| e == "toml");
            if !is_recipe || path.ends_with("ablation/ways.toml") {
                continue;
            }
            let outcome = super::calumma_in(root, &["inspect", super::text(&path)]);
            assert_eq!(outcome.code, 0, "{}: {}", path.display(), outcome.stderr);
            seen += 1;
        }
    }
    assert!(seen > 12);
}
