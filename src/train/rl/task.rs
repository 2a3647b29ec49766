//! The task of a run of reinforcement learning.

use std::path::Path;

use burn::module::Module;
use burn::tensor::Device;
use image::RgbImage;
use vq_tokenizer::VqTokenizer;

use super::config::RlConfig;
use super::evaluation::{Evaluation, names};
use super::measures::{Means, of_answers};
use super::prompts::{PromptSet, Reading};
use super::rollouts::{Answer, Reader, teaches};
use super::sampler::Sampler;
use super::seeds::requests;
use super::state::{Batch, RlState};
use super::update::Update;
use crate::data::shards::tokenizer_digest;
use crate::data::{DocumentData, Encoding, LeftOut};
use crate::device::Precision;
use crate::error::{Error, Result};
use crate::files::{read_json, write_json};
use crate::model::{CausalLm, ModelConfig};
use crate::report::{Metrics, Omission, SampleText};
use crate::tokenize::Processor;
use crate::train::best::Better;
use crate::train::config::LanguageRecipe;
use crate::train::objective::policy::AdvantageConfig;
use crate::train::order::drawn;
use crate::train::preview::bracketed;
use crate::train::released::{Released, TrainedLm};
use crate::train::reward::Rewards;
use crate::train::task::{Stepped, Task};
use crate::train::trained::{NotFinite, TRAINER_DIR};

/// File in the [trainer directory](TRAINER_DIR).
const STATE: &str = "state.json";
/// Added to the run's seed for evaluations.
const HELD_OUT: u64 = 1 << 40;

/// A language model that learns from rewards.
pub struct RlTask {
    recipe: LanguageRecipe,
    config: RlConfig,
    /// With the weights of the rewards.
    advantage: AdvantageConfig,
    /// With autodiff.
    device: Device,
    lm: TrainedLm,
    /// The model before the first step, if the loss compares with it.
    reference: Option<CausalLm>,
    processor: Processor,
    vq: VqTokenizer,
    sampler: Sampler,
    rewards: Rewards,
    training: PromptSet,
    validation: PromptSet,
    state: RlState,
    /// The state after the last step that was taken whole.
    taken: RlState,
    interval: Means,
    shown: (Option<RgbImage>, Vec<SampleText>),
}

/// The answers of a step.
struct Collected {
    /// The groups to learn from.
    groups: Vec<Vec<Answer>>,
    /// Those and the ones that were left out.
    all: Vec<Vec<Answer>>,
}

impl RlTask {
    /// Opens tokenizers, prompts, rewards and model on `device`; `precision` is that of the matrix products.
    ///
    /// # Errors
    /// Those of the files that the recipe names, and of its rewards; [`Error::Invalid`] if it has no `[rl]`.
    pub fn new(
        recipe: LanguageRecipe,
        device: &Device,
        precision: Precision,
        quiet: bool,
    ) -> Result<Self> {
        let absent = || Error::invalid("the recipe has no [rl]");
        let config = recipe.rl.clone().ok_or_else(absent)?;
        let (processor, vq, digest) = recipe.tokenizer.open(device)?;
        let tokenizer = tokenizer_digest(&processor, &digest)?;
        let stop_ids = recipe.generation_config()?.stop_ids;
        let context = recipe.model.max_position_embeddings;
        let sampler = Sampler::new(&config, &processor, stop_ids, context)?;
        let (seq_len, answer) = (recipe.batch.seq_len, sampler.longest());
        let longest = seq_len.checked_sub(answer).filter(|longest| *longest > 0).ok_or_else(|| {
            Error::invalid(format!(
                "batch.seq_len is {seq_len}; an answer may have {answer} tokens, so with a prompt it must be larger"
            ))
        })?;
        let cache_dir = recipe.run.path().join("codes");
        let encoding = Encoding { vq: &vq, digest: &digest, cache_dir: &cache_dir, quiet };
        let open = |configs: &[DocumentData], held_out| {
            let (seed, open_image) = (recipe.run.seed, config.draws_only());
            let processor = &processor;
            let reading = Reading { encoding, processor, seed, open_image, longest, held_out };
            PromptSet::open(configs, reading)
        };
        let training = open(&recipe.data, None)?;
        let validation = open(&recipe.validation, Some(recipe.run.eval_samples))?;
        let rewards = Rewards::open(&config.reward)?;
        let device = device.clone().autodiff();
        let lm = TrainedLm::new(&recipe, processor.vocabulary().len(), &device, precision)?;
        let needs_reference = config.policy.needs_reference();
        // As the policy is scored, outside autodiff: kernels may differ.
        let reference = needs_reference.then(|| lm.at_start(&recipe)).transpose()?;
        let reference = reference.map(|reference| reference.valid());
        let reward_weights = rewards.weights().to_vec();
        let state = RlState { tokenizer, ..RlState::default() };
        Ok(Self {
            advantage: AdvantageConfig { reward_weights, ..config.advantage.clone() },
            config,
            device,
            lm,
            reference,
            processor,
            vq,
            sampler,
            rewards,
            training,
            validation,
            taken: state.clone(),
            state,
            interval: Means::default(),
            shown: (None, Vec::new()),
            recipe,
        })
    }

