//! Training on preferences: the start, the reference in its three forms, resume, and what is refused.

use std::path::{Path, PathBuf};

use calumma::device::Precision;
use calumma::recipe::read_recipe;
use calumma::train::preference::PreferenceTask;
use calumma::train::{LanguageRecipe, Task};
use image::{Rgb, RgbImage};
use serde_json::json;
use tempfile::TempDir;

use crate::common::{cpu, tiny_checkpoint};
use crate::train::{in_dir, newest, train};

pub const RECIPE: &str = r#"
[run]
name = "preference"
seed = 5
steps = 6
checkpoint_every = 100
eval_samples = 4
[[data]]
path = "pairs.jsonl"
templates = ["{prompt}<answer>{answer}"]
[[validation]]
path = "pairs.jsonl"
templates = ["{prompt}<answer>{answer}"]
[preference]
beta = 0.5
[optimizer]
lr = 1e-2
weight_decay = 0.0
[batch]
sequences = 2
seq_len = 96
accumulate = 2
"#;

pub const ADAPTER: [&str; 2] = ["adapter.r=4", "adapter.lora_alpha=16"];

/// A directory with a base, and pairs of texts and of images.
pub fn with_pairs() -> TempDir {
    let dir = tempfile::tempdir().unwrap();
    tiny_checkpoint(&dir.path().join("base"));
    for (name, colour) in [("red.png", [220, 20, 20]), ("blue.png", [20, 20, 220])] {
        let image =
            RgbImage::from_fn(
                32,
                32,
                |x, y| if (x + y) % 9 < 5 { Rgb(colour) } else { Rgb([0; 3]) },
            );
        image.save(dir.path().join(name)).unwrap();
    }
    let image = |name: &str| json!([{ "type": "image", "path": name }]);
    let rows = [
        json!({ "prompt": "what colour is it? ", "chosen": "a red square", "rejected": "blue" }),
        json!({ "prompt": "a red square", "chosen": image("red.png"), "rejected": image("blue.png") }),
        json!({ "prompt": "a blue circle", "chosen": image("blue.png"), "rejected": image("red.png") }),
        json!({ "prompt": "is it? ", "chosen": "a blue circle", "rejected": "square square" }),
        json!({ "prompt": "what? ", "chosen": "red", "rejected": "it it it" }),
    ];
    let lines: Vec<String> = rows.iter().map(ToString::to_string).collect();
    std::fs::write(dir.path().join("pairs.jsonl"), lines.join("\n")).unwrap();
    dir
}

fn recipe_in(dir: &Path, name: &str, settings: &[&str]) -> calumma::Result<LanguageRecipe> {
    recipe_of(RECIPE, dir, name, settings)
}

/// The recipe `recipe` on the pairs and the base in `dir`.
pub fn recipe_of(
    recipe: &str,
    dir: &Path,
    name: &str,
    settings: &[&str],
) -> calumma::Result<LanguageRecipe> {
    let text = |path: PathBuf| path.to_str().unwrap().to_owned();
    let recipe = recipe.replace("pairs.jsonl", &text(dir.join("pairs.jsonl")));
    let path = dir.join("recipe.toml");
    std::fs::write(&path, recipe).unwrap();
    let mut overrides = in_dir(dir, name);
    overrides.push(format!("run.init={:?}", text(dir.join("base"))));
    overrides.extend(settings.iter().map(|set| (*set).to_owned()));
    read_recipe(&path, &overrides)
}

fn task(dir: &Path, name: &str, settings: &[&str]) -> PreferenceTask {
    let recipe = recipe_in(dir, name, settings).unwrap();
    PreferenceTask::new(recipe, &cpu(), Precision::F32, true).unwrap()
}

/// The metrics called `name` of the first `steps` steps.
fn values(task: &mut PreferenceTask, steps: usize, name: &str) -> Vec<f64> {
    let mut step = |step| {
        let metrics = task.step(step, 1e-2).unwrap().metrics;
        metrics.iter().find(|(known, _)| known == name).unwrap_or_else(|| panic!("{name}")).1
    };
    (0..steps).map(&mut step).collect()
}

