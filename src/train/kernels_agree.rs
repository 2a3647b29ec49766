//! Compares training on the composed operations with training on the kernels: the whole model, its
//! loss, its gradients and its optimizer.

#![allow(clippy::unwrap_used, reason = "tests")]

use std::collections::BTreeMap;

use burn::module::{Module, ModuleMapper, ModuleVisitor, Param};
use burn::optim::GradientsParams;
use burn::tensor::{Device, Int, Tensor, TensorData};
use rand::SeedableRng;
use rand::distr::{Distribution, Uniform};
use rand_chacha::ChaCha8Rng;
use tensor_files::ParamPath;
use vq_tokenizer::init;

use super::objective::{Activations, LossConfig, NextToken, NextTokenBatch};
use super::{Optimizer, OptimizerConfig, OptimizerKind};
use crate::data::pack::PackedBatch;
use crate::model::adapter::{AdapterConfig, InitKind, Names};
use crate::model::ops::{Kernels, forced};
use crate::model::{CausalLm, ModelConfig, ModelInput, mask};

/// Largest difference of a tensor, relative to the largest magnitude in it.
const TOLERANCE: f32 = 1e-5;

/// Longer than an attention block, and no multiple of a vector's length.
const SEQ: usize = 83;
const ROWS: usize = 2;
const STEPS: usize = 3;

/// Several layers, and several query heads for each key head.
fn config(swin_norm: bool, tie_word_embeddings: bool) -> ModelConfig {
    ModelConfig {
        vocab_size: 97,
        hidden_size: 48,
        intermediate_size: 72,
        num_hidden_layers: 3,
        num_attention_heads: 4,
        num_key_value_heads: 2,
        max_position_embeddings: SEQ,
        initializer_range: 0.2,
        swin_norm,
        tie_word_embeddings,
        ..ModelConfig::default()
    }
}

/// Rows of four documents each, their first tokens without a target.
fn batch() -> NextTokenBatch {
    let tokens = ROWS * SEQ;
    let of_token = |f: fn(usize) -> usize| (0..tokens).map(|token| f(token) as u32).collect();
    let packed = PackedBatch {
        ids: of_token(|token| token * token % 97),
        document_ids: of_token(|token| token % SEQ / 23 + 1),
        positions: of_token(|token| token % SEQ % 23),
        loss_mask: (0..tokens).map(|token| !(token % SEQ).is_multiple_of(23)).collect(),
        sources: vec![0; tokens],
        rows: ROWS,
        seq_len: SEQ,
    };
    NextTokenBatch { is_image: (0..tokens).map(|token| token % 5 == 0).collect(), packed }
}

/// Adds noise to every weight: the ones and zeros that norms start with hide mistakes. It is drawn on the host, as all
/// tests of a process share the generator of Burn's CPU backend.
struct Perturb(ChaCha8Rng);

impl ModuleMapper for Perturb {
    fn map_float<const D: usize>(&mut self, param: Param<Tensor<D>>) -> Param<Tensor<D>> {
        param.map(|weight| {
            let range = Uniform::new_inclusive(-0.35_f32, 0.35).unwrap();
            let count = weight.shape().num_elements();
            let noise: Vec<f32> = range.sample_iter(&mut self.0).take(count).collect();
            let noise = TensorData::new(noise, weight.dims());
            let noise = Tensor::from_data(noise, &weight.device().inner());
            Tensor::from_inner(weight.inner() + noise).require_grad()
        })
    }
}

/// Moves every weight to a device, with autodiff.
struct Move<'a>(&'a Device);

impl ModuleMapper for Move<'_> {
    fn map_float<const D: usize>(&mut self, param: Param<Tensor<D>>) -> Param<Tensor<D>> {
        param.map(|weight| Tensor::from_inner(weight.inner().to_device(self.0)).require_grad())
    }
}

/// The parameters of a model by path, or their gradients.
#[derive(Default)]
struct Tensors<'a> {
    gradients: Option<&'a GradientsParams>,
    path: ParamPath,
    found: BTreeMap<String, Vec<f32>>,
}

