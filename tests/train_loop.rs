//! The training loop: bad steps, spikes, rewinds, the best checkpoint, a full disk.

use std::path::Path;

use calumma::Error;
use calumma::device::Precision;
use calumma::report::{Metrics, Reporter};
use calumma::train::{
    Better, ImageTask, Plan, RunConfig, SafetyConfig, ScheduleConfig, Stepped, StopFlag, Task,
    VqRecipe, newest_good_checkpoint, run,
};
use serde::{Deserialize, Serialize};

use crate::common::cpu;
use crate::train::{VQ, in_dir, recipe};

/// A task whose weights are the numbers of the batches that it was trained on.
#[derive(Default)]
struct Scripted {
    state: State,
    /// The loss of a batch by its number.
    loss: Option<fn(u64) -> f64>,
    /// The metric of evaluations, called `score` unless there is a name.
    score: Option<fn(usize) -> f64>,
    metric: Option<(&'static str, Better)>,
    checkpoint_bytes: u64,
    /// Before which batch the device fails, and whether the step had changed weights before.
    fails: Option<(u64, bool)>,
}

#[derive(Clone, Default, Serialize, Deserialize)]
struct State {
    batch: u64,
    weights: Vec<u64>,
}

impl Task for Scripted {
    const UNIT: &'static str = "items";

    fn step(&mut self, step: usize, _lr: f64) -> calumma::Result<Stepped> {
        let batch = self.state.batch;
        self.state.batch += 1;
        if self.fails.is_some_and(|(at, _)| at == batch) {
            panic!("Error while reading data: Caused by: out of memory");
        }
        let loss = self.loss.map_or(1.0, |loss| loss(batch));
        if loss == f64::NEG_INFINITY {
            return Err(Error::Diverged { step, message: "the critic is gone".to_owned() });
        }
        if !loss.is_finite() {
            let skipped = Some(format!("the loss is {loss}"));
            return Ok(Stepped { units: 1, skipped, ..Stepped::default() });
        }
        self.state.weights.push(batch);
        Ok(Stepped { metrics: vec![("loss".into(), loss)], units: 1, skipped: None })
    }

    fn eval_metrics(&self) -> Vec<(String, Better)> {
        let (name, better) = self.metric.unwrap_or(("score", Better::Higher));
        vec![(name.to_owned(), better)]
    }

    fn evaluate(&mut self) -> calumma::Result<Metrics> {
        let (name, _) = self.metric.unwrap_or(("score", Better::Higher));
        let score = self.score.map(|score| score(self.state.weights.len()));
        Ok(score.map(|score| (name.into(), score)).into_iter().collect())
    }

    fn checkpoint_bytes(&self) -> u64 {
        self.checkpoint_bytes
    }

    fn undo(&mut self) -> bool {
        let has_changed = self.fails.is_some_and(|(_, has_changed)| has_changed);
        self.state.batch -= 1;
        !has_changed
    }

    fn save(&self, dir: &Path) -> calumma::Result<()> {
        std::fs::create_dir_all(dir.join("trainer")).unwrap();
        std::fs::write(dir.join("state"), serde_json::to_vec(&self.state).unwrap()).unwrap();
        Ok(())
    }