#[test]
fn the_first_loss_is_ln_2_for_texts_and_images_and_both_kinds_of_training() {
    for settings in
        [&[][..], &ADAPTER, &["reference.image_log_probs=full"], &["reference.precompute=true"]]
    {
        let dir = with_pairs();
        let mut task = task(dir.path(), "run", settings);
        assert_eq!(task.num_pairs(), 5);
        let first = task.step(0, 1e-2).unwrap().metrics;
        let of = |name: &str| first.iter().find(|(known, _)| known == name).unwrap().1;
        assert!((of("loss") - 2f64.ln()).abs() < 1e-6, "{settings:?}: {}", of("loss"));
        assert_eq!((of("rewards/accuracies"), of("rewards/margins")), (0.0, 0.0), "{settings:?}");
        assert!(of("logps/chosen") < 0.0 && of("entropy") > 0.0);
    }
}

#[test]
fn pairs_are_learnt_and_the_reference_is_the_same_in_every_form() {
    let dir = with_pairs();
    let losses = |name: &str, more: &[&str]| {
        let settings = [&ADAPTER[..], more].concat();
        values(&mut task(dir.path(), name, &settings), 12, "loss")
    };
    let model = losses("model", &[]);
    let kept = losses("kept", &["reference.precompute=true"]);
    for (step, (model, kept)) in model.iter().zip(&kept).enumerate() {
        assert!((model - kept).abs() < 1e-5, "step {step}: {model} {kept}");
    }
    assert!(model[11] < 0.1 * model[0], "{model:?}");
    // The numbers that an earlier start kept are read again, unless the data changed.
    let path = dir.path().join("kept/preference/reference.json");
    let stored = std::fs::read_to_string(&path).unwrap();
    std::fs::write(&path, stored.replace("[[", "[[1.0,1.0],[")).unwrap();
    let again = losses("kept", &["reference.precompute=true"]);
    assert_eq!(again, kept, "a list of another length is computed anew");
}

#[test]
fn every_loss_trains() {
    let dir = with_pairs();
    for (loss, more) in [
        ("'conservative'", "preference.label_smoothing=0.1"),
        ("'robust'", "preference.label_smoothing=0.1"),
        ("'hinge'", "run.seed=1"),
        ("'ipo'", "run.seed=1"),
        ("'sigmoid_norm'", "run.seed=1"),
        ("'exo_pair'", "preference.label_smoothing=0.001"),
        ("'nca_pair'", "run.seed=1"),
        ("'bco_pair'", "run.seed=1"),
        ("'sppo_hard'", "run.seed=1"),
        ("'aot'", "run.seed=1"),
        ("'aot_unpaired'", "run.seed=1"),
        ("'apo_zero'", "run.seed=1"),
        ("'apo_down'", "run.seed=1"),
        ("'discopop'", "run.seed=1"),
        ("'sft'", "run.seed=1"),
        ("'cpo'", "run.seed=1"),
        ("'simpo'", "run.seed=1"),
        ("'orpo'", "run.seed=1"),
        ("['sigmoid', 'bco_pair', 'sft']", "preference.loss_weights=[0.8, 0.2, 1.0]"),
        ("'sigmoid'", "preference.use_weighting=true"),
        ("'sigmoid'", "preference.ld_alpha=0.5"),
        ("'sigmoid'", "preference.f_divergence_type='js_divergence'"),
    ] {
        let loss_type = format!("preference.loss_type={loss}");
        let settings = [&ADAPTER[..], &[&loss_type, more]].concat();
        let name = format!("{loss}{more}").replace(|c: char| !c.is_ascii_alphanumeric(), "");
        let mut task = task(dir.path(), &name, &settings);
        let evaluated = |task: &mut PreferenceTask| task.evaluate().unwrap()[0].1;
        let before = evaluated(&mut task);
        values(&mut task, 8, "loss");
        let after = evaluated(&mut task);
        assert!(before.is_finite() && after < before, "{loss} {more}: {before} {after}");
    }
}

