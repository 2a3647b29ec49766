//! Reinforcement learning: roll-outs, updates, resume, failures of rewards, and what is refused.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::AtomicUsize;

use calumma::device::Precision;
use calumma::recipe::read_recipe;
use calumma::report::Reporter;
use calumma::train::rl::RlTask;
use calumma::train::{LanguageRecipe, Task, newest_good_checkpoint, run};
use tempfile::TempDir;

mod critic;
mod pairs;

use crate::common::{cpu, tiny_checkpoint};
use crate::train::{in_dir, newest, train};

const RECIPE: &str = r#"
[run]
name = "rl"
seed = 5
steps = 6
checkpoint_every = 100
eval_samples = 2
[[data]]
path = "scenes:train?count=5&seed=2&size=32&objects=1-2"
templates = ["{caption}"]
[[validation]]
name = "unseen"
path = "scenes:held-out?count=3&seed=2&size=32&objects=1-1"
templates = ["{caption}"]
[rl]
prompts_per_step = 2
mode = "image"
[rl.advantage]
num_generations = 3
[[rl.reward]]
kind = "scene"
score = "fraction"
[optimizer]
lr = 1e-2
weight_decay = 0.0
[batch]
sequences = 4
seq_len = 96
"#;

const ADAPTER: [&str; 2] = ["adapter.r=4", "adapter.lora_alpha=16"];
/// Texts of at most 6 ids.
const TEXT: [&str; 2] = ["rl.mode='text'", "rl.max_new_tokens=6"];
/// What every answer gets the same of.
const CONSTANT: &str = "rl.reward=[{kind='length', max_completion_len=1000, soft_punish_cache=1}]";

fn base() -> TempDir {
    let dir = tempfile::tempdir().unwrap();
    tiny_checkpoint(&dir.path().join("base"));
    dir
}

fn recipe_in(dir: &Path, name: &str, settings: &[&str]) -> calumma::Result<LanguageRecipe> {
    let path = dir.join("recipe.toml");
    std::fs::write(&path, RECIPE).unwrap();
    let mut overrides = in_dir(dir, name);
    overrides.push(format!("run.init={:?}", dir.join("base").to_str().unwrap()));
    overrides.extend(settings.iter().map(|set| (*set).to_owned()));
    read_recipe(&path, &overrides)
}

fn new(recipe: &LanguageRecipe) -> calumma::Result<RlTask> {
    RlTask::new(recipe.clone(), &cpu(), Precision::F32, true)
}

fn task(dir: &Path, name: &str, settings: &[&str]) -> RlTask {
    new(&recipe_in(dir, name, settings).unwrap()).unwrap()
}

/// A setting with a shell script as the only reward: `next` takes the next roll-out, whose answer is `$a`.
fn program(dir: &Path, script: &str, more: &str) -> String {
    let read = r#"next() { read -r a && a=${a#*\"completion\":} && a=${a%%\"fields\":*}; }"#;
    let path = dir.join(format!("judge-{}.sh", script.len()));
    std::fs::write(&path, format!("{read}\n{script}\n")).unwrap();
    let path = path.to_str().unwrap();
    format!("rl.reward=[{{kind='program', name='judge', command=['sh', '{path}']{more}}}]")
}

