//! The task of a run on preferences.

use std::path::Path;
use std::sync::Arc;

use burn::module::Module;
use burn::tensor::Device;
use sha2::{Digest, Sha256};
use vq_tokenizer::VqTokenizer;

use super::comparisons::{self, Comparison};
use super::losses::Losses;
use super::reference::{Place, Reference};
use super::scoring::Scoring;
use super::state::PreferenceState;
use super::sums::{Sums, eval_metrics, slopes};
use crate::checkpoint::Manifest;
use crate::data::shards::tokenizer_digest;
use crate::data::{Encoding, LeftOut};
use crate::device::{Precision, seeded};
use crate::error::{Error, Result};
use crate::files::{hex, read_json, write_json};
use crate::model::{CausalLm, ModelConfig};
use crate::report::{Metrics, Omission};
use crate::tokenize::{Processor, TokenSequence};
use crate::train::answers::Answers;
use crate::train::best::Better;
use crate::train::config::LanguageRecipe;
use crate::train::objective::Activations;
use crate::train::objective::preference;
use crate::train::order::drawn;
use crate::train::preview::bracketed;
use crate::train::released::{Released, TrainedLm};
use crate::train::task::{Stepped, Task};
use crate::train::trained::{NotFinite, TRAINER_DIR};

/// File in the [trainer directory](TRAINER_DIR).
const STATE: &str = "state.json";
/// The mean log-ratio of chosen answers below which their probability counts as fallen, in nats.
const FALLEN: f64 = -1.0;

/// A language model that learns from pairs of answers.
pub struct PreferenceTask {
    recipe: LanguageRecipe,
    loss: Losses,
    /// With autodiff.
    device: Device,
    lm: TrainedLm,
    processor: Arc<Processor>,
    vq: VqTokenizer,
    scoring: Scoring,
    training: Vec<Comparison>,
    validation: Vec<Comparison>,
    reference: Reference,
    state: PreferenceState,
    /// The state after the last step that was taken whole.
    taken: PreferenceState,
    opened: Vec<LeftOut>,
    /// The sum of the chosen answers' mean log-ratios since the last report, and their number.
    chosen: (f64, usize),
    warning: Option<String>,
}

