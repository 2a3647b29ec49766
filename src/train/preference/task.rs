//! The task of a run on preferences.

use std::path::Path;

use burn::module::Module;
use burn::tensor::Device;
use sha2::{Digest, Sha256};

use super::comparisons::{self, Comparison};
use super::data::Data;
use super::losses::Losses;
use super::reference::{Place, Reference};
use super::reward_model::over_scores;
use super::state::PreferenceState;
use super::sums::{Sums, eval_metrics, slopes};
use crate::checkpoint::Manifest;
use crate::device::{Precision, seeded};
use crate::error::{Error, Result};
use crate::files::hex;
use crate::model::{CausalLm, ModelConfig};
use crate::report::{Metrics, Omission};
use crate::tokenize::TokenSequence;
use crate::train::answers::Answers;
use crate::train::best::Better;
use crate::train::config::LanguageRecipe;
use crate::train::objective::Activations;
use crate::train::objective::preference;
use crate::train::released::TrainedLm;
use crate::train::task::{Stepped, Task};
use crate::train::trained::NotFinite;

/// The mean log-ratio of chosen answers below which their probability counts as fallen, in nats.
const FALLEN: f64 = -1.0;

/// A language model that learns from compared answers, or a reward model that learns to compare them.
pub struct PreferenceTask {
    recipe: LanguageRecipe,
    loss: Losses,
    /// With autodiff.
    device: Device,
    lm: TrainedLm,
    data: Data,
    reference: Reference,
    state: PreferenceState,
    /// The state after the last step that was taken whole.
    taken: PreferenceState,
    /// The sum of the chosen answers' mean log-ratios since the last report, and their number.
    chosen: (f64, usize),
    warning: Option<String>,
}

impl PreferenceTask {
    /// Opens tokenizers, pairs and model on `device`; with `reference.precompute` the reference scores all pairs here.
    ///
    /// # Errors
    /// Those of the files that the recipe names; [`Error::Invalid`] if it has none of `[preference]`, `[kto]` and
    /// `[reward_model]`.
    pub fn new(
        recipe: LanguageRecipe,
        device: &Device,
        precision: Precision,
        quiet: bool,
    ) -> Result<Self> {
        let loss = Losses::of(&recipe)?;
        // A token follows the last one of a document, which a reward model rates.
        let longest = recipe.batch.seq_len - usize::from(loss.of_scores().is_some());
        let rows = (loss.is_paired(), longest);
        let (data, state) = Data::open(&recipe, device, rows, quiet)?;
        let device = device.clone().autodiff();
        let lm = TrainedLm::new(&recipe, data.processor.vocabulary(), &device, precision)?;
        let mut task = Self {
            loss,
            device,
            lm,
            data,
            reference: Reference::None,
            taken: state.clone(),
            state,
            chosen: (0.0, 0),
            warning: None,
            recipe,
        };
        task.reference = task.reference(quiet)?;
        Ok(task)
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

    /// The number of pairs to train on.
    pub fn num_pairs(&self) -> usize {
        self.data.training.len()
    }

    /// The pairs of the next `steps` steps, by their indices among those that can be trained on.
    pub fn upcoming(&self, steps: usize) -> Vec<usize> {
        self.data.drawn(self.state.drawn, steps * self.data.in_step())
    }

    /// Documents of the next step with what is learnt in brackets, a chosen and a rejected one for each pair.
    ///
    /// # Errors
    /// If an image in them is damaged.
    pub fn preview(&self) -> Result<Vec<String>> {
        self.data.preview(&self.state)
    }

    /// The reference that the loss needs.
    fn reference(&self, quiet: bool) -> Result<Reference> {
        if !self.loss.needs_reference() {
            return Ok(Reference::None);
        }
        let model = self.lm.at_start(&self.recipe)?;
        if !self.recipe.reference.precompute {
            return Ok(Reference::Model(Box::new(model)));
        }
        let run = self.recipe.run.path();
        std::fs::create_dir_all(&run).map_err(Error::io(&run))?;
        let place = Place { run: &run, key: self.reference_key()?, quiet };
        let sets = [&self.data.training[..], &self.data.validation[..]];
        let seq_len = self.recipe.batch.seq_len;
        Ok(Reference::Kept(place.sums(&model, sets, &self.data.scoring, seq_len)?))
    }

    /// A digest of what the reference's numbers depend on: its files, sizes and precision, and the ids of all pairs.
    fn reference_key(&self) -> Result<String> {
        let mut hasher = Sha256::new();
        hasher.update(format!("{:?} {:?}", self.lm.config, self.lm.precision()));
        for dir in self.recipe.run.init.iter().chain(&self.recipe.run.init_adapter) {
            hasher.update(Manifest::of(dir)?.digest());
        }
        hasher.update(format!("{:?}", self.recipe.reference.image_log_probs));
        hasher.update(comparisons::digest(&self.data.training));
        hasher.update(comparisons::digest(&self.data.validation));
        Ok(hex(&hasher.finalize()))
    }

    /// The reference's scores of the packed `answers`, which are the pairs `indices` of training or validation.
    fn referred(
        &self,
        answers: &Answers<'_>,
        indices: &[usize],
        is_validation: bool,
    ) -> Vec<preference::Reference> {
        match &self.reference {
            Reference::None => vec![preference::Reference::None; answers.len()],
            Reference::Model(model) => {
                let stats = match is_validation {
                    true => answers.scores(&model.valid(), false).stats,
                    false => answers.scores(model, false).stats,
                };
                stats.iter().map(|stats| self.loss.referred(stats)).collect()
            }
            Reference::Kept(sets) => {
                let set = &sets[usize::from(is_validation)];
                let sums = indices.iter().flat_map(|index| &set[*index]);
                sums.map(|sum| preference::Reference::Sum(*sum)).collect()
            }
        }
    }

    fn pack(&self, items: &[&Comparison]) -> Answers<'_> {
        let seq_len = self.recipe.batch.seq_len;
        let documents = self.loss.documents(items, seq_len);
        let documents: Vec<&TokenSequence> = documents.iter().map(AsRef::as_ref).collect();
        match self.loss.of_scores() {
            Some(_) => self.data.scoring.pack_last(&documents, seq_len),
            None => self.data.scoring.pack(&documents, seq_len),
        }
    }

