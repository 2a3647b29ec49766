//! Training: exact resume, and the chunked loss against a plain one.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::atomic::Ordering;

use burn::module::{Module, Param};
use burn::optim::GradientsParams;
use burn::tensor::{Device, Int, Tensor, TensorData, activation};
use calumma::Error;
use calumma::data::pack::PackedBatch;
use calumma::data::{BpeRecipe, corpus};
use calumma::device::Precision;
use calumma::model::{CausalLm, ModelConfig, ModelInput, mask};
use calumma::recipe::{Recipe, read_recipe};
use calumma::report::{Metrics, Reporter};
use calumma::tokenize::train_bpe;
use calumma::train::objective::{
    Activations, LossConfig, NextToken, NextTokenBatch, NextTokenLoss,
};
use calumma::train::{
    Better, ImageTask, LanguageRecipe, LanguageTask, Plan, RunConfig, SafetyConfig, ScheduleConfig,
    Stepped, StopFlag, Task, VqRecipe, newest_good_checkpoint, run,
};
use tensor_files::ParamPath;

use crate::common::{cpu, excess};

/// A task that requests a stop after a step and checks the names of its metrics.
struct StopAfter<T> {
    inner: T,
    step: usize,
    flag: StopFlag,
}

impl<T: Task> Task for StopAfter<T> {
    const UNIT: &'static str = T::UNIT;

    fn step(&mut self, step: usize, lr: f64) -> calumma::Result<Stepped> {
        if step + 1 == self.step {
            self.flag.store(15, Ordering::SeqCst);
        }
        self.inner.step(step, lr)
    }

    fn eval_metrics(&self) -> Vec<(String, Better)> {
        self.inner.eval_metrics()
    }

    fn evaluate(&mut self) -> calumma::Result<Metrics> {
        let metrics = self.inner.evaluate()?;
        let known = self.inner.eval_metrics();
        for (name, _) in &metrics {
            assert!(known.iter().any(|(known, _)| known == name), "{name} is not in eval_metrics");
        }
        Ok(metrics)
    }

    fn image(&mut self) -> Option<image::RgbImage> {
        self.inner.image()
    }

    fn save(&self, dir: &Path) -> calumma::Result<()> {
        self.inner.save(dir)
    }

    fn restore(&mut self, dir: &Path, skip: u64) -> calumma::Result<()> {
        self.inner.restore(dir, skip)
    }
}

pub fn recipe<R: Recipe>(dir: &Path, text: &str, overrides: &[String]) -> R {
    let path = dir.join("recipe.toml");
    std::fs::write(&path, text).unwrap();
    read_recipe(&path, overrides).unwrap()
}

pub const VQ: &str = r#"
[run]
name = "vq"
seed = 3
steps = 20
checkpoint_every = 100
eval_samples = 4
[model]
resolution = 16
base_channels = 32
channel_multiplier = [1, 1]
num_res_blocks = 1
attn_resolutions = []
latent_channels = 32
embed_dim = 8
num_embeddings = 24
[[data]]
path = "scenes:train?count=64&seed=1&size=32&objects=1-1"
augment = true
[[validation]]
path = "scenes:val?count=4&seed=1&size=32&objects=1-1"
[optimizer]
lr = 1e-3
[codebook]
after_steps = 3
[warmup]
autoencoder_steps = 4
[batch]
images = 2
"#;

pub const BPE: &str = r#"
[run]
name = "bpe"
documents = 200
[bpe]
vocab_size = 512
num_codes = 24
[[data]]
path = "scenes:train?count=200&seed=1"
templates = ["{captions}"]
"#;

pub const LM: &str = r#"
[run]
name = "lm"
seed = 5
steps = 20
checkpoint_every = 100
eval_samples = 4
[model]
hidden_size = 32
intermediate_size = 48
num_hidden_layers = 2
num_attention_heads = 2
num_key_value_heads = 1
max_position_embeddings = 256
dropout = 0.1
[tokenizer]
checkpoint = ""
text = ""
[[data]]
path = "scenes:train?count=32&seed=2&size=32&objects=1-2"
prompt_dropout = 0.3
templates = ["{captions}<image>"]
[[data]]
path = "scenes:train?count=32&seed=2&size=32&objects=1-2"
loss = "answers"
max_turns = 2
templates = ["<image>{#questions|<sep>}{question}<sep>{answer}{/questions}"]
[[validation]]
path = "scenes:val?count=4&seed=2&size=32"
templates = ["{captions}<image>"]
[optimizer]
kind = "muon"
lr = 1e-2
[schedule]
warmup = 5
[batch]
sequences = 2
seq_len = 192
accumulate = 2
"#;

