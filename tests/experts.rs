//! Training with experts: balance by biases, losses of routers over a step, and what the report says of them.

use std::collections::BTreeMap;
use std::path::Path;

use burn::module::{Module, ModuleVisitor, Param};
use burn::tensor::{Device, Tensor, TensorData};
use calumma::checkpoint::Checkpoint;
use calumma::data::pack::PackedBatch;
use calumma::device::Precision;
use calumma::model::{CausalLm, ExpertLoads, ModelConfig, RouterLoss};
use calumma::recipe::read_recipe;
use calumma::train::objective::{Activations, LossConfig, MicroBatch, NextToken, NextTokenBatch};
use calumma::train::{LanguageRecipe, LanguageTask, Task};
use tensor_files::{ParamPath, WeightFiles};

use crate::common::{cpu, tiny_checkpoint};
use crate::train::{assert_same_bits, in_dir, newest, recipe, train};

const RECIPE: &str = r#"
[run]
name = "experts"
seed = 5
steps = 8
checkpoint_every = 100
eval_samples = 2
log_every = 1
shown = 0
[model]
hidden_size = 32
intermediate_size = 48
num_hidden_layers = 3
num_attention_heads = 2
max_position_embeddings = 96
[model.experts]
num_experts = 4
num_experts_per_tok = 2
moe_intermediate_size = 24
dense_layers = [1]
norm_topk_prob = true
scores = "sigmoid"
router_aux_loss_coef = 0.01
[tokenizer]
checkpoint = "TOKENIZER"
[[data]]
path = "scenes:train?count=12&size=32"
templates = ["{caption}<image>"]
[[validation]]
path = "scenes:val?count=2&size=32"
templates = ["{caption}<image>"]
[loss]
router_z_loss = 1e-3
bias_update_speed = 0.0078125
[average]
decay = 0.5
[batch]
sequences = 2
seq_len = 64
accumulate = 2
"#;

/// The recipe in `dir`, with the tokenizers of a checkpoint there.
pub fn of(dir: &Path, text: &str, overrides: &[String]) -> LanguageRecipe {
    let tokenizer = dir.join("tokenizer");
    if !tokenizer.exists() {
        tiny_checkpoint(&tokenizer);
    }
    recipe(dir, &text.replace("TOKENIZER", tokenizer.to_str().unwrap()), overrides)
}

pub fn task(recipe: &LanguageRecipe) -> LanguageTask {
    LanguageTask::new(recipe.clone(), &cpu(), Precision::F32, true).unwrap()
}

fn bias(file: &Path, layer: usize) -> Vec<f32> {
    let files = WeightFiles::open(file).unwrap();
    let stored = files.stored(&format!("model.layers.{layer}.mlp.gate.e_score_correction_bias"));
    stored.unwrap().to_data(burn::tensor::FloatDType::F32).unwrap().iter().collect()
}

#[test]
fn balanced_biases_resume_to_the_bit_and_are_saved_with_the_weights() {
    let scratch = tempfile::tempdir().unwrap();
    let dir = scratch.path();
    let run = |name: &str, stops: &[Option<usize>]| {
        let recipe = of(dir, RECIPE, &in_dir(dir, name));
        stops.iter().for_each(|stop| train(task(&recipe), &recipe.run, *stop));
        newest(&recipe.run)
    };
    let straight = run("straight", &[None]);
    let resumed = run("stopped", &[Some(3), None]);
    assert_same_bits(&straight, &resumed);
    let weights = |dir: &Path| std::fs::read(dir.join("trainer/weights.safetensors")).unwrap();
    assert!(weights(&straight) == weights(&resumed));

    for layer in [0, 2] {
        let live = bias(&straight.join("trainer/weights.safetensors"), layer);
        let steps: Vec<f32> = live.iter().map(|bias| bias / 0.007_812_5).collect();
        assert!(steps.iter().all(|steps| steps.fract() == 0.0 && steps.abs() <= 8.0), "{live:?}");
        assert!(steps.iter().any(|steps| *steps != 0.0));
        let average = bias(&straight.join("model.safetensors"), layer);
        assert!(average != live && average.iter().all(|bias| bias.is_finite()), "averaged as well");
    }
    // No moments: no optimizer touches them.
    let optimizer = WeightFiles::open(&straight.join("trainer/optimizer.safetensors")).unwrap();
    assert!(optimizer.tensors().all(|(name, ..)| !name.contains("e_score_correction_bias")));
}

