//! PEFT opens our adapters, and TRL's trainers and ours agree loss by loss; `tests/post_training_peers.sh` runs this.
#![allow(clippy::print_stdout, reason = "figures are what `--nocapture` shows")]

use std::path::{Path, PathBuf};
use std::process::Command;

use burn::tensor::FloatDType;
use calumma::checkpoint::adapter::WeightedAdapter;
use calumma::checkpoint::{Checkpoint, Conversion, Layout};
use calumma::data::{AnswerLayout, Encoding, Preferences, SourceConfig};
use calumma::device::Precision;
use calumma::generate::ServingModel;
use calumma::recipe::read_recipe;
use calumma::train::preference::PreferenceTask;
use calumma::train::{LanguageRecipe, LanguageTask, Task};
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::common::{cpu, fixture};
use crate::train::{newest, train};

const STEPS: usize = 5;
const LR: f64 = 2e-3;

/// The Python with the packages; without it nothing is compared, which the script says.
fn python() -> Option<String> {
    std::env::var("CALUMMA_POST_TRAINING_PYTHON").ok()
}

/// The numbers that the peer computes for `job`.
fn peer(python: &str, dir: &Path, job: &Value) -> Vec<f64> {
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/post_training_peer.py");
    let [input, output] = ["job.json", "out.json"].map(|name| dir.join(name));
    std::fs::write(&input, job.to_string()).unwrap();
    let done = Command::new(python).arg(script).args([&input, &output]).output().unwrap();
    assert!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
    serde_json::from_slice(&std::fs::read(output).unwrap()).unwrap()
}

/// The base in transformers' layout, and in ours below the returned directory.
fn bases() -> (PathBuf, TempDir) {
    let base = fixture("models/prenorm-gqa");
    let dir = tempfile::tempdir().unwrap();
    Conversion::to(Layout::Calumma).run(&base, &dir.path().join("base")).unwrap();
    (base, dir)
}

/// A recipe that trains on `rows`, one document a step.
fn recipe(dir: &Path, rows: &[Value], more: &str) -> LanguageRecipe {
    let lines: Vec<String> = rows.iter().map(ToString::to_string).collect();
    std::fs::write(dir.join("rows.jsonl"), lines.join("\n")).unwrap();
    let at = |name: &str| dir.join(name).display().to_string();
    let text = format!(
        "[run]\nname = \"run\"\ndirectory = {:?}\ninit = {:?}\nsteps = {STEPS}\ncheckpoint_every = 100\nshown = 0\n\
         [optimizer]\nlr = {LR}\nbetas = [0.9, 0.999]\neps = 1e-8\nweight_decay = 0.0\ngrad_clip = 0.0\n\
         [[data]]\npath = {:?}\n{more}",
        at("runs"),
        at("base"),
        at("rows.jsonl")
    );
    std::fs::write(dir.join("recipe.toml"), text).unwrap();
    read_recipe(&dir.join("recipe.toml"), &[]).unwrap()
}

fn losses(task: &mut impl Task) -> Vec<f64> {
    let mut step = |step| {
        let metrics = task.step(step, LR).unwrap().metrics;
        metrics.iter().find(|(name, _)| name == "loss").unwrap().1
    };
    (0..STEPS).map(&mut step).collect()
}

fn agree(found: &[f64], expected: &[f64]) {
    println!("calumma {found:.5?}\nTRL     {expected:.5?}");
    assert_eq!(found.len(), expected.len());
    for (found, expected) in found.iter().zip(expected) {
        assert!((found - expected).abs() <= 1e-3 * expected.abs(), "{found} {expected}");
    }
}

fn job(kind: &str, base: &Path, rows: Vec<Value>) -> Value {
    json!({ "kind": kind, "base": base, "rows": rows, "batch": 1, "steps": STEPS, "lr": LR,
            "betas": [0.9, 0.999], "eps": 1e-8, "beta": 0.1 })
}

const WORDS: [[&str; 3]; 6] = [
    ["What is this?", "A picture of a cat.", "No."],
    ["Where is it?", "On the table.", "A picture of it."],
    ["Name a colour.", "The colour is red.", "A cat on the table."],
    ["Is it a cat?", "It is.", "What is this?"],
    ["Describe it.", "A red cat on the table.", "Red."],
    ["Count them.", "There is one.", "The cat is red, the table is not."],
];