    /// Adds the gradients of the next step's micro-batches to the model's.
    fn accumulate(&mut self, seed: u64) -> Result<(Sums, usize)> {
        let batch = self.recipe.batch.clone();
        let share = 1.0 / batch.accumulate as f64;
        let (mut sums, mut tokens) = (Sums::default(), 0);
        for part in 0..batch.accumulate {
            let indices = self.data.next(&self.state, part);
            let items: Vec<_> = indices.iter().map(|at| &self.data.training[*at]).collect();
            let answers = self.pack(&items);
            let reference = self.referred(&answers, &indices, false);
            let activations = Activations::of(batch.activation_checkpointing, seed, part);
            let (model, squares) = (self.model(), self.loss.needs_squares());
            let documents = answers.len();
            let (gradients, found) = match self.loss.of_scores() {
                Some(loss) => answers.value_gradients(model, activations, |values| {
                    let found = over_scores(loss, &items, values);
                    (slopes(found.as_ref().ok(), documents, share), found)
                }),
                None => answers.gradients(model, activations, squares, |scores| {
                    sums.add_stats(&scores.stats, share);
                    let found = self.loss.over(&items, scores, &reference);
                    (slopes(found.as_ref().ok(), documents, share), found)
                }),
            };
            let found = found?;
            tokens += answers.num_tokens();
            sums.add(found.loss, &found.metrics, share);
            self.lm.model.add(gradients);
        }
        Ok((sums, tokens))
    }