impl ModuleVisitor for Tensors<'_> {
    fn enter_module(&mut self, name: &str, container_type: &str) {
        self.path.enter(name, container_type);
    }

    fn exit_module(&mut self, _name: &str, container_type: &str) {
        self.path.exit(container_type);
    }

    fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
        let values = match self.gradients {
            Some(gradients) => gradients.get::<D>(param.id).expect("every weight has a gradient"),
            None => param.val(),
        };
        self.found.insert(self.path.name(), values.into_data().iter().collect());
    }
}

fn tensors(model: &CausalLm, gradients: Option<&GradientsParams>) -> BTreeMap<String, Vec<f32>> {
    let mut tensors = Tensors { gradients, ..Tensors::default() };
    model.visit(&mut tensors);
    tensors.found
}

fn input(packed: &PackedBatch, device: &Device) -> ModelInput {
    let tensor = |values: &[u32]| {
        let values: Vec<i32> = values.iter().map(|&value| value as i32).collect();
        Tensor::<2, Int>::from_data(TensorData::new(values, [ROWS, SEQ]), device)
    };
    ModelInput {
        ids: tensor(&packed.ids),
        positions: tensor(&packed.positions),
        mask: mask::packed(&packed.document_ids, ROWS, device),
    }
}

/// Everything that training computes, by name.
fn train(model: CausalLm, kind: OptimizerKind) -> BTreeMap<String, Vec<f32>> {
    let batch = batch();
    let objective = NextToken {
        config: LossConfig {
            z_loss: 1e-3,
            image_weight: 2.0,
            text_weight: 1.0,
            ..LossConfig::default()
        },
    };
    let mut optimizer = Optimizer::new(OptimizerConfig { kind, ..OptimizerConfig::default() });
    let mut results = BTreeMap::new();
    let logits = model.forward(input(&batch.packed, &model.device()));
    results.insert("logits".to_owned(), logits.into_data().iter().collect());
    let normalizer = objective.normalizer(std::slice::from_ref(&batch));
    let mut model = model;
    for step in 1..=STEPS {
        let (gradients, loss) = objective.gradients(&model, &batch, normalizer, Activations::Keep);
        results.insert(format!("loss of step {step}"), vec![loss.total as f32]);
        let of_step = tensors(&model, Some(&gradients));
        let name = |(path, values)| (format!("gradient of {path} in step {step}"), values);
        results.extend(of_step.into_iter().map(name));
        (model, _) = optimizer.step(model, gradients, 3e-3).map_err(|(_, norm)| norm).unwrap();
    }
    let name = |(path, values)| (format!("{path} after {STEPS} steps"), values);
    results.extend(tensors(&model, None).into_iter().map(name));
    results
}

fn largest(values: impl Iterator<Item = f32>) -> f32 {
    values.fold(
        0.0,
        |largest, value| if value.is_nan() { f32::INFINITY } else { largest.max(value.abs()) },
    )
}

/// Largest difference, relative to the largest magnitude of `want`.
fn error(got: &[f32], want: &[f32]) -> f32 {
    assert_eq!(got.len(), want.len());
    let difference = largest(got.iter().zip(want).map(|(got, want)| got - want));
    difference / largest(want.iter().copied()).max(f32::MIN_POSITIVE)
}

/// The kernels of every device at hand.
fn sides() -> Vec<(Kernels, Device)> {
    std::iter::once((Kernels::Cpu, Device::flex())).chain(forced::gpu()).collect()
}

fn model(swin_norm: bool, tied: bool) -> CausalLm {
    let device = Device::flex().autodiff();
    init::seed(11);
    let noise = ChaCha8Rng::seed_from_u64(11);
    config(swin_norm, tied).init(&device).unwrap().map(&mut Perturb(noise))
}