impl PreferenceTask {
    /// Opens tokenizers, pairs and model on `device`; with `reference.precompute` the reference scores all pairs here.
    ///
    /// # Errors
    /// Those of the files that the recipe names; [`Error::Invalid`] if it has neither `[preference]` nor `[kto]`.
    pub fn new(
        recipe: LanguageRecipe,
        device: &Device,
        precision: Precision,
        quiet: bool,
    ) -> Result<Self> {
        let loss = Losses::of(&recipe)?;
        let (processor, vq, digest) = recipe.tokenizer.open(device)?;
        let processor = Arc::new(processor);
        let tokenizer = tokenizer_digest(&processor, &digest)?;
        let scoring = Scoring::new(processor.vocabulary(), recipe.reference.image_log_probs)?;
        let cache_dir = recipe.run.path().join("codes");
        let encoding = Encoding { vq: &vq, digest: &digest, cache_dir: &cache_dir, quiet };
        let seq_len = recipe.batch.seq_len;
        let open = |configs, limit| {
            let paired = loss.is_paired();
            let fit = comparisons::Fit { scoring: &scoring, seq_len, limit, paired };
            comparisons::open(configs, encoding, &processor, fit)
        };
        let (training, mut opened) = open(&recipe.data, None)?;
        let (validation, of_validation) = open(&recipe.validation, Some(recipe.run.eval_samples))?;
        opened.extend(of_validation.into_iter().map(|left_out| LeftOut {
            source: format!("validation {}", left_out.source),
            ..left_out
        }));
        let device = device.clone().autodiff();
        let lm = TrainedLm::new(&recipe, processor.vocabulary().len(), &device, precision)?;
        let pairs = comparisons::digest(&training);
        let state = PreferenceState { tokenizer, pairs, ..PreferenceState::default() };
        let mut task = Self {
            loss,
            device,
            lm,
            processor,
            vq,
            scoring,
            training,
            validation,
            reference: Reference::None,
            taken: state.clone(),
            state,
            opened,
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
        self.training.len()
    }

    /// The pairs of the next `steps` steps, by their indices among those that can be trained on.
    pub fn upcoming(&self, steps: usize) -> Vec<usize> {
        let batch = &self.recipe.batch;
        let count = steps * batch.accumulate * batch.sequences;
        drawn(self.training.len(), self.recipe.run.seed, self.state.drawn, count)
    }

    /// Documents of the next step with what is learnt in brackets, a chosen and a rejected one for each pair.
    ///
    /// # Errors
    /// If an image in them is damaged.
    pub fn preview(&self) -> Result<Vec<String>> {
        let next = self.next_pairs(0);
        let documents = next.iter().flat_map(|index| &self.training[*index].documents);
        documents.map(|document| bracketed(document, &self.processor)).collect()
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
        let sets = [&self.training[..], &self.validation[..]];
        let seq_len = self.recipe.batch.seq_len;
        Ok(Reference::Kept(place.sums(&model, sets, &self.scoring, seq_len)?))
    }

    /// A digest of what the reference's numbers depend on: its files, sizes and precision, and the ids of all pairs.
    fn reference_key(&self) -> Result<String> {
        let mut hasher = Sha256::new();
        hasher.update(format!("{:?} {:?}", self.lm.config, self.lm.precision()));
        for dir in self.recipe.run.init.iter().chain(&self.recipe.run.init_adapter) {
            hasher.update(Manifest::of(dir)?.digest());
        }
        hasher.update(format!("{:?}", self.recipe.reference.image_log_probs));
        hasher.update(comparisons::digest(&self.training));
        hasher.update(comparisons::digest(&self.validation));
        Ok(hex(&hasher.finalize()))
    }

    /// The pairs of micro-batch `part` of the next step.
    fn next_pairs(&self, part: usize) -> Vec<usize> {
        let count = self.recipe.batch.sequences;
        let from = self.state.drawn + (part * count) as u64;
        drawn(self.training.len(), self.recipe.run.seed, from, count)
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
        self.scoring.pack(&documents, seq_len)
    }

    /// Adds the gradients of the next step's micro-batches to the model's.
    fn accumulate(&mut self, seed: u64) -> Result<(Sums, usize)> {
        let batch = self.recipe.batch.clone();
        let share = 1.0 / batch.accumulate as f64;
        let (mut sums, mut tokens) = (Sums::default(), 0);
        for part in 0..batch.accumulate {
            let indices = self.next_pairs(part);
            let items: Vec<_> = indices.iter().map(|at| &self.training[*at]).collect();
            let answers = self.pack(&items);
            let reference = self.referred(&answers, &indices, false);
            let activations = Activations::of(batch.activation_checkpointing, seed, part);
            let (model, squares) = (self.model(), self.loss.needs_squares());
            let (gradients, found) = answers.gradients(model, activations, squares, |scores| {
                sums.add_stats(&scores.stats, share);
                let found = self.loss.over(&items, scores, &reference);
                (slopes(found.as_ref().ok(), scores.stats.len(), share), found)
            });
            let found = found?;
            tokens += answers.num_tokens();
            sums.add(&found, share);
            self.lm.model.add(gradients);
        }
        Ok((sums, tokens))
    }

    fn attempt(&mut self, step: usize, lr: f64) -> Result<Stepped> {
        // Dropout draws from the device; seeding it by step makes a resumed run repeat the masks.
        let seed = self.recipe.run.seed.wrapping_mul(0x9E37_79B9).wrapping_add(step as u64);
        let _drawing = self.model().has_dropout().then(|| seeded(&self.device, seed));
        let (sums, tokens) = self.accumulate(seed)?;
        let pairs = self.recipe.batch.sequences * self.recipe.batch.accumulate;
        self.state.drawn += pairs as u64;
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
        if self.validation.is_empty() {
            return Ok(Metrics::new());
        }
        let model = self.lm.model.released();
        let mut sums = Sums::default();
        let all: Vec<usize> = (0..self.validation.len()).collect();
        for indices in all.chunks(self.recipe.batch.sequences) {
            let items: Vec<_> = indices.iter().map(|at| &self.validation[*at]).collect();
            let answers = self.pack(&items);
            let reference = self.referred(&answers, indices, true);
            let scores = answers.scores(&model, self.loss.needs_squares());
            let share = indices.len() as f64 / all.len() as f64;
            sums.add_stats(&scores.stats, share);
            sums.add(&self.loss.over(&items, &scores, &reference)?, share);
        }
        Ok(sums.metrics())
    }

    fn left_out(&self) -> Vec<Omission> {
        self.opened.iter().flat_map(LeftOut::omissions).collect()
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
        let state: PreferenceState = read_json(&dir.join(TRAINER_DIR).join(STATE))?;
        for (what, then, now) in [
            ("another tokenizer", &state.tokenizer, &self.state.tokenizer),
            ("other pairs", &state.pairs, &self.state.pairs),
        ] {
            if then != now {
                let message =
                    format!("was trained with {what}; name them again, or choose another run.name");
                return Err(Error::file(dir, message));
            }
        }
        self.lm.model.restore(dir)?;
        self.state = state;
        let pairs = self.recipe.batch.sequences * self.recipe.batch.accumulate;
        self.state.drawn += skip * pairs as u64;
        self.taken = self.state.clone();
        Ok(())
    }
}