    fn restore(&mut self, dir: &Path, skip: u64) -> calumma::Result<()> {
        let bytes = std::fs::read(dir.join("state")).unwrap();
        self.state = serde_json::from_slice(&bytes).unwrap();
        self.state.batch += skip;
        Ok(())
    }
}

/// Runs `task` in the new directory `name` of `dir`.
fn go(
    task: &mut Scripted,
    dir: &Path,
    safety: &SafetyConfig,
    change: impl Fn(&mut RunConfig),
) -> (calumma::Result<()>, RunConfig) {
    let mut config = recipe::<VqRecipe>(dir, VQ, &in_dir(dir, "r")).run;
    config.checkpoint_every = 10;
    change(&mut config);
    let schedule = ScheduleConfig::default();
    let plan = Plan { run: &config, schedule: &schedule, safety, peak_lr: 1.0, peak_flops: None };
    let result = run(task, &plan, Reporter::silent(), &StopFlag::default()).map(drop);
    (result, config)
}

fn steps(config: &RunConfig) -> Vec<usize> {
    let names = std::fs::read_dir(config.path()).unwrap().map(|e| e.unwrap().file_name());
    let step = |name: String| name.strip_prefix("step-")?.parse().ok();
    let mut steps: Vec<usize> = names.filter_map(|n| step(n.into_string().unwrap())).collect();
    steps.sort_unstable();
    steps
}

#[test]
fn what_a_failed_device_leaves_is_saved() {
    let dir = tempfile::tempdir().unwrap();
    let safety = SafetyConfig::default();
    let mut task = Scripted { fails: Some((14, false)), ..Scripted::default() };
    let (result, config) = go(&mut task, dir.path(), &safety, |run| run.steps = 20);
    let error = result.unwrap_err();
    assert!(matches!(&error, Error::Device(_)), "{error}");
    assert_eq!(error.exit_code(), 4);
    assert_eq!(steps(&config), [10, 14]);
    let log = std::fs::read_to_string(config.path().join("metrics.jsonl")).unwrap();
    assert!(log.contains("as the device failed behind this step"), "{log}");
    let mut task = Scripted::default();
    go(&mut task, dir.path(), &safety, |run| run.steps = 20).0.unwrap();
    assert_eq!(task.state.weights, (0..20).collect::<Vec<_>>());
}

#[test]
fn weights_that_a_failed_device_has_changed_are_not_saved() {
    let dir = tempfile::tempdir().unwrap();
    let safety = SafetyConfig::default();
    for (fails, expected) in [((14, true), vec![10]), ((10, false), vec![10]), ((0, false), vec![])]
    {
        let name = dir.path().join(format!("{}-{}", fails.0, fails.1));
        std::fs::create_dir(&name).unwrap();
        let mut task = Scripted { fails: Some(fails), ..Scripted::default() };
        let (result, config) = go(&mut task, &name, &safety, |run| run.steps = 20);
        assert!(matches!(result, Err(Error::Device(_))));
        assert_eq!(steps(&config), expected);
    }
}

#[test]
fn a_spike_is_rewound_and_its_batches_are_skipped() {
    let scratch = tempfile::tempdir().unwrap();
    let spiky = |batch: u64| if (63..71).contains(&batch) { 50.0 } else { 1.0 };
    let mut task = Scripted { loss: Some(spiky), ..Scripted::default() };
    let safety = SafetyConfig::default();
    let (result, config) = go(&mut task, scratch.path(), &safety, |run| run.steps = 100);
    result.unwrap();
    assert_eq!(task.state.weights.len(), 100, "every step of the run counts");
    // Batches 60 to 62 were good but came after the checkpoint: they are skipped as well.
    let expected: Vec<u64> = (0..60).chain(71..111).collect();
    assert_eq!(task.state.weights, expected);
    let log = std::fs::read_to_string(config.path().join("metrics.jsonl")).unwrap();
    assert!(log.contains("rewound"), "{log}");
}

#[test]
fn a_checkpoint_within_a_spike_is_rewound_too() {
    let scratch = tempfile::tempdir().unwrap();
    // The spike starts one step before the checkpoint at 70 and continues after the first rewind.
    let spiky = |batch: u64| if (69..76).contains(&batch) { 50.0 } else { 1.0 };
    let mut task = Scripted { loss: Some(spiky), ..Scripted::default() };
    let safety = SafetyConfig::default();
    let (result, config) = go(&mut task, scratch.path(), &safety, |run| run.steps = 100);
    result.unwrap();
    let learnt = &task.state.weights;
    assert_eq!(learnt.len(), 100);
    assert_eq!(learnt[..60], (0..60).collect::<Vec<u64>>()[..]);
    // The data of 13 steps after the checkpoint at 60 are skipped, up to batch 72; 73 to 75 are too few
    // for another spike.
    assert_eq!(learnt[60..], (73..113).collect::<Vec<u64>>()[..]);
    assert_eq!(steps(&config), [90, 100]);
}

#[test]
fn non_finite_steps_change_nothing_and_too_many_exit_with_code_5() {
    let scratch = tempfile::tempdir().unwrap();
    let holes = |batch: u64| if batch % 7 == 3 { f64::NAN } else { 1.0 };
    let mut task = Scripted { loss: Some(holes), ..Scripted::default() };
    let safety = SafetyConfig::default();
    let (result, _) = go(&mut task, scratch.path(), &safety, |run| run.steps = 50);
    result.unwrap();
    assert!(task.state.weights.iter().all(|batch| batch % 7 != 3));

    let scratch = tempfile::tempdir().unwrap();
    let gone = |batch: u64| if batch >= 25 { f64::NAN } else { 1.0 };
    let mut task = Scripted { loss: Some(gone), ..Scripted::default() };
    let (result, config) = go(&mut task, scratch.path(), &safety, |run| run.steps = 50);
    let error = result.unwrap_err();
    assert_eq!(error.exit_code(), 5);
    let message = error.to_string();
    assert!(message.contains("the loss is NaN for 9 steps in a row"), "{message}");
    assert!(message.contains("went back to step 20 3 times already"), "{message}");
    assert_eq!(newest_good_checkpoint(&config.path()).unwrap().unwrap().0, 20);

    let scratch = tempfile::tempdir().unwrap();
    let at_once = |_| f64::NEG_INFINITY;
    let mut task = Scripted { loss: Some(at_once), ..Scripted::default() };
    let (result, _) = go(&mut task, scratch.path(), &safety, |run| run.steps = 50);
    let message = result.unwrap_err().to_string();
    assert!(message.contains("the critic is gone; there is no checkpoint"), "{message}");
}

#[test]
fn a_damaged_checkpoint_is_skipped_and_a_run_with_none_intact_is_refused() {
    let scratch = tempfile::tempdir().unwrap();
    let mut task = Scripted::default();
    let safety = SafetyConfig::default();
    let change = |run: &mut RunConfig| (run.steps, run.keep) = (40, 2);
    let (result, config) = go(&mut task, scratch.path(), &safety, change);
    result.unwrap();
    assert_eq!(steps(&config), [30, 40]);
    let newest = || newest_good_checkpoint(&config.path());
    let (step, dir) = newest().unwrap().unwrap();
    assert_eq!(step, 40);
    std::fs::write(dir.join("state"), b"{}").unwrap();
    let (step, dir) = newest().unwrap().unwrap();
    assert_eq!(step, 30);
    std::fs::remove_file(dir.join("state")).unwrap();
    assert!(newest().is_err());
    let log = std::fs::read_to_string(config.path().join("metrics.jsonl")).unwrap();
    assert!(log.lines().all(|line| serde_json::from_str::<serde_json::Value>(line).is_ok()));
}

#[test]
fn the_best_checkpoint_is_kept_beside_the_newest_after_a_resume_too() {
    let scratch = tempfile::tempdir().unwrap();
    let peak = |steps: usize| -((steps as f64 - 25.0).powi(2));
    let mut task = Scripted { score: Some(peak), ..Scripted::default() };
    let change = |run: &mut RunConfig| {
        (run.steps, run.keep, run.eval_every) = (60, 1, 5);
        run.keep_best = Some("score".to_owned());
    };
    let (result, config) = go(&mut task, scratch.path(), &SafetyConfig::default(), change);
    result.unwrap();
    assert_eq!(steps(&config), [25, 60]);
    let best = std::fs::read_link(config.path().join("best")).unwrap();
    assert_eq!(best, Path::new("step-0000025"));
    // A resumed run still knows what the best was.
    let change = |run: &mut RunConfig| {
        change(run);
        run.steps = 70;
    };
    go(
        &mut Scripted { score: Some(peak), ..Scripted::default() },
        scratch.path(),
        &SafetyConfig::default(),
        change,
    )
    .0
    .unwrap();
    assert_eq!(steps(&config), [25, 70]);
}

/// Lowest after 10 steps, highest after 20.
fn low_then_high(steps: usize) -> f64 {
    match steps {
        10 => 1.0,
        20 => 9.0,
        _ => 5.0,
    }
}

#[test]
fn the_best_checkpoint_is_the_lowest_or_the_highest_as_the_metric_says() {
    let scratch = tempfile::tempdir().unwrap();
    let vq = recipe(scratch.path(), VQ, &in_dir(scratch.path(), "vq"));
    let image_metrics = ImageTask::new(vq, &cpu(), Precision::F32).unwrap().eval_metrics();
    let of_images = |name: &'static str| {
        (name, image_metrics.iter().find(|(known, _)| known == name).unwrap().1)
    };
    let metrics = [
        (of_images("dead_codes"), 10),
        (("loss", Better::Lower), 10),
        (of_images("psnr"), 20),
        (of_images("ssim"), 20),
        (of_images("ms_ssim"), 20),
        (of_images("perplexity"), 20),
        (of_images("codes_used"), 20),
        (("accuracy", Better::Higher), 20),
    ];
    for (metric, best) in metrics {
        let scratch = tempfile::tempdir().unwrap();
        let mut task =
            Scripted { score: Some(low_then_high), metric: Some(metric), ..Scripted::default() };
        let change = |run: &mut RunConfig| {
            (run.steps, run.keep, run.eval_every) = (30, 1, 10);
            run.keep_best = Some(metric.0.to_owned());
        };
        let (result, config) = go(&mut task, scratch.path(), &SafetyConfig::default(), change);
        result.unwrap();
        assert_eq!(steps(&config), [best, 30], "{}", metric.0);
    }
}

#[test]
fn an_unknown_metric_to_keep_the_best_by_is_refused_before_the_first_step() {
    let scratch = tempfile::tempdir().unwrap();
    let mut task = Scripted::default();
    let change = |run: &mut RunConfig| run.keep_best = Some("scores".to_owned());
    let (result, config) = go(&mut task, scratch.path(), &SafetyConfig::default(), change);
    let error = result.unwrap_err();
    assert_eq!(error.exit_code(), 3);
    assert_eq!(error.to_string(), "run.keep_best is \"scores\"; allowed: score");
    assert!(task.state.weights.is_empty() && !config.path().exists());
}

#[test]
fn a_full_disk_is_noticed_before_anything_is_written() {
    let scratch = tempfile::tempdir().unwrap();
    let mut task = Scripted { checkpoint_bytes: 1 << 60, ..Scripted::default() };
    let change = |run: &mut RunConfig| run.steps = 20;
    let (result, config) = go(&mut task, scratch.path(), &SafetyConfig::default(), change);
    let error = result.unwrap_err();
    assert_eq!(error.exit_code(), 3);
    assert!(error.to_string().contains("nothing was written"), "{error}");
    assert!(steps(&config).is_empty());
}