#[test]
fn answers_with_a_verdict_are_learnt() {
    for loss in ["kto", "apo_zero_unpaired"] {
        let dir = with_pairs();
        let rows = [
            json!({ "prompt": "what? ", "completion": "red", "label": true }),
            json!({ "prompt": "what? ", "completion": "it it it", "label": false }),
            json!({ "prompt": "a red square", "completion": [{ "type": "image", "path": "red.png" }], "label": true }),
            json!({ "prompt": "a red square", "completion": [{ "type": "image", "path": "blue.png" }], "label": false }),
        ];
        let lines: Vec<String> = rows.iter().map(ToString::to_string).collect();
        std::fs::write(dir.path().join("pairs.jsonl"), lines.join("\n")).unwrap();
        let text = RECIPE.replace("[preference]\n", "[kto]\n");
        let path = dir.path().join("kto.toml");
        let pairs = dir.path().join("pairs.jsonl");
        std::fs::write(&path, text.replace("pairs.jsonl", pairs.to_str().unwrap())).unwrap();
        let mut overrides = in_dir(dir.path(), loss);
        overrides.push(format!("run.init={:?}", dir.path().join("base").to_str().unwrap()));
        overrides.push(format!("kto.loss_type='{loss}'"));
        overrides.extend(ADAPTER.map(str::to_owned));
        let recipe: LanguageRecipe = read_recipe(&path, &overrides).unwrap();
        let mut task = PreferenceTask::new(recipe, &cpu(), Precision::F32, true).unwrap();
        let losses = values(&mut task, 12, "loss");
        assert!((losses[0] - 0.5).abs() < 1e-6, "{loss}: {losses:?}");
        assert!(losses[11] < 0.35, "{loss}: {losses:?}");
    }
}

#[test]
fn a_resumed_run_has_the_bits_of_an_uninterrupted_one() {
    for (kind, settings) in [
        &ADAPTER[..],
        &["reference.precompute=true"],
        &["average.decay=0.9", "batch.activation_checkpointing=true"],
    ]
    .iter()
    .enumerate()
    {
        let dir = with_pairs();
        let run = |name: &str, stops: &[Option<usize>]| {
            let recipe = recipe_in(dir.path(), name, settings).unwrap();
            for stop in stops {
                let task = PreferenceTask::new(recipe.clone(), &cpu(), Precision::F32, true);
                train(task.unwrap(), &recipe.run, *stop);
            }
            newest(&recipe.run)
        };
        let (straight, stopped) = (run("straight", &[None]), run("stopped", &[Some(3), None]));
        let weights = if kind == 0 { "adapter_model.safetensors" } else { "model.safetensors" };
        for name in [weights, "trainer/optimizer.safetensors", "trainer/state.json"] {
            let [a, b] = [&straight, &stopped].map(|dir| std::fs::read(dir.join(name)).unwrap());
            assert!(a == b, "{name} of kind {kind} differs");
        }
    }
}

#[test]
fn what_is_learnt_is_shown_in_brackets() {
    let dir = with_pairs();
    let shown = task(dir.path(), "run", &[]).preview().unwrap();
    assert_eq!(shown.len(), 4);
    let all = shown.join("\n");
    assert!(
        all.contains("a red square⟦[image 4x4]") || all.contains("what colour is it? ⟦"),
        "{all}"
    );
}

#[test]
fn settings_and_data_that_do_not_fit_are_refused() {
    let dir = with_pairs();
    for (set, words) in [
        ("preference.beta=0.0", "preference.beta is 0"),
        ("preference.label_smoothing=0.1", "label_smoothing is read by"),
        ("preference.loss='sigmoid'", "the nearest known key is"),
        (
            "data=[{ path = 'scenes:train?count=2', templates = ['{prompt}<answer>{answer}'] }]",
            "there is no prompt",
        ),
        ("data=[{ path = 'x', templates = ['{prompt}', '{answer}'] }]", "allowed: one, such as"),
        ("data=[{ path = 'x' }]", "token shards hold no pairs"),
        ("batch.seq_len=8", "none of 5 rows fits 8 tokens"),
        ("loss.z_loss=0.1", "[loss] are not read with [preference]"),
        ("kto.beta=0.1", "both given"),
        (
            "data=[{ path = 'x', templates = ['{prompt}<answer>{answer}'], prompt_dropout = 0.1 }]",
            "prompt_dropout is not read",
        ),
    ] {
        let made = recipe_in(dir.path(), "refused", &[set])
            .and_then(|recipe| PreferenceTask::new(recipe, &cpu(), Precision::F32, true).map(drop));
        let message = made.unwrap_err().to_string();
        assert!(message.contains(words), "{set}: {message}");
    }
    let both = ["reference.precompute=true", "preference.ld_alpha=0.5"];
    let message = recipe_in(dir.path(), "refused", &both).unwrap_err().to_string();
    assert!(message.contains("allowed: one of them"), "{message}");
}