#[test]
fn a_step_reports_loads_of_its_tokens_by_layer_and_modality() {
    let scratch = tempfile::tempdir().unwrap();
    let mut task = task(&of(scratch.path(), RECIPE, &in_dir(scratch.path(), "runs")));
    let stepped = task.step(0, 1e-3).unwrap();
    assert!(stepped.skipped.is_none());
    let metrics: BTreeMap<_, _> = task.since_last().into_iter().collect();
    let layers = task.experts();
    assert_eq!(layers.iter().map(|layer| layer.layer).collect::<Vec<_>>(), [0, 2]);
    for layer in &layers {
        assert!((layer.loads.iter().sum::<f64>() - 4.0).abs() < 1e-9, "{:?}", layer.loads);
        // Image codes of all experts are those of the data.
        let images = layer.loads.iter().zip(&layer.image_shares);
        let images: f64 = images.map(|(load, share)| load / 4.0 * share.unwrap_or(0.0)).sum();
        assert!((images - metrics["image_share"]).abs() < 1e-9, "{images}");
        let measures = &layer.measures;
        assert!((0.25..=1.0).contains(&measures["top_weight"]), "{measures:?}");
        assert!(measures["z_loss"] >= measures["log_sum_exp"].powi(2) - 1e-4, "{measures:?}");
        assert_eq!(measures["bias_range"] > 0.0, measures["load_cv"] > 0.0, "{measures:?}");
        assert!(measures["load_entropy"] <= 1.0 && measures["balance_loss"] > 1.0);
    }
    assert!(metrics["expert_load_max"] >= 1.0 && task.experts().is_empty(), "handed out once");
}

#[test]
fn settings_of_balance_need_what_they_are_about() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("recipe.toml");
    let said = |from: &str, to: &str| {
        std::fs::write(&path, RECIPE.replace(from, to)).unwrap();
        read_recipe::<LanguageRecipe>(&path, &[]).unwrap_err().to_string()
    };
    let message = said("scores = \"sigmoid\"", "scores = \"softmax\"");
    assert!(message.contains("loss.bias_update_speed is 0.0078125; it needs"), "{message}");
    let message = said("router_z_loss = 1e-3", "router_z_loss = -1.0");
    assert!(message.contains("loss.router_z_loss is -1; allowed: at least 0"), "{message}");
    let start = RECIPE.find("[model.experts]").unwrap();
    let experts = &RECIPE[start..RECIPE.find("[tokenizer]").unwrap()];
    let message = said(experts, "");
    assert!(message.contains("loss.router_z_loss is 0.001; it needs [model.experts]"), "{message}");
}

fn model(device: &Device, balance: f64) -> CausalLm {
    let config: ModelConfig = serde_json::from_value(serde_json::json!({
        "vocab_size": 24, "hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 2,
        "num_attention_heads": 2, "num_key_value_heads": 1, "initializer_range": 0.4,
        "experts": {
            "num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 8,
            "norm_topk_prob": true, "router_aux_loss_coef": balance,
        },
    }))
    .unwrap();
    vq_tokenizer::init::seed(4);
    config.init(device).unwrap()
}

/// Rows `rows` of a batch of two, the second with padding.
fn rows(rows: std::ops::Range<usize>) -> NextTokenBatch {
    let tokens = rows.start * 6..rows.end * 6;
    let of = |values: [u32; 12]| values[tokens.clone()].to_vec();
    let packed = PackedBatch {
        ids: of([3, 20, 7, 9, 22, 1, 5, 23, 2, 8, 0, 0]),
        document_ids: of([1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 0, 0]),
        positions: of([0, 1, 2, 3, 4, 5, 0, 1, 2, 3, 4, 5]),
        loss_mask: of([0, 1, 1, 0, 1, 1, 0, 1, 1, 1, 0, 0]).iter().map(|m| *m == 1).collect(),
        sources: vec![0; tokens.len()],
        rows: rows.len(),
        seq_len: 6,
    };
    NextTokenBatch { is_image: packed.ids.iter().map(|&id| id >= 20).collect(), packed }
}

/// The gradients of all parameters, by path.
#[derive(Default)]
struct Sum(ParamPath, BTreeMap<String, Vec<f32>>);

struct Add<'a>(&'a mut Sum, &'a burn::optim::GradientsParams);

impl ModuleVisitor for Add<'_> {
    fn enter_module(&mut self, name: &str, container_type: &str) {
        self.0.0.enter(name, container_type);
    }
    fn exit_module(&mut self, _name: &str, container_type: &str) {
        self.0.0.exit(container_type);
    }
    fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
        let Some(gradient) = self.1.get::<D>(param.id) else { return };
        let values: TensorData = gradient.into_data();
        let sums =
            self.0.1.entry(self.0.0.name()).or_insert_with(|| vec![0.0; values.num_elements()]);
        sums.iter_mut().zip(values.iter::<f32>()).for_each(|(sum, value)| *sum += value);
    }
}

