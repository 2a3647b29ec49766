//! The task of a run of reinforcement learning.

use std::path::Path;

use burn::module::Module;
use burn::tensor::Device;
use image::RgbImage;
use vq_tokenizer::Codes;

use super::answering::{Answering, Collected, Shown};
use super::config::RlConfig;
use super::critic::{Critic, Lesson};
use super::measures::{Means, of_answers};
use super::rollouts::Answer;
use super::sampler::Serving;
use super::state::{Batch, RlState};
use super::update::Update;
use crate::device::Precision;
use crate::error::{Error, Result};
use crate::files::{read_json, write_json};
use crate::model::{CausalLm, ModelConfig};
use crate::report::{Metrics, Omission, SampleText};
use crate::train::best::Better;
use crate::train::config::LanguageRecipe;
use crate::train::objective::policy::{AdvantageConfig, EntropyControl};
use crate::train::released::TrainedLm;
use crate::train::task::{Stepped, Task};
use crate::train::trained::{NotFinite, TRAINER_DIR};

/// File in the [trainer directory](TRAINER_DIR).
const STATE: &str = "state.json";

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
    critic: Option<Critic>,
    /// Whether the critic has taken a step that the policy has not.
    is_between: bool,
    answering: Answering,
    state: RlState,
    /// The state after the last step that was taken whole.
    taken: RlState,
    interval: Means,
    shown: Shown,
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
        let mut config = recipe.rl.clone().ok_or_else(absent)?;
        let (answering, tokenizer) = Answering::open(&recipe, &config, device, quiet)?;
        config.policy.max_completion_length.get_or_insert(answering.sampler.longest());
        let device = device.clone().autodiff();
        let vocabulary = answering.processor.vocabulary();
        let lm = TrainedLm::new(&recipe, vocabulary, &device, precision)?;
        if lm.model.module().has_dropout() {
            let message = "the adapter in run.init_adapter has dropout; allowed with [rl]: none, so that the policy \
                           is the model that answers";
            return Err(Error::invalid(message));
        }
        let critic = config.critic.as_ref();
        let critic = critic.map(|c| Critic::open(c, &recipe, vocabulary, &device, precision));
        let critic = critic.transpose()?;
        let needs_reference = config.policy.needs_reference();
        // As the policy is scored, outside autodiff: kernels may differ.
        let reference = needs_reference.then(|| lm.at_start(&recipe)).transpose()?;
        let reference = reference.map(|reference| reference.valid());
        let reward_weights = answering.rewards.weights().to_vec();
        let state = RlState { tokenizer, ..RlState::default() };
        Ok(Self {
            advantage: AdvantageConfig { reward_weights, ..config.advantage.clone() },
            config,
            device,
            lm,
            reference,
            critic,
            is_between: false,
            answering,
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
        self.answering.training.prompts.len()
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
        let serving = serving(&self.lm, self.model().valid(), &self.device);
        self.answering.rollouts(serving, self.state.drawn)
    }

    /// The prompts of the next step, each with its first answer in brackets.
    ///
    /// # Errors
    /// Those of generation.
    pub fn preview(&self) -> Result<Vec<String>> {
        self.answering.shown(&self.rollouts()?)
    }

    /// What answers the prompts.
    pub(super) fn answering(&self) -> &Answering {
        &self.answering
    }

    /// An image in pixels.
    ///
    /// # Errors
    /// If its codes are not the image tokenizer's.
    pub fn decoded(&self, codes: &Codes) -> Result<RgbImage> {
        self.answering.decoded(codes)
    }

    /// Answers to the next prompts.
    ///
    /// # Errors
    /// Those of generation and rewards.
    pub(super) fn collect(&mut self) -> Result<Collected> {
        let serving = serving(&self.lm, self.model().valid(), &self.device);
        self.answering.collect(serving, &mut self.state.drawn)
    }

    /// Draws answers for the next updates and logs what the rewards say of them.
    fn draw(&mut self) -> Result<Batch> {
        let Collected { groups, all } = self.collect()?;
        let rewards = |groups: &[Vec<Answer>]| -> Vec<Vec<Option<f64>>> {
            groups.iter().flatten().map(|answer| answer.rewards.clone()).collect()
        };
        let names = self.answering.rewards.names();
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
        let answers = groups.iter().flatten().zip(advantages);
        let Answering { training, rewards, .. } = &self.answering;
        Ok(Batch::of(answers, &training.prompts, rewards.weights()))
    }

    fn attempt(&mut self, step: usize, lr: f64) -> Result<Stepped> {
        let mut batch = match self.state.batch.take() {
            Some(batch) => batch,
            None => self.draw()?,
        };
        if batch.rows.is_empty() {
            return Ok(self.without_update(0.0, 0));
        }
        let update = Update {
            config: &self.config,
            batch: &self.recipe.batch,
            sampler: &self.answering.sampler,
            entropy_coef: self.entropy_coef(),
        };
        let seed = self.recipe.run.seed.wrapping_mul(0x9E37_79B9).wrapping_add(step as u64);
        let mut lesson: Option<Lesson> = None;
        if let Some(critic) = &mut self.critic {
            let of_step = critic.lesson(&update, &mut batch.rows)?;
            let metrics = critic.accumulate(&update, &batch.rows, &of_step, seed)?;
            self.interval.extend(&metrics);
            lesson = Some(of_step);
        }
        let is_warming_up = self.config.critic.as_ref().is_some_and(|c| step < c.warmup_steps);
        let model = self.lm.model.module().valid();
        let taught = lesson.as_ref().map(|lesson| &lesson.advantages[..]);
        let scores = update.scores(&model, self.reference.as_ref(), &mut batch.rows, taught)?;
        drop(model);
        self.interval.extend(&scores.metrics);
        let (mut loss, tokens) = (scores.loss.loss, scores.num_tokens);
        let entropy = scores.loss.entropy;
        if !loss.is_finite() {
            return Ok(self.skipped(NotFinite { quantity: "loss", value: loss }, tokens));
        }
        let moves = scores.moves() && !is_warming_up;
        if moves {
            let found = update.accumulate(&mut self.lm.model, &batch.rows, &scores, seed)?;
            self.interval.extend(&found);
            // What is not known before the answers are scored.
            loss += found.get("positive_loss").copied().unwrap_or(0.0);
        }
        let norm = match self.apply(moves, lr) {
            Ok(norm) => norm,
            Err(not_finite) => return Ok(self.skipped(not_finite, tokens)),
        };
        if !is_warming_up {
            self.control_entropy(entropy);
        }
        if !moves && self.critic.is_none() {
            return Ok(self.without_update(loss, tokens));
        }
        batch.iteration += 1;
        if batch.iteration < self.config.num_iterations {
            self.state.batch = Some(batch);
        }
        self.state.tokens += tokens as u64;
        Ok(self.stepped(loss, norm, tokens))
    }

    /// The weight of the entropy in the next update.
    fn entropy_coef(&self) -> f64 {
        match &self.config.entropy_control {
            Some(config) => {
                self.state.entropy.as_ref().map_or(0.0, |control| control.applied(config))
            }
            None => self.config.policy.entropy_coef,
        }
    }

    /// Moves the weight of the entropy after a step whose tokens had the mean `entropy`.
    fn control_entropy(&mut self, entropy: Option<f64>) {
        if let (Some(control), Some(entropy)) = (&self.config.entropy_control, entropy) {
            let first = || EntropyControl::new(self.config.policy.entropy_coef);
            self.state.entropy.get_or_insert_with(first).update(entropy, control);
        }
    }

    /// Updates policy, if it `moves`, and value function, or neither; returns the norm of the policy's gradients.
    fn apply(&mut self, moves: bool, lr: f64) -> std::result::Result<f64, NotFinite> {
        if let Some(critic) = &mut self.critic {
            if moves {
                self.lm.model.check()?;
            }
            self.is_between = true;
            let norm = critic.apply(lr).inspect_err(|_| self.is_between = false)?;
            self.interval.add("value/grad_norm", norm);
        }
        let norm = if moves { self.lm.model.apply(lr) } else { Ok(0.0) };
        self.is_between = false;
        norm
    }

    /// A step that changed nothing because of `problem`.
    fn skipped(&mut self, problem: NotFinite, tokens: usize) -> Stepped {
        self.lm.model.discard();
        if let Some(critic) = &mut self.critic {
            critic.lm.model.discard();
        }
        Stepped::skipped(problem, tokens)
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
}

/// `model`, which is `lm` outside autodiff, to be sampled from; `device` is that of training.
fn serving<'a>(lm: &'a TrainedLm, model: CausalLm, device: &Device) -> Serving<'a> {
    Serving { config: &lm.config, model, device: device.clone().inner() }
}

