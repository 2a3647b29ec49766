//! Value functions, reward models and the entropy bonus.

use std::path::Path;

use calumma::train::rl::RlTask;

use super::{ADAPTER, TEXT, base, checksum, new, program, recipe_in, step, task, value};

pub(super) const CRITIC: [&str; 4] = [
    "rl.critic={ warmup_steps = 2, value = { length_adaptive_alpha = 0.5 } }",
    "rl.positive={ weight = 0.1 }",
    "adapter.r=4",
    "rl.num_iterations=1",
];

#[test]
fn a_critic_learns_alone_at_first_and_then_gives_every_token_its_advantage() {
    let dir = base();
    let script = r#"while next; do printf %s "$a" | cksum | sed 's/^/0./' | cut -c1-4; done"#;
    let judge = program(dir.path(), script, "");
    let settings = [&CRITIC[..], &[&judge, "rl.critic.warmup_steps=6", "run.steps=9"]].concat();
    let mut task = task(dir.path(), "critic", &settings);
    let adapter = |task: &RlTask| {
        let tensors = tensor_files::collect(task.model());
        let of_adapter = tensors.iter().filter(|(name, _)| name.contains("lora"));
        of_adapter.map(|(name, data)| (name.clone(), data.clone())).collect::<Vec<_>>()
    };
    let (before, mut losses) = (adapter(&task), Vec::new());
    for at in 0..6 {
        let metrics = step(&mut task, at);
        losses.push(value(&metrics, "value/loss"));
        assert!(value(&metrics, "value/grad_norm") > 0.0);
        assert!(adapter(&task) == before, "step {at} moves the policy");
    }
    assert!(losses[5] < 0.5 * losses[0], "{losses:?}");
    let metrics = step(&mut task, 6);
    assert!(adapter(&task) != before, "the policy has not moved");
    let names = ["value/explained_variance", "value/clip_ratio", "positive_loss", "grad_norm"];
    assert!(names.iter().all(|name| value(&metrics, name).is_finite()), "{metrics:?}");
    // Its head is no part of the policy.
    let head = tensor_files::collect(task.model()).keys().any(|name| name.starts_with("score"));
    assert!(!head);
}

#[test]
fn a_reward_model_rewards_answers() {
    let dir = base();
    let text = |path: &Path| path.to_str().unwrap().to_owned();
    let trained = text(&crate::reward_model::trained_in(dir.path(), &ADAPTER));
    let base = text(&dir.path().join("base"));
    let reward = |more: &str| format!("rl.reward=[{{ kind='model', checkpoint='{base}'{more} }}]");
    let rated = reward(&format!(", adapters=['{trained}']"));
    for mode in [&TEXT[..], &[]] {
        let settings = [mode, &[&rated]].concat();
        let metrics = step(&mut task(dir.path(), "rated", &settings), 0);
        assert!(value(&metrics, "rewards/model/mean").is_finite());
        assert!(value(&metrics, "rewards/model/std") > 0.0, "answers are told apart");
    }
    let recipe = recipe_in(dir.path(), "unrated", &[&reward("")]).unwrap();
    let Err(error) = new(&recipe) else { panic!("a model without a head rates nothing") };
    assert!(error.to_string().contains("has no score head"), "{error}");
}

#[test]
fn a_critic_begins_with_a_reward_model_or_its_adapter() {
    let dir = base();
    let head = ["adapter.target_modules=[]", "run.steps=3"];
    let trained = crate::reward_model::trained_in(dir.path(), &head);
    let init = format!("rl.critic.init={:?}", trained.to_str().unwrap());
    let judge = checksum(dir.path());
    let first = |settings: &[&str]| {
        let settings = [&[&judge, "rl.critic.warmup_steps=1"], settings].concat();
        value(&step(&mut task(dir.path(), "begun", &settings), 0), "value/loss")
    };
    // The adapter is the head alone.
    assert_ne!(first(&[&init]), first(&[]));
}

#[test]
fn an_entropy_below_its_target_has_a_bonus_that_grows() {
    let dir = base();
    let judge = checksum(dir.path());
    let coefficients = |target: &str| -> Vec<f64> {
        let control = format!("rl.entropy_control={{ entropy_target = {target} }}");
        let mut task = task(dir.path(), "control", &[&judge, TEXT[0], TEXT[1], &control]);
        let mut of =
            |at| step(&mut task, at).iter().find(|(k, _)| k == "entropy_coef").map_or(0.0, |f| f.1);
        (0..3).map(&mut of).collect()
    };
    assert_eq!(coefficients("20.0"), [0.0, 0.005, 0.01]);
    assert_eq!(coefficients("0.0"), [0.0; 3]);
}

#[test]
fn correct_answers_are_learnt_as_data_with_or_without_a_critic() {
    let dir = base();
    let judge = checksum(dir.path());
    let of = |settings: &[&str]| {
        let settings = [settings, &[&judge, TEXT[0], TEXT[1], "rl.positive.weight=0.5"]].concat();
        step(&mut task(dir.path(), "positive", &settings), 0)
    };
    // Known before the answers are scored, or after.
    let (foreseen, compared) = (of(&[]), of(&["rl.num_iterations=2"]));
    let loss = value(&foreseen, "positive_loss");
    assert!(loss > 0.0 && (loss / value(&compared, "positive_loss") - 1.0).abs() < 1e-4, "{loss}");
    let norms = [&foreseen, &compared].map(|metrics| value(metrics, "grad_norm"));
    assert!((norms[0] / norms[1] - 1.0).abs() < 1e-4, "{norms:?}");
    let none = of(&["rl.positive.correct_from=1e9"]);
    assert_eq!(value(&none, "positive_loss"), 0.0);
    assert_ne!(value(&none, "grad_norm"), norms[0]);
}

#[test]
fn a_bonus_on_the_entropy_raises_it() {
    let dir = base();
    let judge = checksum(dir.path());
    let settings = [
        "adapter.modules_to_save=['lm_head']",
        ADAPTER[0],
        &judge,
        TEXT[0],
        TEXT[1],
        "rl.temperature=0.1",
    ];
    let rise = |bonus: &str| {
        let settings = [&settings[..], &[bonus]].concat();
        let mut task = task(dir.path(), "bonus", &settings);
        let entropies: Vec<f64> = (0..6).map(|at| value(&step(&mut task, at), "entropy")).collect();
        entropies[5] - entropies[0]
    };
    let (fallen, risen) = (rise("rl.policy.entropy_coef=0"), rise("rl.policy.entropy_coef=10"));
    assert!(risen > fallen.max(0.0) + 0.05, "{risen} {fallen}");
}