/// Runs `task` to its end, or to the step `stop_after`, which must end in the documented error.
pub fn train<T: Task>(task: T, config: &RunConfig, stop_after: Option<usize>) {
    let flag = StopFlag::default();
    let mut task = StopAfter { inner: task, step: stop_after.unwrap_or(0), flag: flag.clone() };
    let schedule = ScheduleConfig { warmup: 5, ..Default::default() };
    let safety = SafetyConfig::default();
    let plan =
        Plan { run: config, schedule: &schedule, safety: &safety, peak_lr: 1e-2, peak_flops: None };
    match run(&mut task, &plan, Reporter::silent(), &flag) {
        Ok(summary) => assert!(stop_after.is_none() && !summary.evaluation.is_empty()),
        Err(Error::Interrupted { signal: 15 }) => assert!(stop_after.is_some()),
        Err(error) => panic!("{error}"),
    }
}

pub fn assert_same_bits(a: &Path, b: &Path) {
    for name in ["model.safetensors", "trainer/optimizer.safetensors"] {
        let (a, b) = (std::fs::read(a.join(name)).unwrap(), std::fs::read(b.join(name)).unwrap());
        assert!(a == b, "{name} differs");
    }
}

pub fn in_dir(dir: &Path, name: &str) -> Vec<String> {
    vec![format!("run.directory={:?}", dir.join(name).to_str().unwrap())]
}

pub fn newest(config: &RunConfig) -> PathBuf {
    let (step, dir) = newest_good_checkpoint(&config.path()).unwrap().unwrap();
    assert_eq!(step, config.steps);
    dir
}

#[test]
fn a_resumed_run_has_the_bits_of_an_uninterrupted_one() {
    // Burn's CPU backend has one random generator per process, shared by the tests of all threads; so
    // this one runs in a separate process.
    let status = std::process::Command::new(std::env::current_exe().unwrap())
        .args(["train::resume_in_a_separate_process", "--exact", "--ignored"])
        .status()
        .unwrap();
    assert!(status.success());
}

#[test]
#[ignore = "a_resumed_run_has_the_bits_of_an_uninterrupted_one runs it"]
fn resume_in_a_separate_process() {
    let scratch = tempfile::tempdir().unwrap();
    let dir = scratch.path();
    let vq_run = |name: &str, stops: &[Option<usize>]| {
        let recipe: VqRecipe = recipe(dir, VQ, &in_dir(dir, name));
        for stop in stops {
            train(
                ImageTask::new(recipe.clone(), &cpu(), Precision::F32).unwrap(),
                &recipe.run,
                *stop,
            );
        }
        newest(&recipe.run)
    };
    let straight = vq_run("straight", &[None]);
    assert_same_bits(&straight, &vq_run("stopped", &[Some(10), None]));

    let bpe: BpeRecipe = recipe(dir, BPE, &[]);
    let text = dir.join("tokenizer.json");
    let texts = corpus(&bpe.data, bpe.run.documents, 0).unwrap().texts;
    train_bpe(&bpe.bpe, texts).unwrap().save(&text).unwrap();
    let lm_run = |name: &str, stops: &[Option<usize>]| {
        let mut overrides = in_dir(dir, name);
        overrides.push(format!("tokenizer.checkpoint={:?}", straight.to_str().unwrap()));
        overrides.push(format!("tokenizer.text={:?}", text.to_str().unwrap()));
        let recipe: LanguageRecipe = recipe(dir, LM, &overrides);
        for stop in stops {
            train(
                LanguageTask::new(recipe.clone(), &cpu(), Precision::F32, true).unwrap(),
                &recipe.run,
                *stop,
            );
        }
        newest(&recipe.run)
    };
    let straight = lm_run("straight", &[None]);
    assert_same_bits(&straight, &lm_run("stopped", &[Some(10), None]));
    // The result opens as a complete checkpoint.
    let opened = calumma::checkpoint::Checkpoint::open(&straight, &cpu()).unwrap();
    assert!(opened.vq.is_some() && opened.digest.is_some());
}

pub fn tiny_model(device: &Device) -> CausalLm {
    let config = ModelConfig {
        vocab_size: 24,
        hidden_size: 16,
        intermediate_size: 24,
        num_hidden_layers: 1,
        num_attention_heads: 2,
        num_key_value_heads: 1,
        initializer_range: 0.4,
        ..ModelConfig::default()
    };
    config.init(device).unwrap()
}

pub fn tiny_batch() -> NextTokenBatch {
    let (rows, seq_len) = (2, 6);
    let packed = PackedBatch {
        ids: vec![1, 5, 9, 2, 7, 3, 1, 4, 4, 20, 21, 0],
        document_ids: vec![1, 1, 1, 2, 2, 2, 1, 1, 1, 1, 1, 0],
        positions: vec![0, 1, 2, 0, 1, 2, 0, 1, 2, 3, 4, 0],
        loss_mask: [0, 1, 1, 0, 0, 1, 0, 1, 1, 1, 1, 0].map(|m| m == 1).to_vec(),
        sources: vec![0, 0, 0, 1, 1, 1, 1, 1, 1, 1, 1, 0],
        rows,
        seq_len,
    };
    NextTokenBatch { is_image: packed.ids.iter().map(|&id| id >= 20).collect(), packed }
}