/// Compares logits, losses, the gradients of all parameters in three steps of an optimizer and the parameters after
/// them.
#[test]
fn composed_operations_train_as_the_kernels_do() {
    let (adamw, muon) = (OptimizerKind::AdamW, OptimizerKind::Muon);
    for (swin_norm, tied, kind) in [(false, false, adamw), (true, true, adamw), (false, true, muon)]
    {
        let model = model(swin_norm, tied);
        let before = tensors(&model, None);
        let (want, composed_runs) = forced::on(Kernels::Composed, || train(model.clone(), kind));
        assert_eq!(want.len(), 1 + STEPS + (STEPS + 1) * before.len());
        for (kernels, device) in sides() {
            let moved = model.clone().map(&mut Move(&device));
            let (got, runs) = forced::on(kernels, || train(moved, kind));
            let mut operations = vec![
                "adamw",
                "attention",
                "cross_entropy",
                "head_norm_rope",
                "linear",
                "matmul",
                "merge_heads",
                "rms_norm",
                "rows",
                "sum_of_squares",
                "swiglu",
            ];
            if kind == OptimizerKind::Muon {
                operations.insert(7, "muon");
            }
            assert!(runs.keys().eq(&operations), "{runs:?}");
            assert_eq!(runs, composed_runs, "the sides ran different operations");
            assert!(got["logits"] != want["logits"], "both sides ran the same arithmetic");
            assert!(got.keys().eq(want.keys()));
            for (name, want) in &want {
                let error = error(&got[name], want);
                // Differences of rounding grow from step to step.
                let step = (2..=STEPS).find(|step| name.ends_with(&format!("in step {step}")));
                let tolerance = step.unwrap_or(1) as f32 * TOLERANCE;
                assert!(error <= tolerance, "{name} is off by {error} on {kernels:?}");
            }
        }
        for (path, before) in &before {
            let moved = error(before, &want[&format!("{path} after {STEPS} steps")]);
            assert!(moved > 100.0 * TOLERANCE, "{path} moved by {moved} only");
        }
    }
}

/// Small differences grow from step to step; a mistake would show at once.
#[test]
fn losses_of_twenty_steps_follow_the_composed_ones() {
    let batch = batch();
    let objective = NextToken { config: LossConfig::default() };
    let normalizer = objective.normalizer(std::slice::from_ref(&batch));
    let losses = |mut model: CausalLm| -> Vec<f64> {
        let mut optimizer = Optimizer::new(OptimizerConfig::default());
        let mut step = || {
            let (gradients, loss) =
                objective.gradients(&model, &batch, normalizer, Activations::Keep);
            let updated = optimizer.step(model.clone(), gradients, 1e-3);
            model = updated.map_err(|(_, norm)| norm).unwrap().0;
            loss.total
        };
        (0..20).map(|_| step()).collect()
    };
    let model = model(false, false);
    for targets in [&[][..], &["q_proj", "v_proj"], &ALL] {
        let on = |device: &Device| adapted(model.clone().map(&mut Move(device)), targets);
        let want = forced::on(Kernels::Composed, || losses(on(&Device::flex()))).0;
        assert!(want[19] < 0.9 * want[0], "training lowers the loss: {want:?}");
        for (kernels, device) in sides() {
            let got = forced::on(kernels, || losses(on(&device))).0;
            for (step, (got, want)) in got.iter().zip(&want).enumerate() {
                assert!((got - want).abs() < 1e-4, "{kernels:?}, step {step}: {got} {want}");
            }
        }
    }
}

/// The matrices of a layer.
const ALL: [&str; 7] =
    ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"];

/// `model` with factors of `targets`, which alone are trained; without targets all of it is.
fn adapted(model: CausalLm, targets: &[&str]) -> CausalLm {
    if targets.is_empty() {
        return model;
    }
    let adapter = AdapterConfig {
        target_modules: Names::Many(targets.iter().map(|&name| name.to_owned()).collect()),
        lora_alpha: 32.0,
        init_lora_weights: InitKind::Random,
        ..AdapterConfig::default()
    };
    init::seed(12);
    model.with_adapter(&adapter.plan(&config(false, false)).unwrap(), &adapter)
}