#[test]
fn peft_opens_our_adapters_and_computes_our_logits() {
    let Some(python) = python() else { return };
    let (base, dir) = bases();
    for (kind, adapter) in [
        "r = 3\nlora_alpha = 6",
        "use_dora = true",
        "use_rslora = true\ntarget_modules = ['q_proj', 'embed_tokens', 'lm_head']",
        "target_modules = ['down_proj']\nmodules_to_save = ['model.norm', 'q_norm']\n\
         rank_pattern = { 'layers.1.mlp.down_proj' = 2 }",
        "target_modules = ['v_proj']\ntrainable_token_indices = { embed_tokens = [4, 300], lm_head = [300] }",
    ]
    .iter()
    .enumerate()
    {
        let rows: Vec<Value> = WORDS.map(|[prompt, answer, _]| json!({ "text": format!("{prompt} {answer}") })).into();
        let more = format!(
            "templates = [\"{{text}}\"]\n[[validation]]\npath = {:?}\ntemplates = [\"{{text}}\"]\n[batch]\nsequences = 1\nseq_len = 32\n\
             [adapter]\n{adapter}",
            dir.path().join("rows.jsonl").display().to_string()
        );
        let mut recipe = recipe(dir.path(), &rows, &more);
        recipe.run.name = format!("run-{kind}");
        recipe.optimizer.lr = 0.05;
        let task = LanguageTask::new(recipe.clone(), &cpu(), Precision::F32, true).unwrap();
        train(task, &recipe.run, None);
        let adapter = newest(&recipe.run);
        let ids = [0, 150, 300, 7, 108, 42, 4, 5];
        let job = json!({ "kind": "adapter", "base": base, "adapter": adapter, "ids": [ids] });
        let expected = peer(&python, dir.path(), &job);
        let weighted = WeightedAdapter { dir: adapter, weight: 1.0 };
        let Checkpoint { config, model, .. } =
            Checkpoint::open_with(&dir.path().join("base"), &cpu(), FloatDType::F32, &[weighted]).unwrap();
        let found = ServingModel::new(config, model, cpu()).all_logits(&ids).unwrap().concat();
        assert_eq!(found.len(), expected.len());
        let worst = found.iter().zip(&expected).map(|(a, b)| (f64::from(*a) - b).abs()).fold(0.0, f64::max);
        println!("adapter {kind}: logits differ by at most {worst:.1e}");
        assert!(worst < 1e-4, "adapter {kind}: {worst}");
    }
}

#[test]
fn sft_has_the_losses_of_trl() {
    let Some(python) = python() else { return };
    let (base, dir) = bases();
    let rows: Vec<Value> = WORDS
        .map(|[prompt, answer, _]| json!({ "prompt": format!("{prompt} "), "completion": answer }))
        .into();
    let more = "templates = [\"{prompt}<answer>{completion}\"]\nloss = \"answers\"\n[loss]\nz_loss = 0.0\n\
                [batch]\nsequences = 1\nseq_len = 24\n";
    let recipe = recipe(dir.path(), &rows, more);
    let new = || LanguageTask::new(recipe.clone(), &cpu(), Precision::F32, true).unwrap();
    let (mut task, mut ahead) = (new(), new());
    let drawn: Vec<_> = (0..STEPS).map(|_| ahead.next_documents().unwrap()).collect();
    let rows = drawn.into_iter().map(|documents| {
        let [document] = &documents[..] else { panic!("a document a step: {}", documents.len()) };
        let labels = document.ids.iter().zip(&document.loss_mask);
        let labels: Vec<i64> =
            labels.map(|(id, learnt)| if *learnt { i64::from(*id) } else { -100 }).collect();
        json!({ "input_ids": document.ids, "labels": labels })
    });
    let expected = peer(&python, dir.path(), &job("sft", &base, rows.collect()));
    agree(&losses(&mut task), &expected);
}

#[test]
fn dpo_has_the_losses_of_trl() {
    let Some(python) = python() else { return };
    let (base, dir) = bases();
    let rows: Vec<Value> = WORDS
        .map(|[prompt, chosen, rejected]| json!({ "prompt": format!("{prompt} "), "chosen": chosen, "rejected": rejected }))
        .into();
    let more = "templates = [\"{prompt}<answer>{answer}\"]\n[preference]\nbeta = 0.1\n[reference]\nimage_log_probs = \"full\"\n\
                [batch]\nsequences = 1\nseq_len = 48\n";
    let recipe = recipe(dir.path(), &rows, more);
    let (processor, vq, digest) = recipe.tokenizer.open(&cpu()).unwrap();
    let cache_dir = dir.path().join("codes");
    let encoding =
        Encoding { vq: vq.as_ref(), digest: &digest, cache_dir: &cache_dir, quiet: true };
    let layout = AnswerLayout::with_template(&processor, "{prompt}<answer>{answer}").unwrap();
    let source = SourceConfig::new(dir.path().join("rows.jsonl").to_str().unwrap());
    let pairs = Preferences::open(&source, encoding, &layout).unwrap().pairs;
    let mut task = PreferenceTask::new(recipe, &cpu(), Precision::F32, true).unwrap();
    let rows = task.upcoming(STEPS).into_iter().map(|index| {
        let tokens = &pairs[index].tokens;
        json!({ "prompt_ids": tokens.prompt, "chosen_ids": tokens.chosen, "rejected_ids": tokens.rejected })
    });
    let expected = peer(&python, dir.path(), &job("dpo", &base, rows.collect()));
    agree(&losses(&mut task), &expected);
}