#[test]
fn micro_batches_add_up_to_the_z_loss_and_the_loads_of_the_step() {
    let model = model(&cpu().autodiff(), 0.0);
    let config = LossConfig { router_z_loss: 0.3, ..LossConfig::default() };
    let objective = NextToken { config };
    let step = |batches: &[NextTokenBatch], activations: Activations| {
        let normalizer = objective.normalizer(batches);
        let (mut earlier, mut total, mut sum) = (ExpertLoads::default(), 0.0, Sum::default());
        for batch in batches {
            let of_step = MicroBatch { normalizer, earlier: &earlier, activations, seed: None };
            let (gradients, loss) = objective.gradients_of(&model, batch, of_step);
            model.visit(&mut Add(&mut sum, &gradients));
            total += loss.total;
            earlier += &loss.routers.loads;
        }
        (total, earlier, sum.1)
    };
    let (want, loads, gradients) = step(&[rows(0..2)], Activations::Keep);
    assert_eq!((loads.tokens, loads.layers.len()), (10, 2));
    let without = NextToken { config: LossConfig::default() }.loss(&model, &rows(0..2)).total;
    assert!(want > without + 0.01, "the z-loss is part of the loss: {want} {without}");
    for activations in [Activations::Keep, Activations::Recompute { seed: 1 }] {
        let (total, split, parts) = step(&[rows(0..1), rows(1..2)], activations);
        assert!((total - want).abs() < 1e-5, "{total} {want}");
        assert_eq!(split, loads);
        for (name, want) in &gradients {
            let near = parts[name].iter().zip(want).all(|(a, b)| (a - b).abs() < 1e-5);
            assert!(near, "{name}");
        }
    }
}

#[test]
fn the_balance_of_a_micro_batch_takes_the_loads_of_those_before() {
    let objective = NextToken { config: LossConfig::default() };
    let batches = [rows(0..1), rows(1..2)];
    let normalizer = objective.normalizer(&batches);
    let of = |balance, batch, earlier: &ExpertLoads| {
        let activations = Activations::Keep;
        let of_step = MicroBatch { normalizer, earlier, activations, seed: None };
        objective.gradients_of(&model(&cpu().autodiff(), balance), batch, of_step).1
    };
    let earlier = of(0.5, &batches[0], &ExpertLoads::default()).routers.loads;
    let [with, without] = [0.5, 0.0].map(|balance| of(balance, &batches[1], &earlier));
    let added = with.total - without.total;
    let own = with.routers.loads.clone();
    let mut all = earlier;
    all += &own;
    assert_eq!((own.tokens, all.tokens, normalizer.tokens), (4, 10, 10));
    let value = |loads: &ExpertLoads| -> f64 {
        let choice = [std::ops::Range { start: 0, end: 4 }];
        let loss = RouterLoss::new(loads, &choice, normalizer.tokens, None, [0.5, 0.0]);
        with.routers.layers.iter().map(|sums| loss.value(sums)).sum()
    };
    assert!((added - value(&all)).abs() < 1e-5, "{added} {}", value(&all));
    assert!((added - value(&own)).abs() > 1e-3, "its own loads alone");
}

/// The recipe with experts for text and for images.
fn by_modality() -> String {
    let groups = "router_aux_loss_coef = 0.01\nmodality_groups = [2, 2]";
    RECIPE.replace("router_aux_loss_coef = 0.01", groups)
}

#[test]
fn experts_of_modalities_train_and_reopen_with_their_ids() {
    let scratch = tempfile::tempdir().unwrap();
    let recipe = of(scratch.path(), &by_modality(), &in_dir(scratch.path(), "runs"));
    let mut run = task(&recipe);
    let ids = run.config().experts.as_ref().unwrap().modality_ids.unwrap();
    run.step(0, 1e-3).unwrap();
    let metrics: BTreeMap<_, _> = run.since_last().into_iter().collect();
    for layer in run.experts() {
        let shares: Vec<f64> = layer.image_shares.iter().flatten().copied().collect();
        assert!(shares.iter().all(|share| *share == 0.0 || *share == 1.0), "{shares:?}");
        // The expert tells the modality, so it says all there is to know of it.
        let image = metrics["image_share"];
        let entropy = -image * image.ln() - (1.0 - image) * (1.0 - image).ln();
        assert!((layer.measures["modality_information"] - entropy).abs() < 1e-9);
    }
    train(task(&recipe), &recipe.run, None);
    let opened = Checkpoint::open(&newest(&recipe.run), &cpu()).unwrap();
    let experts = opened.config.experts.as_ref().unwrap();
    assert_eq!((experts.modality_groups, experts.modality_ids), (Some([2, 2]), Some(ids)));
    let vocabulary = opened.processor.vocabulary();
    assert_eq!(vocabulary.image_range(), Some(ids));
    assert_eq!((ids[1] - ids[0] + 1) as usize, vocabulary.num_codes());
    let config = std::fs::read(newest(&recipe.run).join("config.json")).unwrap();
    let config: serde_json::Value = serde_json::from_slice(&config).unwrap();
    assert_eq!(config["model_type"], "calumma");
}

