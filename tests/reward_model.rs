//! Reward models: training, resume, the rewards of a checkpoint, and rewards of roll-outs.

use std::path::{Path, PathBuf};

use burn::tensor::FloatDType;
use calumma::checkpoint::adapter::WeightedAdapter;
use calumma::checkpoint::{Checkpoint, Conversion, Layout};
use calumma::data::{AnswerLayout, PreferenceRow};
use calumma::device::Precision;
use calumma::generate::ServingModel;
use calumma::train::preference::PreferenceTask;
use calumma::train::{LanguageRecipe, Task};
use serde_json::json;

use crate::cli::calumma_in;
use crate::common::cpu;
use crate::preference::{ADAPTER, RECIPE, recipe_of, with_pairs};
use crate::train::{newest, train};

/// A recipe on the pairs and the base in `dir`.
fn recipe_in(dir: &Path, name: &str, settings: &[&str]) -> calumma::Result<LanguageRecipe> {
    let section = "[reward_model]\ncenter_rewards_coefficient = 0.01";
    let recipe = RECIPE.replace("[preference]\nbeta = 0.5", section);
    recipe_of(&recipe, dir, name, &[&["run.steps=10"], settings].concat())
}

fn task(dir: &Path, name: &str, settings: &[&str]) -> PreferenceTask {
    let recipe = recipe_in(dir, name, settings).unwrap();
    PreferenceTask::new(recipe, &cpu(), Precision::F32, true).unwrap()
}

/// A checkpoint of a reward model that was trained on two pairs with the base in `dir`.
pub fn trained_in(dir: &Path, settings: &[&str]) -> PathBuf {
    let rows = [
        json!({ "prompt": "what? ", "chosen": "red", "rejected": "it it it" }),
        json!({ "prompt": "is it? ", "chosen": "a blue circle", "rejected": "square square" }),
    ];
    let lines: Vec<String> = rows.iter().map(ToString::to_string).collect();
    std::fs::write(dir.join("pairs.jsonl"), lines.join("\n")).unwrap();
    let recipe = recipe_in(dir, "trained", settings).unwrap();
    train(task(dir, "trained", settings), &recipe.run, None);
    newest(&recipe.run)
}

