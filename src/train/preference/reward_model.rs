//! The task of a run that trains a reward model on pairs of answers.

use std::path::Path;

use burn::tensor::Device;

use super::comparisons::Comparison;
use super::data::Data;
use super::state::PreferenceState;
use super::sums::Sums;
use crate::device::{Precision, seeded};
use crate::error::{Error, Result};
use crate::model::{CausalLm, ModelConfig};
use crate::report::{Metrics, Omission};
use crate::train::answers::Answers;
use crate::train::best::Better;
use crate::train::config::LanguageRecipe;
use crate::train::distributions::Distributions;
use crate::train::objective::Activations;
use crate::train::objective::reward_model::{RewardModelConfig, RewardModelLoss, ScorePair};
use crate::train::released::TrainedLm;
use crate::train::task::{Stepped, Task};
use crate::train::trained::NotFinite;

/// A model with a score head that learns which of two answers is preferred.
///
/// The reward of an answer is the head's number at the last token of prompt and answer, so texts and images are
/// rated alike.
pub struct RewardModelTask {
    recipe: LanguageRecipe,
    loss: RewardModelConfig,
    /// With autodiff.
    device: Device,
    lm: TrainedLm,
    data: Data,
    distributions: Distributions,
    state: PreferenceState,
    /// The state after the last step that was taken whole.
    taken: PreferenceState,
}

impl RewardModelTask {
    /// Opens tokenizers, pairs and model on `device`; `precision` is that of the matrix products.
    ///
    /// # Errors
    /// Those of the files that the recipe names; [`Error::Invalid`] if it has no `[reward_model]`.
    pub fn new(
        recipe: LanguageRecipe,
        device: &Device,
        precision: Precision,
        quiet: bool,
    ) -> Result<Self> {
        let absent = || Error::invalid("the recipe has no [reward_model]");
        let loss = recipe.reward_model.clone().ok_or_else(absent)?;
        // A token follows the last one, which is rated.
        let rows = (true, recipe.batch.seq_len - 1);
        let (data, state) = Data::open(&recipe, device, rows, quiet)?;
        let device = device.clone().autodiff();
        let vocabulary = data.processor.vocabulary();
        let lm = TrainedLm::new(&recipe, vocabulary.len(), &device, precision)?;
        let distributions = Distributions::all(vocabulary.special().pad);
        let taken = state.clone();
        Ok(Self { recipe, loss, device, lm, data, distributions, state, taken })
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

    /// Documents of the next step, a chosen and a rejected one for each pair; answers are in brackets.
    ///
    /// # Errors
    /// If an image in them is damaged.
    pub fn preview(&self) -> Result<Vec<String>> {
        self.data.preview(&self.state)
    }

    fn pack(&self, items: &[&Comparison]) -> Answers<'_> {
        let documents = items.iter().flat_map(|item| &item.documents);
        let documents: Vec<&[u32]> = documents.map(|document| &document.ids[..]).collect();
        Answers::of_last_tokens(&documents, self.recipe.batch.seq_len, &self.distributions)
    }

    /// The loss of `items`, whose answers have the scores `values`.
    fn over(&self, items: &[&Comparison], values: &[Vec<f64>]) -> Result<RewardModelLoss> {
        let pair = |(item, of_pair): (&&Comparison, &[Vec<f64>])| ScorePair {
            chosen: of_pair[0][0],
            rejected: of_pair[1][0],
            margin: item.margin,
        };
        let pairs: Vec<ScorePair> = items.iter().zip(values.chunks(2)).map(pair).collect();
        self.loss.loss(&pairs)
    }

    /// Adds the gradients of the next step's micro-batches to the model's.
    fn accumulate(&mut self, seed: u64) -> Result<(Sums, usize)> {
        let batch = self.recipe.batch.clone();
        let share = 1.0 / batch.accumulate as f64;
        let (mut sums, mut tokens) = (Sums::default(), 0);
        for part in 0..batch.accumulate {
            let next = self.data.next(&self.state, part);
            let items: Vec<_> = next.iter().map(|at| &self.data.training[*at]).collect();
            let answers = self.pack(&items);
            let activations = Activations::of(batch.activation_checkpointing, seed, part);
            let (gradients, found) = answers.value_gradients(self.model(), activations, |values| {
                let found = self.over(&items, values);
                let slopes = found.as_ref().map(|found| found.slopes(share)).unwrap_or_default();
                (slopes, found)
            });
            let found = found?;
            tokens += answers.num_tokens() - answers.len();
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
        let mut metrics = sums.metrics();
        metrics.push(("grad_norm".into(), norm));
        metrics.push(("num_tokens".into(), self.state.tokens as f64));
        Ok(Stepped { metrics, units: tokens, skipped: None })
    }
}

impl Task for RewardModelTask {
    const UNIT: &'static str = "tokens";

    fn step(&mut self, step: usize, lr: f64) -> Result<Stepped> {
        let stepped = self.attempt(step, lr)?;
        self.taken = self.state.clone();
        Ok(stepped)
    }

    fn eval_metrics(&self) -> Vec<(String, Better)> {
        let lower = [("loss", Better::Lower)];
        let higher = ["accuracy", "margin", "min_reward", "mean_reward", "max_reward"];
        let all = lower.into_iter().chain(higher.map(|name| (name, Better::Higher)));
        all.map(|(name, better)| (name.to_owned(), better)).collect()
    }

    fn evaluate(&mut self) -> Result<Metrics> {
        if self.data.validation.is_empty() {
            return Ok(Metrics::new());
        }
        let model = self.lm.model.released();
        let (mut values, all) = (Vec::new(), self.data.validation.iter().collect::<Vec<_>>());
        for items in all.chunks(self.recipe.batch.sequences) {
            values.extend(self.pack(items).values(&model));
        }
        let found = self.over(&all, &values)?;
        let mut sums = Sums::default();
        sums.add(found.loss, &found.metrics, 1.0);
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
