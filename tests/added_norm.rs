//! Norms of queries and keys added in training: the first loss is that of the checkpoint, checkpoints on the way say how
//! far the norms count, the last is a published class.

use std::path::{Path, PathBuf};

use calumma::checkpoint::Checkpoint;
use calumma::device::Precision;
use calumma::recipe::read_recipe;
use calumma::train::{AddedNormConfig, LanguageRecipe, LanguageTask, Task, newest_good_checkpoint};
use serde_json::{Value, json};

use crate::common::cpu;
use crate::experts::{of, task};
use crate::train::{assert_same_bits, in_dir, newest, train};

/// A model without norms and with biases on queries, keys and values, as of Qwen2.
const BARE: &str = r#"
[run]
name = "bare"
seed = 5
steps = 3
eval_samples = 2
shown = 0
[model]
hidden_size = 32
intermediate_size = 48
num_hidden_layers = 2
num_attention_heads = 2
max_position_embeddings = 96
qk_norm = "none"
qkv_bias = true
[tokenizer]
checkpoint = "TOKENIZER"
[[data]]
path = "scenes:train?count=12&size=32"
templates = ["{caption}<image>"]
[[validation]]
path = "scenes:val?count=2&size=32"
templates = ["{caption}<image>"]
[optimizer]
lr = 1e-2
[batch]
sequences = 2
seq_len = 64
"#;

/// Trains the model without norms; its checkpoint, and the recipe that adds them over four steps.
fn begin(dir: &Path) -> (PathBuf, String) {
    let recipe = of(dir, BARE, &in_dir(dir, "bare"));
    train(task(&recipe), &recipe.run, None);
    let bare = newest(&recipe.run);
    let (start, end) = (BARE.find("[model]").unwrap(), BARE.find("[[data]]").unwrap());
    let text = BARE.replace(&BARE[start..end], "[add_qk_norm]\nsteps = 30\nbatches = 2\n");
    let text =
        text.replace("steps = 3\n", &format!("steps = 32\ninit = {:?}\n", bare.to_str().unwrap()));
    (bare, text)
}

fn config(checkpoint: &Path) -> Value {
    let config = std::fs::read(checkpoint.join("config.json")).unwrap();
    serde_json::from_slice(&config).unwrap()
}

/// The recipe `text` without what adds norms.
fn plain(text: &str) -> String {
    text.replace("[add_qk_norm]\nsteps = 30\nbatches = 2\n", "")
}

/// The recipe with averaged weights, in the directory `name`.
fn averaged(dir: &Path, text: &str, name: &str) -> LanguageRecipe {
    let mut overrides = in_dir(dir, name);
    overrides.push("average.decay=0.5".to_owned());
    of(dir, text, &overrides)
}

fn loss(task: &mut LanguageTask) -> f64 {
    task.evaluate().unwrap()[0].1
}

fn refused(recipe: LanguageRecipe) -> String {
    LanguageTask::new(recipe, &cpu(), Precision::F32, true).err().unwrap().to_string()
}

#[test]
fn norms_are_blended_in_from_the_outputs_of_the_model_without() {
    let scratch = tempfile::tempdir().unwrap();
    let dir = scratch.path();
    let (bare, text) = begin(dir);
    assert_eq!(config(&bare)["model_type"], "qwen2");
    let plain = plain(&text);
    let want = loss(&mut task(&of(dir, &plain, &in_dir(dir, "plain"))));
    let mut begun = task(&averaged(dir, &text, "begun"));
    assert_eq!(loss(&mut begun).to_bits(), want.to_bits());
    // Measured norms, and no batch of the run spent on them.
    let untouched = task(&of(dir, &plain, &in_dir(dir, "plain")));
    assert_eq!(json!(begun.stream()), json!(untouched.stream()));
    for (name, weight) in tensor_files::collect(begun.model()) {
        if name.ends_with("_norm.weight") && name.contains("self_attn") {
            let weight: Vec<f32> = weight.iter().collect();
            assert!(
                weight.iter().all(|w| *w == weight[0] && *w != 1.0 && *w > 0.0),
                "{name}: {weight:?}"
            );
        }
    }
}