fn metric(metrics: &[(std::borrow::Cow<'static, str>, f64)], name: &str) -> f64 {
    let found = metrics.iter().find(|(known, _)| known == name);
    found.unwrap_or_else(|| panic!("{name} is not in {metrics:?}")).1
}

#[test]
fn the_preferred_answer_gets_the_higher_reward_text_or_image() {
    for settings in [&ADAPTER[..], &["batch.activation_checkpointing=true"]] {
        let dir = with_pairs();
        // Without the row that prefers the other image, which this model learns slowly.
        let path = dir.path().join("pairs.jsonl");
        let rows = std::fs::read_to_string(&path).unwrap();
        let is_kept = |row: &&str| !row.contains("\"prompt\":\"a blue circle\"");
        std::fs::write(&path, rows.lines().filter(is_kept).collect::<Vec<_>>().join("\n")).unwrap();
        let mut task = task(dir.path(), "learnt", settings);
        assert_eq!(task.num_pairs(), 4);
        let first = task.step(0, 1e-2).unwrap().metrics;
        assert!((metric(&first, "loss") - 2f64.ln()).abs() < 0.3, "{first:?}");
        for step in 1..60 {
            task.step(step, 1e-2).unwrap();
        }
        let found = task.evaluate().unwrap();
        assert_eq!(metric(&found, "accuracy"), 1.0, "{found:?}");
        assert!(metric(&found, "margin") > 1.0 && metric(&found, "loss") < 0.3, "{found:?}");
    }
}

#[test]
fn answers_that_change_sides_change_the_sign_of_the_margin() {
    let dir = with_pairs();
    let evaluated =
        |name: &str| task(dir.path(), name, &["run.eval_samples=5"]).evaluate().unwrap();
    let found = evaluated("as-they-are");
    let path = dir.path().join("pairs.jsonl");
    let rows = std::fs::read_to_string(&path).unwrap();
    let swapped =
        rows.replace("chosen", "x").replace("rejected", "chosen").replace("\"x\"", "\"rejected\"");
    std::fs::write(&path, swapped).unwrap();
    let other = evaluated("swapped");
    assert!((metric(&found, "margin") + metric(&other, "margin")).abs() < 1e-6);
    assert!((metric(&found, "accuracy") + metric(&other, "accuracy") - 1.0).abs() < 1e-12);
    assert_eq!(metric(&found, "max_reward"), metric(&other, "max_reward"));
}

#[test]
fn a_wanted_distance_raises_the_loss_until_it_is_there() {
    let dir = with_pairs();
    let path = dir.path().join("pairs.jsonl");
    let rows = std::fs::read_to_string(&path).unwrap();
    let first = |name: &str| {
        let settings = ["reward_model.center_rewards_coefficient=0.0"];
        metric(&task(dir.path(), name, &settings).evaluate().unwrap(), "loss")
    };
    let without = first("without");
    std::fs::write(&path, rows.replace("\"prompt\"", "\"margin\": 3.0, \"prompt\"")).unwrap();
    assert!(first("with") > without + 1.0);
}

#[test]
fn a_resumed_run_has_the_bits_of_an_uninterrupted_one() {
    for (kind, settings) in
        [&ADAPTER[..], &["average.decay=0.9", "batch.activation_checkpointing=true"]]
            .iter()
            .enumerate()
    {
        let dir = with_pairs();
        let run = |name: &str, stops: &[Option<usize>]| {
            let recipe = recipe_in(dir.path(), name, settings).unwrap();
            for stop in stops {
                train(task(dir.path(), name, settings), &recipe.run, *stop);
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

/// The rewards of both answers of the pairs in `dir` by a checkpoint, answer after answer.
fn rewards(checkpoint: Checkpoint, dir: &Path) -> Vec<f32> {
    let layout = AnswerLayout::new(&checkpoint.processor).unwrap();
    let rows = std::fs::read_to_string(dir.join("pairs.jsonl")).unwrap();
    let mut documents = Vec::new();
    for line in rows.lines().filter(|line| !line.contains("png")) {
        let row = PreferenceRow::of(&serde_json::from_str(line).unwrap()).unwrap();
        documents.extend(layout.preference(&row, &[]).unwrap().documents());
    }
    let serving = ServingModel::new(checkpoint.config, checkpoint.model, cpu());
    documents.iter().map(|document| serving.reward(&document.ids).unwrap()).collect()
}

#[test]
fn a_checkpoint_gives_the_rewards_of_training_whole_as_an_adapter_and_merged() {
    for settings in [&ADAPTER[..], &[]] {
        let dir = tempfile::tempdir().unwrap();
        crate::common::tiny_checkpoint(&dir.path().join("base"));
        let trained = trained_in(dir.path(), settings);
        let is_adapter = !settings.is_empty();
        let (base, adapters) = match is_adapter {
            true => (dir.path().join("base"), vec![WeightedAdapter { dir: trained, weight: 1.0 }]),
            false => (trained, Vec::new()),
        };
        let open = |base: &Path, adapters: &[WeightedAdapter]| {
            Checkpoint::open_with(base, &cpu(), FloatDType::F32, adapters).unwrap()
        };
        let found = rewards(open(&base, &adapters), dir.path());
        assert!(found.chunks(2).all(|pair| pair[0] > pair[1] + 0.5), "{found:?}");
        // The same through the command line, from text.
        let segments = |text: &str| json!({ "segments": [{ "type": "text", "text": text }] });
        let lines = [segments("what? red").to_string(), segments("what? it it it").to_string()];
        std::fs::write(dir.path().join("d.jsonl"), lines.join("\n")).unwrap();
        let base_text = base.to_str().unwrap();
        let mut args = vec!["score", base_text, "d.jsonl", "--reward"];
        let adapter = adapters.first().map(|adapter| adapter.dir.to_str().unwrap());
        args.extend(adapter.iter().flat_map(|dir| ["--adapter", dir]));
        let outcome = calumma_in(dir.path(), &[&args[..], &["--json"]].concat()).json();
        for (line, want) in outcome.iter().zip(&found[..2]) {
            let got = line["reward"].as_f64().unwrap();
            assert!((got - f64::from(*want)).abs() < 1e-5, "{got} {want}");
        }
        let mean = outcome[2]["mean_reward"].as_f64().unwrap();
        assert!((mean - f64::from(found[0] + found[1]) / 2.0).abs() < 1e-5);
        // Merged, the base has the head.
        if is_adapter {
            let merged = dir.path().join("merged");
            let conversion =
                Conversion { adapters: adapters.clone(), ..Conversion::to(Layout::Calumma) };
            conversion.run(&base, &merged).unwrap();
            let again = rewards(open(&merged, &[]), dir.path());
            assert!(again.iter().zip(&found).all(|(a, b)| (a - b).abs() < 1e-4), "{again:?}");
            let without = calumma_in(dir.path(), &["score", base_text, "d.jsonl", "--reward"]);
            assert!(without.stderr.contains("has no score head"), "{}", without.stderr);
        }
    }
}

#[test]
fn an_adapter_without_a_head_is_no_beginning() {
    let dir = with_pairs();
    let plain = dir.path().join("plain");
    let recipe = recipe_in(dir.path(), "headless", &ADAPTER).unwrap();
    train(task(dir.path(), "headless", &ADAPTER), &recipe.run, None);
    let trained = newest(&recipe.run);
    std::fs::create_dir(&plain).unwrap();
    for name in ["adapter_config.json", "adapter_model.safetensors"] {
        std::fs::copy(trained.join(name), plain.join(name)).unwrap();
    }
    let on = |dir: &Path| format!("run.init_adapter={:?}", dir.to_str().unwrap());
    task(dir.path(), "further", &[&on(&plain)]).step(0, 1e-2).unwrap();
    let config = std::fs::read_to_string(plain.join("adapter_config.json")).unwrap();
    let config = config.replace("[\n    \"score\"\n  ]", "null").replace("SEQ_CLS", "CAUSAL_LM");
    assert!(config.contains("\"modules_to_save\": null"), "{config}");
    std::fs::write(plain.join("adapter_config.json"), config).unwrap();
    let recipe = recipe_in(dir.path(), "refused", &[&on(&plain)]).unwrap();
    let made = PreferenceTask::new(recipe, &cpu(), Precision::F32, true);
    let Err(error) = made else { panic!("it has no head") };
    let message = error.to_string();
    assert!(message.contains("score"), "{message}");
}

#[test]
fn settings_and_data_that_do_not_fit_are_refused() {
    let dir = with_pairs();
    for (set, words) in [
        ("reward_model.center_rewards_coefficient=-1", "center_rewards_coefficient is -1"),
        ("preference.beta=0.1", "[preference] and [reward_model] are both given"),
        ("loss.z_loss=0.1", "[loss] are not read with [reward_model]"),
        ("batch.seq_len=8", "none of 5 rows fits 7 tokens"),
        ("data=[{ path = 'x' }]", "token shards hold no pairs"),
    ] {
        let made = recipe_in(dir.path(), "refused", &[set])
            .and_then(|recipe| PreferenceTask::new(recipe, &cpu(), Precision::F32, true));
        let Err(error) = made else { panic!("{set} is accepted") };
        assert!(error.to_string().contains(words), "{set}: {error}");
    }
}