    fn attempt(&mut self, step: usize, lr: f64) -> Result<Stepped> {
        // Dropout draws from the device; seeding it by step makes a resumed run repeat the masks.
        let seed = self.recipe.run.seed.wrapping_mul(0x9E37_79B9).wrapping_add(step as u64);
        let _drawing = self.model().has_dropout().then(|| seeded(&self.device, seed));
        let (sums, tokens) = self.accumulate(seed)?;
        self.state.drawn += self.data.in_step() as u64;
        if !sums.loss.is_finite() {
            self.lm.model.discard();
            let not_finite = NotFinite { quantity: "loss", value: sums.loss };
            return Ok(Stepped::skipped(not_finite, tokens));
        }
        let norm = match self.lm.model.apply(lr) {
            Ok(norm) => norm,
            Err(not_finite) => return Ok(Stepped::skipped(not_finite, tokens)),
        };
        self.state.tokens += tokens as u64;
        self.watch(&sums);
        let mut metrics = sums.metrics();
        metrics.push(("grad_norm".into(), norm));
        metrics.push(("num_tokens".into(), self.state.tokens as f64));
        Ok(Stepped { metrics, units: tokens, skipped: None })
    }

    /// Keeps in mind how likely the chosen answers are beside the reference.
    fn watch(&mut self, sums: &Sums) {
        if let Some(reward) = sums.metric("rewards/chosen")
            && self.loss.needs_reference()
        {
            let ratio = reward / self.loss.beta();
            self.chosen = (self.chosen.0 + ratio, self.chosen.1 + 1);
        }
    }
}

impl Task for PreferenceTask {
    const UNIT: &'static str = "tokens";

    fn step(&mut self, step: usize, lr: f64) -> Result<Stepped> {
        let stepped = self.attempt(step, lr)?;
        self.taken = self.state.clone();
        Ok(stepped)
    }

    fn since_last(&mut self) -> Metrics {
        let (sum, count) = std::mem::take(&mut self.chosen);
        let mean = sum / count.max(1) as f64;
        if count > 0 && mean < FALLEN && !self.state.warned {
            (self.state.warned, self.taken.warned) = (true, true);
            self.warning = Some(format!(
                "the chosen answers have become less likely than under the reference, by {:.2} nats on average: \
                 the loss can fall while both answers do. Add sft to preference.loss_type, use nca_pair or \
                 apo_zero, or leave out pairs whose answers are nearly the same",
                -mean
            ));
        }
        Metrics::new()
    }

    fn warning(&mut self) -> Option<String> {
        self.warning.take()
    }

    fn eval_metrics(&self) -> Vec<(String, Better)> {
        eval_metrics()
    }

    fn evaluate(&mut self) -> Result<Metrics> {
        if self.data.validation.is_empty() {
            return Ok(Metrics::new());
        }
        let model = self.lm.model.released();
        let mut sums = Sums::default();
        let all: Vec<usize> = (0..self.data.validation.len()).collect();
        for indices in all.chunks(self.recipe.batch.sequences) {
            let items: Vec<_> = indices.iter().map(|at| &self.data.validation[*at]).collect();
            let answers = self.pack(&items);
            let reference = self.referred(&answers, indices, true);
            let share = indices.len() as f64 / all.len() as f64;
            let found = match self.loss.of_scores() {
                Some(loss) => over_scores(loss, &items, &answers.values(&model))?,
                None => {
                    let scores = answers.scores(&model, self.loss.needs_squares());
                    sums.add_stats(&scores.stats, share);
                    self.loss.over(&items, &scores, &reference)?
                }
            };
            sums.add(found.loss, &found.metrics, share);
        }
        Ok(sums.metrics())
    }

    fn left_out(&self) -> Vec<Omission> {
        self.data.left_out()
    }

    fn checkpoint_bytes(&self) -> u64 {
        self.lm.model.checkpoint_bytes()
    }

    fn undo(&mut self) -> bool {
        self.lm.model.discard();
        self.lm.model.is_whole()
    }

    fn save(&self, dir: &Path) -> Result<()> {
        self.lm.save(dir, self.data.released(&self.recipe))?;
        self.taken.save(dir)
    }

    fn restore(&mut self, dir: &Path, skip: u64) -> Result<()> {
        let state = self.state.restored(dir)?;
        self.lm.model.restore(dir)?;
        self.state = state;
        self.state.drawn += skip * self.data.in_step() as u64;
        self.taken = self.state.clone();
        Ok(())
    }
}