#[test]
fn on_the_way_the_model_is_of_no_published_class_and_opens_as_it_is() {
    let scratch = tempfile::tempdir().unwrap();
    let dir = scratch.path();
    let (_, text) = begin(dir);
    let recipe = averaged(dir, &text, "stopped");
    train(task(&recipe), &recipe.run, Some(7));
    let (_, on_the_way) = newest_good_checkpoint(&recipe.run.path()).unwrap().unwrap();
    let said = config(&on_the_way);
    assert_eq!(said["model_type"], "calumma");
    // As JSON, 7 / 30 is read as its neighbour.
    let is_near = |share: f64| (share - 7.0 / 30.0).abs() < 1e-12;
    assert!(is_near(said["qk_norm_share"].as_f64().unwrap()));
    let opened = Checkpoint::open(&on_the_way, &cpu()).unwrap();
    assert!(is_near(opened.config.qk_norm_share));
    let mut resumed = task(&recipe);
    resumed.restore(&on_the_way, 0).unwrap();
    assert!(is_near(resumed.config().qk_norm_share));
    let mut others = in_dir(dir, "others");
    others.push(format!("run.init={:?}", on_the_way.to_str().unwrap()));
    let error = refused(of(dir, &plain(&text), &others));
    assert!(error.contains("blended in, at 0.2333"), "{error}");

    // The norms would jump.
    let mut faster = recipe.clone();
    faster.add_qk_norm = Some(AddedNormConfig { steps: 2, batches: 2 });
    let mut jumping = task(&faster);
    jumping.restore(&on_the_way, 0).unwrap();
    let error = jumping.step(7, 0.0).err().unwrap().to_string();
    assert!(error.contains("add_qk_norm.steps is 2, but the norms count 0.2333"), "{error}");

    let of_resumed = loss(&mut resumed);
    train(task(&recipe), &recipe.run, None);
    let straight = averaged(dir, &text, "straight");
    train(task(&straight), &straight.run, None);
    assert_same_bits(&newest(&straight.run), &newest(&recipe.run));
    let mut last = task(&recipe);
    last.restore(&newest(&recipe.run), 0).unwrap();
    assert!((0.0..of_resumed).contains(&loss(&mut last)), "the loss falls");
    let said = config(&newest(&recipe.run));
    assert_eq!((&said["model_type"], &said["attention_bias"]), (&json!("qwen3"), &json!(true)));
    assert_eq!(said.get("qk_norm_share"), None);

    let mut others = in_dir(dir, "others");
    others.push(format!("run.init={:?}", newest(&recipe.run).to_str().unwrap()));
    let error = refused(of(dir, &text, &others));
    assert!(error.contains("has norms of queries and keys already"), "{error}");
}

#[test]
fn what_norms_cannot_be_added_with_is_refused() {
    let scratch = tempfile::tempdir().unwrap();
    let dir = scratch.path();
    let (bare, text) = begin(dir);
    let path = dir.join("recipe.toml");
    for (from, to, message) in [
        ("steps = 30", "steps = 33", "add_qk_norm.steps is 33; allowed: 1 to run.steps, 32"),
        ("steps = 30", "steps = 0", "add_qk_norm.steps is 0"),
        ("batches = 2", "batches = 0", "add_qk_norm.batches is 0"),
        ("[batch]", "[model]\nqk_norm = \"none\"\n[batch]", "norms of the kind \"rms\""),
        ("[batch]", "[adapter]\nr = 2\n[batch]", "add_qk_norm and an adapter are both given"),
        ("lr = 1e-2", "train_rows = \"images\"", "add_qk_norm and optimizer.train_rows"),
        ("[batch]", "[kto]\n[batch]", "[add_qk_norm] and [loss] are not read with [kto]"),
    ] {
        std::fs::write(&path, text.replace(from, to)).unwrap();
        let error = read_recipe::<LanguageRecipe>(&path, &[]).unwrap_err().to_string();
        assert!(error.contains(message), "{error}");
    }
    // A model with latent attention.
    let latent = BARE.replace(
        "qk_norm = \"none\"\nqkv_bias = true",
        "qk_norm = \"none\"\n[model.latent]\nkv_lora_rank = 8\nqk_nope_head_dim = 8\nqk_rope_head_dim = 4\nv_head_dim = 8",
    );
    let latent = of(dir, &latent.replace("steps = 3", "steps = 1"), &in_dir(dir, "latent"));
    train(task(&latent), &latent.run, None);
    let of_latent = text.replace(bare.to_str().unwrap(), newest(&latent.run).to_str().unwrap());
    std::fs::write(&path, of_latent).unwrap();
    let error = read_recipe::<LanguageRecipe>(&path, &[]).unwrap_err().to_string();
    assert!(error.contains("latent attention has norms of its own"), "{error}");
    let without_init = text.replace(&format!("init = {:?}", bare.to_str().unwrap()), "");
    let (start, end) = (BARE.find("[model]").unwrap(), BARE.find("[[data]]").unwrap());
    let sizes = BARE[start..end].replace("\"none\"", "\"rms\"");
    std::fs::write(&path, without_init + &sizes).unwrap();
    let error = read_recipe::<LanguageRecipe>(&path, &[]).unwrap_err().to_string();
    assert!(error.contains("add_qk_norm needs run.init"), "{error}");
}
