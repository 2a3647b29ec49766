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
    let commands = commands(&document);
    assert!(commands.len() > 12, "{commands:?}");
    for command in commands {
        // Fewer scenes as well.
        let shorter =
            command.replace("--count 4000", "--count 60").replace("--count 200", "--count 8");
        let line = shorter.replacen(
            "calumma ",
            &format!("{} --device cpu ", env!("CARGO_BIN_EXE_calumma")),
            1,
        );
        let output =
            Command::new("sh").arg("-c").arg(&line).current_dir(dir.path()).output().unwrap();
        assert!(output.status.success(), "{command}: {}", String::from_utf8_lossy(&output.stderr));
    }
    assert!(dir.path().join("runs/own-lm/report.html").is_file());
    assert!(dir.path().join("own-model/model.safetensors").is_file());
    let drawn = std::fs::read_dir(dir.path().join("drawn")).unwrap().count();
    assert_eq!(drawn, 1);
}

#[test]
fn every_recipe_is_valid() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut seen = 0;
    for folder in ["recipes", "recipes/own", "recipes/ablation"] {
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