    /// The sizes of the model.
    pub fn config(&self) -> &ModelConfig {
        &self.lm.config
    }

    /// The model with its current weights.
    pub fn model(&self) -> &CausalLm {
        self.lm.model.module()
    }

    /// The number of weights that are trained, frozen ones not among them, if an adapter is.
    pub fn num_adapted(&self) -> Option<usize> {
        self.lm.num_adapted()
    }

    /// The number of prompts to train on.
    pub fn num_prompts(&self) -> usize {
        self.training.prompts.len()
    }

    /// The answers that the next step learns from, as ids with the number of ids of their prompts; the state stays as
    /// it is.
    ///
    /// # Errors
    /// Those of generation.
    pub fn rollouts(&self) -> Result<Vec<(Vec<u32>, usize)>> {
        if let Some(batch) = &self.state.batch {
            return Ok(batch.rows.iter().map(|row| (row.ids.clone(), row.prompt_len)).collect());
        }
        let prompts = self.next_prompts(self.state.drawn, self.config.prompts_per_step);
        let group = self.config.advantage.num_generations;
        let (indices, requests) =
            requests(&self.training.prompts, &prompts, group, self.recipe.run.seed);
        let generated = self.sampler.draw(self.serving(false), &self.processor, &requests)?;
        let whole = |(index, ids): (&usize, Vec<u32>)| {
            let prompt = &self.training.prompts[*index].ids;
            ([&prompt[..], &ids].concat(), prompt.len())
        };
        Ok(indices.iter().zip(generated.into_iter().map(|g| g.ids)).map(whole).collect())
    }

    /// The prompts of the next step, each with its first answer in brackets.
    ///
    /// # Errors
    /// Those of generation.
    pub fn preview(&self) -> Result<Vec<String>> {
        let rows = self.rollouts()?;
        let first = rows.iter().step_by(self.config.advantage.num_generations);
        let shown = first.map(|(ids, len)| self.sampler.document(ids, *len));
        shown.map(|document| bracketed(&document, &self.processor)).collect()
    }

    /// Model, sizes and device for sampling: the current weights, or those that are released.
    fn serving(&self, released: bool) -> (&ModelConfig, CausalLm, Device) {
        let model = match released {
            true => self.lm.model.released(),
            false => self.model().valid(),
        };
        (&self.lm.config, model, self.device.clone().inner())
    }

    /// The numbers of the prompts of `count` draws from `from` on, each with the number of its draw.
    fn next_prompts(&self, from: u64, count: usize) -> Vec<(usize, u64)> {
        let indices = drawn(self.num_prompts(), self.recipe.run.seed, from, count);
        indices.into_iter().zip(from..).collect()
    }