/// A run with experts from the dense checkpoint of [`tiny_checkpoint`].
const UPCYCLE: &str = r#"
[run]
name = "upcycle"
init = "TOKENIZER"
steps = 2
eval_samples = 2
shown = 0
[model.experts]
num_experts = 4
num_experts_per_tok = 2
router_aux_loss_coef = 0.01
[upcycle]
[[data]]
path = "scenes:train?count=12&size=32"
templates = ["{caption}<image>"]
[[validation]]
path = "scenes:val?count=2&size=32"
templates = ["{caption}<image>"]
[batch]
sequences = 2
seq_len = 64
"#;

#[test]
fn an_upcycled_run_begins_with_the_losses_of_the_dense_model() {
    let scratch = tempfile::tempdir().unwrap();
    let dir = scratch.path();
    let evaluated = |text: &str, overrides: &[&str]| {
        let mut all = in_dir(dir, "runs");
        all.extend(overrides.iter().map(|set| (*set).to_owned()));
        let recipe = of(dir, text, &all);
        (task(&recipe).evaluate().unwrap()[0].1, recipe)
    };
    let start = UPCYCLE.find("[model.experts]").unwrap();
    let section = &UPCYCLE[start..UPCYCLE.find("[[data]]").unwrap()];
    let (dense, _) = evaluated(&UPCYCLE.replace(section, ""), &[]);
    let (sparse, recipe) = evaluated(UPCYCLE, &[]);
    assert!((dense - sparse).abs() < 1e-5, "{dense} {sparse}");
    let (redrawn, _) = evaluated(UPCYCLE, &["upcycle.redraw=0.5"]);
    assert!((redrawn - dense).abs() > 1e-5, "{dense} {redrawn}");
    // The run resumes from its own checkpoint, not from the dense one.
    train(task(&recipe), &recipe.run, Some(1));
    train(task(&recipe), &recipe.run, None);
    let straight = of(dir, UPCYCLE, &in_dir(dir, "straight"));
    train(task(&straight), &straight.run, None);
    assert_same_bits(&newest(&straight.run), &newest(&recipe.run));
    let opened = Checkpoint::open(&newest(&recipe.run), &cpu()).unwrap();
    let experts = opened.config.experts.unwrap();
    assert_eq!((experts.num_experts, experts.moe_intermediate_size), (4, 48));

    // A checkpoint of the other kind is refused with what to do.
    let said = |text: &str, init: &Path| {
        let mut overrides = in_dir(dir, "others");
        overrides.push(format!("run.init={:?}", init.to_str().unwrap()));
        let recipe = of(dir, text, &overrides);
        let task = LanguageTask::new(recipe, &cpu(), Precision::F32, true);
        task.err().unwrap().to_string()
    };
    let error = said(UPCYCLE, &newest(&recipe.run));
    assert!(error.contains("has experts already; leave out [upcycle]"), "{error}");
    let error = said(RECIPE, &dir.join("tokenizer"));
    assert!(error.contains("has no experts; [upcycle] makes them"), "{error}");
}

#[test]
fn upcycling_is_refused_where_it_would_not_be_exact() {
    let scratch = tempfile::tempdir().unwrap();
    let dir = scratch.path();
    tiny_checkpoint(&dir.join("tokenizer"));
    let path = dir.join("recipe.toml");
    let tokenizer = dir.join("tokenizer");
    let said = |from: &str, to: &str| {
        let text = UPCYCLE.replace("TOKENIZER", tokenizer.to_str().unwrap()).replace(from, to);
        std::fs::write(&path, text).unwrap();
        read_recipe::<LanguageRecipe>(&path, &[]).unwrap_err().to_string()
    };
    let experts = "num_experts_per_tok = 2";
    for (to, message) in [
        ("num_experts_per_tok = 2\nnorm_topk_prob = false", "norm_topk_prob is false"),
        ("num_experts_per_tok = 2\nmoe_intermediate_size = 24", "moe_intermediate_size is 24"),
        ("num_experts_per_tok = 2\nn_shared_experts = 1", "n_shared_experts is 1"),
    ] {
        let error = said(experts, to);
        assert!(error.contains(message), "{error}");
    }
    let error = said("[upcycle]", "[upcycle]\nredraw = 1.0");
    assert!(error.contains("upcycle.redraw is 1; allowed: [0, 1)"), "{error}");
    let error = said("[batch]", "[adapter]\nr = 2\n[batch]");
    assert!(error.contains("[upcycle] and an adapter are both given"), "{error}");
}