impl Task for RlTask {
    const UNIT: &'static str = "tokens";

    fn step(&mut self, step: usize, lr: f64) -> Result<Stepped> {
        let stepped = self.attempt(step, lr)?;
        self.state.failures = self.answering.rewards.failures();
        self.taken = self.state.clone();
        Ok(stepped)
    }

    fn since_last(&mut self) -> Metrics {
        std::mem::take(&mut self.interval).metrics()
    }

    fn eval_metrics(&self) -> Vec<(String, Better)> {
        self.answering.eval_metrics()
    }

    fn evaluate(&mut self) -> Result<Metrics> {
        let serving = serving(&self.lm, self.lm.model.released(), &self.device);
        let (metrics, shown) = self.answering.evaluate(serving, self.recipe.run.shown)?;
        self.shown = shown;
        Ok(metrics)
    }

    fn image(&mut self) -> Option<RgbImage> {
        self.shown.0.take()
    }

    fn texts(&mut self) -> Vec<SampleText> {
        std::mem::take(&mut self.shown.1)
    }

    fn left_out(&self) -> Vec<Omission> {
        self.answering.left_out()
    }

    fn checkpoint_bytes(&self) -> u64 {
        let models = [Some(&self.lm), self.critic.as_ref().map(|critic| &critic.lm)];
        models.iter().flatten().map(|lm| lm.model.checkpoint_bytes()).sum()
    }

    fn undo(&mut self) -> bool {
        let critic = self.critic.as_mut().map(|critic| &mut critic.lm);
        let models = [Some(&mut self.lm), critic];
        models.into_iter().flatten().fold(!self.is_between, |are_whole, lm| {
            lm.model.discard();
            are_whole && lm.model.is_whole()
        })
    }

    fn save(&self, dir: &Path) -> Result<()> {
        self.lm.save(dir, self.answering.released(&self.recipe))?;
        if let Some(critic) = &self.critic {
            critic.save(dir)?;
        }
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
        if let Some(critic) = &mut self.critic {
            critic.lm.model.restore(dir)?;
        }
        self.state = state;
        self.answering.rewards.resume(self.state.failures.clone());
        if skip > 0 {
            self.state.batch = None;
            self.state.drawn += skip * self.config.prompts_per_step as u64;
        }
        self.taken = self.state.clone();
        Ok(())
    }
}