    /// Draws prompts and answers until a step is full, or as often as `dynamic_sampling` allows.
    fn collect(&mut self) -> Result<Collected> {
        let group = self.config.advantage.num_generations;
        let (wanted, rounds) = (self.config.prompts_per_step, self.config.dynamic_sampling);
        let mut collected = Collected { groups: Vec::new(), all: Vec::new() };
        for _ in 0..rounds.max(1) {
            let prompts = self.next_prompts(self.state.drawn, wanted - collected.groups.len());
            self.state.drawn += prompts.len() as u64;
            let (indices, requests) =
                requests(&self.training.prompts, &prompts, group, self.recipe.run.seed);
            let generated = self.sampler.draw(self.serving(false), &self.processor, &requests)?;
            let (processor, vq) = (&self.processor, &self.vq);
            let reader = Reader { processor, vq, prompts: &self.training.prompts };
            let answers = reader.answers(&indices, generated, &mut self.rewards)?;
            for answers in answers.chunks(group) {
                collected.all.push(answers.to_vec());
                if rounds == 0 || teaches(answers, self.rewards.weights()) {
                    collected.groups.push(answers.to_vec());
                }
            }
            if collected.groups.len() == wanted {
                break;
            }
        }
        Ok(collected)
    }

    /// Draws answers for the next updates and logs what the rewards say of them.
    fn draw(&mut self) -> Result<Batch> {
        let Collected { groups, all } = self.collect()?;
        let rewards = |groups: &[Vec<Answer>]| -> Vec<Vec<Option<f64>>> {
            groups.iter().flatten().map(|answer| answer.rewards.clone()).collect()
        };
        let names = self.rewards.names();
        let metrics = self.advantage.advantages(&rewards(&all), &names)?.metrics;
        self.interval.extend(&metrics);
        self.interval.extend(&of_answers(&all));
        if self.config.dynamic_sampling > 0 {
            let kept = groups.len() as f64 / all.len() as f64;
            self.interval.add("sampling/kept_groups", kept);
        }
        if groups.is_empty() {
            return Ok(Batch::default());
        }
        let advantages = self.advantage.advantages(&rewards(&groups), &names)?.advantages;
        Ok(Batch::of(groups.iter().flatten().zip(advantages), &self.training.prompts))
    }

    fn attempt(&mut self, step: usize, lr: f64) -> Result<Stepped> {
        let mut batch = match self.state.batch.take() {
            Some(batch) => batch,
            None => self.draw()?,
        };
        if batch.rows.is_empty() {
            return Ok(self.without_update(0.0, 0));
        }
        let update =
            Update { config: &self.config, batch: &self.recipe.batch, sampler: &self.sampler };
        let model = self.lm.model.module().valid();
        let scores = update.scores(&model, self.reference.as_ref(), &mut batch.rows)?;
        drop(model);
        self.interval.extend(&scores.metrics);
        let (loss, tokens) = (scores.loss.loss, scores.num_tokens);
        if !loss.is_finite() {
            return Ok(Stepped::skipped(NotFinite { quantity: "loss", value: loss }, tokens));
        }
        if !scores.moves() {
            return Ok(self.without_update(loss, tokens));
        }
        let seed = self.recipe.run.seed.wrapping_mul(0x9E37_79B9).wrapping_add(step as u64);
        update.accumulate(&mut self.lm.model, &batch.rows, &scores.loss, seed)?;
        let norm = match self.lm.model.apply(lr) {
            Ok(norm) => norm,
            Err(not_finite) => return Ok(Stepped::skipped(not_finite, tokens)),
        };
        batch.iteration += 1;
        if batch.iteration < self.config.num_iterations {
            self.state.batch = Some(batch);
        }
        self.state.tokens += tokens as u64;
        Ok(self.stepped(loss, norm, tokens))
    }

    /// A step whose rewards teach nothing.
    fn without_update(&mut self, loss: f64, tokens: usize) -> Stepped {
        self.state.without_signal += 1;
        self.stepped(loss, 0.0, tokens)
    }