/// The same loss with logits of all tokens on the tape.
fn plain_loss(model: &CausalLm, batch: &NextTokenBatch, config: &LossConfig) -> Tensor<1> {
    let packed = &batch.packed;
    let device = model.model.embed_tokens.weight.val().device();
    let ints = |values: &[u32]| {
        let values: Vec<i32> = values.iter().map(|&v| v as i32).collect();
        Tensor::<2, Int>::from_data(TensorData::new(values, [packed.rows, packed.seq_len]), &device)
    };
    let logits = model.forward(ModelInput {
        ids: ints(&packed.ids),
        positions: ints(&packed.positions),
        mask: mask::packed(&packed.document_ids, packed.rows, &device),
    });
    let [rows, seq, vocab] = logits.dims();
    let logits = logits.reshape([rows * seq, vocab]);
    let lse = logits.clone().exp().sum_dim(1).log();
    let log_probabilities = activation::log_softmax(logits, 1);
    let (mut nll, mut z) = (Tensor::<1>::zeros([1], &device), Tensor::<1>::zeros([1], &device));
    let (mut weights, mut count) = (0.0, 0.0);
    for token in (0..packed.ids.len()).filter(|&t| packed.loss_mask[t]) {
        let weight = if batch.is_image[token] { config.image_weight } else { config.text_weight };
        let id = packed.ids[token] as usize;
        let one = log_probabilities.clone().slice([token - 1..token, id..id + 1]).reshape([1]);
        nll = nll - one * weight;
        let one = lse.clone().slice([token - 1..token, 0..1]).reshape([1]);
        z = z + one.clone() * one;
        weights += weight;
        count += 1.0;
    }
    nll / weights + z * (config.z_loss / count)
}

#[test]
fn the_chunked_loss_has_value_and_gradients_of_the_plain_one() {
    let device = cpu().autodiff();
    let (model, batch) = (tiny_model(&device), tiny_batch());
    let config =
        LossConfig { z_loss: 0.05, image_weight: 0.5, text_weight: 1.5, ..LossConfig::default() };
    let plain = plain_loss(&model, &batch, &config);
    let (got, loss) = whole_step(&NextToken { config: config.clone() }, &model, &batch);
    let want = f64::from(plain.clone().into_scalar::<f32>());
    assert!((loss.total - want).abs() < 1e-5, "{} {want}", loss.total);
    assert_eq!((loss.image.1, loss.text.1), (2, 5));
    assert_eq!(NextToken { config }.loss(&model, &batch), loss, "without gradients");
    let want = gradients(&model, plain);
    let got = named(&model, got);
    assert_eq!(want.len(), got.len());
    for (path, want) in want {
        let largest = want.iter::<f32>().map(f32::abs).fold(0.0, f32::max);
        let excess = excess(&got[&path], &want, 1e-5 * largest + 1e-8, 0.0);
        assert!(excess <= 1.0, "{path}: {excess}");
    }
}

/// Gradients and loss of a step of one micro-batch.
pub fn whole_step(
    objective: &NextToken,
    model: &CausalLm,
    batch: &NextTokenBatch,
) -> (GradientsParams, NextTokenLoss) {
    let normalizer = objective.normalizer(std::slice::from_ref(batch));
    objective.gradients(model, batch, normalizer, Activations::Keep)
}

/// Gradients of the default loss on [`tiny_batch`].
pub fn tiny_gradients(model: &CausalLm) -> GradientsParams {
    whole_step(&NextToken { config: LossConfig::default() }, model, &tiny_batch()).0
}

pub fn gradients(model: &CausalLm, loss: Tensor<1>) -> BTreeMap<String, TensorData> {
    named(model, GradientsParams::from_grads(loss.backward(), model))
}

/// Gradients by the names of their parameters.
pub fn named(model: &CausalLm, gradients: GradientsParams) -> BTreeMap<String, TensorData> {
    struct Collect(GradientsParams, ParamPath, BTreeMap<String, TensorData>);
    impl burn::module::ModuleVisitor for Collect {
        fn enter_module(&mut self, name: &str, container_type: &str) {
            self.1.enter(name, container_type);
        }
        fn exit_module(&mut self, _name: &str, container_type: &str) {
            self.1.exit(container_type);
        }
        fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
            if let Some(gradient) = self.0.get::<D>(param.id) {
                self.2.insert(self.1.name(), gradient.to_data());
            }
        }
    }
    let mut collect = Collect(gradients, ParamPath::default(), BTreeMap::new());
    model.visit(&mut collect);
    collect.2
}