/// A number that differs between answers.
fn checksum(dir: &Path) -> String {
    program(dir, r#"while next; do printf %s "$a" | cksum | cut -c1-3; done"#, "")
}

/// The metrics of step `step`, those of roll-outs included.
fn step(task: &mut RlTask, step: usize) -> Vec<(String, f64)> {
    let mut metrics = task.step(step, 1e-2).unwrap().metrics;
    metrics.extend(task.since_last());
    metrics.into_iter().map(|(name, value)| (name.into_owned(), value)).collect()
}

fn value(metrics: &[(String, f64)], name: &str) -> f64 {
    let found = metrics.iter().find(|(known, _)| known == name);
    found.unwrap_or_else(|| panic!("{name} is not in {metrics:?}")).1
}

#[test]
fn the_same_seed_gives_the_same_rollouts_and_another_does_not() {
    let dir = base();
    let rollouts = |set: &str| task(dir.path(), "seeds", &[set]).rollouts().unwrap();
    let first = rollouts("run.seed=5");
    assert_eq!(first.len(), 6);
    assert_eq!(first, rollouts("run.seed=5"));
    // The same prompts, whatever their order, with other answers.
    let other = rollouts("run.seed=6");
    assert!(first.iter().all(|row| !other.contains(row)));
    // Answers of a group differ, and have 4x4 codes.
    assert!(first[0] != first[1] && first[0].1 == first[1].1);
    assert!(first.iter().all(|(ids, prompt_len)| ids.len() == prompt_len + 16));
    let shown = task(dir.path(), "seeds", &[]).preview().unwrap();
    assert_eq!(shown.len(), 2);
    assert!(shown.iter().all(|text| text.ends_with("⟦[image 4x4]⟧")), "{shown:?}");
}

#[test]
fn the_first_update_is_on_the_policy_that_answered() {
    let dir = base();
    for settings in
        [&["rl.policy.beta=0.1"][..], &TEXT, &["rl.mode='auto'", "rl.max_new_tokens=30"]]
    {
        let judge = checksum(dir.path());
        let settings = [settings, &[&judge, "rl.num_iterations=2", "rl.temperature=1.3"]].concat();
        let mut task = task(dir.path(), "first", &settings);
        let metrics = step(&mut task, 0);
        let draws = settings.contains(&"rl.policy.beta=0.1");
        let names = [
            "reward",
            "reward_std",
            "rewards/judge/mean",
            "rewards/judge/std",
            "frac_reward_zero_std",
            "entropy",
            "completions/mean_length",
            "completions/clipped_ratio",
            "diversity/distinct",
            if draws { "entropy/image" } else { "entropy/text" },
        ];
        assert!(names.iter().all(|name| value(&metrics, name).is_finite()));
        assert_eq!(value(&metrics, "clip_ratio/region_mean"), 0.0, "{settings:?}");
        if draws {
            assert_eq!(value(&metrics, "kl"), 0.0);
            // The second update is on the same answers, with another policy.
            let again = step(&mut task, 1);
            assert!(value(&again, "kl/image") > 0.0);
            assert!(!again.iter().any(|(name, _)| name == "reward"));
        }
    }
}

#[test]
fn the_lead_of_a_guided_sampler_is_logged_and_can_be_corrected_for() {
    let dir = base();
    let gap = |settings: &[&str]| {
        let judge = checksum(dir.path());
        let settings = [settings, &[judge.as_str()]].concat();
        step(&mut task(dir.path(), "guided", &settings), 0)
    };
    let guided = gap(&["rl.guidance_scale=30"]);
    // What guidance prefers is drawn, so that without it it is less likely.
    assert!(value(&guided, "sampling/logp_gap") > 0.01, "{guided:?}");
    let little = gap(&["rl.guidance_scale=1.0001", "rl.policy.sampler_correction={}"]);
    assert!(value(&little, "sampling/logp_gap").abs() < 1e-3, "{little:?}");
    let ratio = value(&little, "sampling/importance_sampling_ratio/mean");
    assert!((ratio - 1.0).abs() < 0.02, "{ratio}");
    assert!(!gap(&[]).iter().any(|(name, _)| name == "sampling/logp_gap"));
    // Scored as it was drawn, it has no lead, and two updates on the same answers begin with the same ratios.
    let scored = gap(&["rl.guidance_scale=30", "rl.scores_guided=true", "rl.num_iterations=2"]);
    assert!(!scored.iter().any(|(name, _)| name == "sampling/logp_gap"));
    assert_eq!(value(&scored, "clip_ratio/region_mean"), 0.0);
}

#[test]
fn what_guidance_draws_is_learnt_as_it_is_drawn() {
    let dir = base();
    let norm = |settings: &[&str]| {
        let judge = checksum(dir.path());
        let settings = [settings, &[&judge, ADAPTER[0], ADAPTER[1]]].concat();
        value(&step(&mut task(dir.path(), "norms", &settings), 0), "grad_norm")
    };
    let plain = norm(&[]);
    let barely = norm(&["rl.guidance_scale=1.00001", "rl.scores_guided=true"]);
    assert!((barely / plain - 1.0).abs() < 1e-3, "{barely} {plain}");
    // The gradient of guided logits is as many times stronger as guidance is.
    let scored = norm(&["rl.guidance_scale=5", "rl.scores_guided=true"]);
    let drawn = norm(&["rl.guidance_scale=5"]);
    assert!(scored > 2.0 * drawn, "{scored} {drawn}");
}

#[test]
fn constant_rewards_move_no_weight_and_are_counted() {
    let dir = base();
    let weights = |task: &RlTask| {
        let tensors = tensor_files::collect(task.model());
        tensors.iter().map(|(name, data)| (name.clone(), data.clone())).collect::<Vec<_>>()
    };
    for more in [&["run.seed=1"][..], &["rl.dynamic_sampling=3", TEXT[0], TEXT[1]]] {
        let settings = [&[CONSTANT, "optimizer.weight_decay=0.1"][..], more].concat();
        let mut task = task(dir.path(), "constant", &settings);
        let before = weights(&task);
        for at in 0..2 {
            let metrics = step(&mut task, at);
            assert_eq!(value(&metrics, "frac_reward_zero_std"), 1.0);
            assert_eq!(value(&metrics, "steps_without_signal"), at as f64 + 1.0);
        }
        assert!(weights(&task) == before, "{more:?}");
    }
    let mut moved = task(dir.path(), "varied", &[&checksum(dir.path())]);
    let before = weights(&moved);
    step(&mut moved, 0);
    assert!(weights(&moved) != before);
}

#[test]
fn a_program_that_prefers_letters_is_obeyed() {
    let dir = base();
    let judge =
        program(dir.path(), r#"while next; do printf %s "$a" | tr -cd a-z | wc -c; done"#, "");
    let settings = [
        &ADAPTER[..],
        &TEXT,
        // The random output layer alone would keep every distribution almost even.
        &["adapter.modules_to_save=['lm_head']", "rl.prompts_per_step=3", "batch.sequences=24"],
        &[&judge, "rl.advantage.num_generations=8"],
    ];
    let mut task = task(dir.path(), "judge", &settings.concat());
    let rewards: Vec<f64> =
        (0..20).map(|at| value(&step(&mut task, at), "rewards/judge/mean")).collect();
    let mean = |part: &[f64]| part.iter().sum::<f64>() / part.len() as f64;
    assert!(mean(&rewards[16..]) > mean(&rewards[..4]) + 1.0, "{rewards:?}");
}

#[test]
fn a_resumed_run_has_the_bits_of_an_uninterrupted_one() {
    for (kind, settings) in [
        &[ADAPTER[0], ADAPTER[1], "rl.num_iterations=2", "rl.policy.beta=0.05"][..],
        &[
            TEXT[0],
            TEXT[1],
            "average.decay=0.9",
            "batch.activation_checkpointing=true",
            "rl.dynamic_sampling=2",
            "rl.entropy_control={ entropy_target = 10.0, entropy_coef_delta = 0.1 }",
        ],
        &critic::CRITIC,
    ]
    .iter()
    .enumerate()
    {
        let dir = base();
        let judge = checksum(dir.path());
        let settings = [settings, &[&judge[..], "run.steps=4", "run.eval_samples=1"][..]].concat();
        let run = |name: &str, stops: &[Option<usize>]| {
            let recipe = recipe_in(dir.path(), name, &settings).unwrap();
            for stop in stops {
                train(new(&recipe).unwrap(), &recipe.run, *stop);
            }
            newest(&recipe.run)
        };
        let (straight, stopped) = (run("straight", &[None]), run("stopped", &[Some(1), None]));
        let weights = if kind == 1 { "model.safetensors" } else { "adapter_model.safetensors" };
        let of_critic: &[&str] = match kind {
            2 => &["trainer/critic.safetensors", "trainer/critic-optimizer.safetensors"],
            _ => &[],
        };
        let names = [weights, "trainer/optimizer.safetensors", "trainer/state.json"];
        for name in names.iter().chain(of_critic) {
            let [a, b] = [&straight, &stopped].map(|dir| std::fs::read(dir.join(name)).unwrap());
            assert!(a == b, "{name} of kind {kind} differs");
        }
    }
}

#[test]
fn a_reward_that_fails_is_counted_or_ends_the_run() {
    let dir = base();
    // Answers two steps of six roll-outs, then crashes at the next line.
    let script = "i=0; while next; do i=$((i+1)); [ $i -gt 12 ] && exit 3; echo ${#a}; done";
    let skip = program(dir.path(), script, ", max_restarts=9");
    let recipe = recipe_in(dir.path(), "skip", &[&skip, "validation=[]"]).unwrap();
    let mut going_on = new(&recipe).unwrap();
    for at in 0..4 {
        step(&mut going_on, at);
    }
    let told: Vec<String> = going_on.left_out().iter().map(ToString::to_string).collect();
    assert!(
        told.iter().any(|line| line.starts_with("reward judge: 1 failure (crashed)")),
        "{told:?}"
    );

    let saved = dir.path().join("saved");
    std::fs::create_dir_all(saved.join("trainer")).unwrap();
    going_on.save(&saved).unwrap();
    let mut resumed = new(&recipe).unwrap();
    resumed.restore(&saved, 0).unwrap();
    let again: Vec<String> = resumed.left_out().iter().map(ToString::to_string).collect();
    assert_eq!(again, told, "a resumed run counts on");

    let stop = program(dir.path(), script, ", on_failure='stop'");
    let settings = [&stop, "validation=[]", "run.checkpoint_every=1"];
    let recipe = recipe_in(dir.path(), "stop", &settings).unwrap();
    let mut ending = new(&recipe).unwrap();
    let flag = Arc::new(AtomicUsize::new(0));
    let error = run(&mut ending, &recipe.plan(), Reporter::silent(), &flag).unwrap_err();
    assert!(error.to_string().contains("reward judge"), "{error}");
    let (good, _) = newest_good_checkpoint(&recipe.run.path()).unwrap().unwrap();
    assert_eq!(good, 2);
    // With a reward that works it goes on from there.
    let repaired = checksum(dir.path());
    let recipe = recipe_in(dir.path(), "stop", &[&repaired, "validation=[]"]).unwrap();
    let mut resumed = new(&recipe).unwrap();
    let summary = run(&mut resumed, &recipe.plan(), Reporter::silent(), &flag).unwrap();
    assert_eq!(summary.resumed_at, 2);
}

#[test]
fn held_out_prompts_are_rewarded_by_source_with_a_sheet() {
    let dir = base();
    let mut task = task(dir.path(), "held-out", &[]);
    let found = task.evaluate().unwrap();
    let of = |name: &str| found.iter().find(|(known, _)| known == name).unwrap().1;
    assert_eq!(of("reward"), of("reward/unseen"));
    assert_eq!(of("reward"), of("rewards/scene/mean"));
    assert_eq!(of("completions/mean_length"), 16.0);
    assert!(task.image().is_some());
    assert_eq!(task.texts().len(), 2);
    assert_eq!(task.evaluate().unwrap(), found, "seeds are the same every time");
}

#[test]
fn a_dry_run_shows_prompts_with_an_answer_in_brackets() {
    let dir = base();
    let settings = [&TEXT[..], &[CONSTANT, "validation=[]"]].concat();
    recipe_in(dir.path(), "dry", &settings).unwrap();
    let init = format!("run.init={:?}", dir.path().join("base"));
    let all = in_dir(dir.path(), "dry").into_iter().chain([init]);
    let all = all.chain(settings.iter().map(|set| (*set).to_owned()));
    let mut command = std::process::Command::new(env!("CARGO_BIN_EXE_calumma"));
    command.args(["--device", "cpu", "train", "--dry-run"]).arg(dir.path().join("recipe.toml"));
    all.for_each(|set| _ = command.arg("--set").arg(set));
    let output = command.output().unwrap();
    let [text, errors] =
        [output.stdout, output.stderr].map(|b| String::from_utf8_lossy(&b).into_owned());
    assert!(output.status.success(), "{errors}");
    assert!(text.contains("first batch: 2 documents"), "{text}");
    assert_eq!(text.matches('⟦').count(), 3, "one in the heading, one for each prompt: {text}");
}

#[test]
fn settings_and_data_that_do_not_fit_are_refused() {
    let dir = base();
    for (set, words) in [
        ("rl.advantage.num_generations=1", "advantage.num_generations is 1; allowed: at least 2"),
        ("rl.prompts_per_step=0", "rl.prompts_per_step"),
        ("rl.temperature=0", "rl.temperature is 0; allowed: 0.0001 or more"),
        ("rl.guidance_scale=-1", "rl.guidance_scale is -1; allowed: 0 or more"),
        ("rl.policy.epsilon=2", "policy.epsilon is 2; allowed: [0, 1]"),
        ("rl.policy.sampler_correction={}", "sampler_correction has nothing to correct"),
        ("rl.advantage.reward_weights=[1]", "give each [[rl.reward]] its weight"),
        ("rl.reward=[]", "rl.reward is empty"),
        ("rl.scores_guided=true", "rl.scores_guided needs an rl.guidance_scale other than 1"),
        ("rl.critic={ warmup_steps = 1, lr_ratio = 0 }", "critic.lr_ratio is 0; allowed: above 0"),
        ("rl.critic={}", "rl.critic.warmup_steps is 50; allowed: below run.steps, 6"),
        (
            "rl.critic={ warmup_steps = 1, value = { gamma = 2 } }",
            "critic: value.gamma is 2; allowed: [0, 1]",
        ),
        ("rl.critic={ warmup_steps = 1, init = 'nowhere' }", "nowhere"),
        ("rl.reward=[{ kind='model', checkpoint='nowhere' }]", "nowhere"),
        ("preference.beta=0.1", "are both given; allowed: one"),
        ("batch.accumulate=2", "batch.accumulate is 2; allowed with [rl]: 1"),
        ("adapter={ lora_dropout = 0.1 }", "adapter.lora_dropout is 0.1; allowed with [rl]: 0"),
        ("loss.z_loss=0.1", "[loss] are not read with [rl]"),
        ("batch.seq_len=16", "an answer may have 16 tokens"),
        ("batch.seq_len=20", "prompts has at most 4 tokens"),
        ("data=[{ path = 'x' }]", "token shards hold no prompts"),
        ("data=[{ path = 'scenes:train?count=2&size=32', templates = ['chat_template'] }]", "chat"),
    ] {
        let made = recipe_in(dir.path(), "refused", &[set]).and_then(|recipe| new(&recipe));
        let Err(error) = made else { panic!("{set} is accepted") };
        assert!(error.to_string().contains(words), "{set}: {error}");
    }
}