    fn stepped(&self, loss: f64, norm: f64, tokens: usize) -> Stepped {
        // Not `loss`, which is watched for spikes: that of a policy gradient is a noise around 0.
        let metrics = vec![
            ("policy_loss".into(), loss),
            ("grad_norm".into(), norm),
            ("num_tokens".into(), self.state.tokens as f64),
            ("steps_without_signal".into(), self.state.without_signal as f64),
        ];
        Stepped { metrics, units: tokens, skipped: None }
    }

    /// One answer to every held-out prompt, with the same seeds every time.
    fn held_out(&mut self) -> Result<Vec<Answer>> {
        let prompts = &self.validation.prompts;
        let all: Vec<(usize, u64)> = (0..prompts.len()).zip(HELD_OUT..).collect();
        let (indices, requests) = requests(prompts, &all, 1, self.recipe.run.seed);
        let generated = self.sampler.draw(self.serving(true), &self.processor, &requests)?;
        let reader = Reader { processor: &self.processor, vq: &self.vq, prompts };
        reader.answers(&indices, generated, &mut self.rewards)
    }
}

impl Task for RlTask {
    const UNIT: &'static str = "tokens";

    fn step(&mut self, step: usize, lr: f64) -> Result<Stepped> {
        let stepped = self.attempt(step, lr)?;
        self.taken = self.state.clone();
        Ok(stepped)
    }

    fn since_last(&mut self) -> Metrics {
        std::mem::take(&mut self.interval).metrics()
    }

    fn eval_metrics(&self) -> Vec<(String, Better)> {
        names(&self.rewards.names(), &self.validation.labels)
    }

    fn evaluate(&mut self) -> Result<Metrics> {
        if self.validation.prompts.is_empty() {
            return Ok(Metrics::new());
        }
        let answers = self.held_out()?;
        let (prompts, processor, vq) = (&self.validation, &self.processor, &self.vq);
        let (names, weights) = (&self.rewards.names()[..], self.rewards.weights());
        let evaluation = Evaluation { prompts, answers: &answers, names, weights };
        let reader = Reader { processor, vq, prompts: &prompts.prompts };
        self.shown = evaluation.shown(&reader, self.recipe.run.shown);
        Ok(evaluation.metrics())
    }

    fn image(&mut self) -> Option<RgbImage> {
        self.shown.0.take()
    }

    fn texts(&mut self) -> Vec<SampleText> {
        std::mem::take(&mut self.shown.1)
    }

    fn left_out(&self) -> Vec<Omission> {
        let of_validation = self.validation.left_out.iter().map(|left_out| LeftOut {
            source: format!("validation {}", left_out.source),
            ..left_out.clone()
        });
        let opened = self.training.left_out.iter().cloned().chain(of_validation);
        let mut all: Vec<Omission> = opened.flat_map(|left_out| left_out.omissions()).collect();
        all.extend(self.rewards.omissions());
        all
    }

    fn checkpoint_bytes(&self) -> u64 {
        self.lm.model.checkpoint_bytes()
    }

    fn undo(&mut self) -> bool {
        self.lm.model.discard();
        self.lm.model.is_whole()
    }

    fn save(&self, dir: &Path) -> Result<()> {
        let released = Released { recipe: &self.recipe, processor: &self.processor, vq: &self.vq };
        self.lm.save(dir, released)?;
        write_json(&dir.join(TRAINER_DIR).join(STATE), &self.taken)
    }

    fn restore(&mut self, dir: &Path, skip: u64) -> Result<()> {
        let state: RlState = read_json(&dir.join(TRAINER_DIR).join(STATE))?;
        if state.tokenizer != self.state.tokenizer {
            let message =
                "was trained with another tokenizer; name it again, or choose another run.name";
            return Err(Error::file(dir, message));
        }
        self.lm.model.restore(dir)?;
        self.state = state;
        if skip > 0 {
            self.state.batch = None;
            self.state.drawn += skip * self.config.prompts_per_step as u64;
        }
        self.taken = self.state.clone();
        Ok(())
    }
}
