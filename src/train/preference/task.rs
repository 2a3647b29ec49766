//! The task of a run on preferences.

use std::path::Path;
use std::sync::Arc;

use burn::tensor::Device;
use sha2::{Digest, Sha256};
use vq_tokenizer::VqTokenizer;

use super::comparisons::{self, Comparison};
use super::reference::{Place, Reference, sum};
use super::scoring::Scoring;
use super::state::PreferenceState;
use crate::checkpoint::Manifest;
use crate::data::shards::tokenizer_digest;
use crate::data::{Encoding, LeftOut};
use crate::device::{Precision, seeded};
use crate::error::{Error, Result};
use crate::files::{hex, read_json, write_json};
use crate::model::{CausalLm, ModelConfig, TokenStats};
use crate::report::{Metrics, Omission};
use crate::tokenize::Processor;
use crate::train::answers::{Answers, Scores};
use crate::train::best::Better;
use crate::train::config::LanguageRecipe;
use crate::train::objective::Activations;
use crate::train::objective::preference::{self, Answer, Pair, PairLoss, PreferenceConfig};
use crate::train::order::drawn;
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
    loss: PreferenceConfig,
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

/// What a loss over some pairs returned.
#[derive(Default)]
struct Sums {
    loss: f64,
    metrics: std::collections::BTreeMap<String, (f64, usize)>,
}

impl Sums {
    /// Adds the loss over `pairs` of several calls, each of which weighs `share`.
    fn add(&mut self, found: &PairLoss, share: f64) {
        self.loss += share * found.loss;
        for (name, value) in &found.metrics {
            let sum = self.metrics.entry(name.clone()).or_default();
            *sum = (sum.0 + value, sum.1 + 1);
        }
    }

    /// Adds what the statistics say of all answers' tokens.
    fn add_stats(&mut self, stats: &[Vec<TokenStats>]) {
        let tokens: Vec<&TokenStats> = stats.iter().flatten().collect();
        let mean = |value: fn(&TokenStats) -> f64| {
            tokens.iter().map(|stats| value(stats)).sum::<f64>() / tokens.len().max(1) as f64
        };
        let entropy = mean(|stats| f64::from(stats.entropy));
        let accuracy = mean(|stats| f64::from(u8::from(stats.is_top)));
        for (name, value) in [("entropy", entropy), ("mean_token_accuracy", accuracy)] {
            let sum = self.metrics.entry(name.to_owned()).or_default();
            *sum = (sum.0 + value, sum.1 + 1);
        }
    }

    fn metrics(&self) -> Metrics {
        let mut metrics: Metrics = vec![("loss".into(), self.loss)];
        for (name, (sum, count)) in &self.metrics {
            metrics.push((name.clone().into(), sum / *count as f64));
        }
        metrics
    }
}

impl PreferenceTask {
    /// Opens tokenizers, pairs and model on `device`; with `reference.precompute` the reference scores all pairs here.
    ///
    /// # Errors
    /// Those of the files that the recipe names; [`Error::Invalid`] if it has no `[preference]`.
    pub fn new(
        recipe: LanguageRecipe,
        device: &Device,
        precision: Precision,
        quiet: bool,
    ) -> Result<Self> {
        let absent = || Error::invalid("the recipe has no [preference]");
        let loss = recipe.preference.clone().ok_or_else(absent)?;
        let (processor, vq, digest) = recipe.tokenizer.open(device)?;
        let processor = Arc::new(processor);
        let tokenizer = tokenizer_digest(&processor, &digest)?;
        let scoring = Scoring::new(processor.vocabulary(), recipe.reference.image_log_probs)?;
        let cache_dir = recipe.run.path().join("codes");
        let encoding = Encoding { vq: &vq, digest: &digest, cache_dir: &cache_dir, quiet };
        let open = |configs| {
            comparisons::open(configs, encoding, &processor, &scoring, recipe.batch.seq_len)
        };
        let (training, mut opened) = open(&recipe.data)?;
        let (mut validation, of_validation) = open(&recipe.validation)?;
        validation.truncate(recipe.run.eval_samples * recipe.validation.len());
        opened.extend(of_validation.into_iter().map(|left_out| LeftOut {
            source: format!("validation {}", left_out.source),
            ..left_out
        }));
        let device = device.clone().autodiff();
        let lm = TrainedLm::new(&recipe, processor.vocabulary().len(), &device, precision)?;
        let state = PreferenceState { tokenizer, ..PreferenceState::default() };
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

    /// Documents of the next step with what is learnt in brackets, a chosen and a rejected one for each pair.
    ///
    /// # Errors
    /// If an image in them is damaged.
    pub fn preview(&self) -> Result<Vec<String>> {
        let next = self.next_pairs(0);
        let documents = next.iter().flat_map(|index| &self.training[*index].documents);
        documents
            .map(|document| crate::train::preview::of_tokens(document, &self.processor))
            .collect()
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

    /// A digest of what the reference's numbers depend on: its files, and the ids of all pairs.
    fn reference_key(&self) -> Result<String> {
        let mut hasher = Sha256::new();
        for dir in self.recipe.run.init.iter().chain(&self.recipe.run.init_adapter) {
            hasher.update(Manifest::of(dir)?.digest());
        }
        hasher.update(format!("{:?}", self.recipe.reference.image_log_probs));
        for pair in self.training.iter().chain(&self.validation) {
            for document in &pair.documents {
                document.ids.iter().for_each(|id| hasher.update(id.to_le_bytes()));
                document.loss_mask.iter().for_each(|learnt| hasher.update([u8::from(*learnt)]));
            }
        }
        Ok(hex(&hasher.finalize()))
    }

    /// The pairs of micro-batch `part` of the next step.
    fn next_pairs(&self, part: usize) -> Vec<usize> {
        let count = self.recipe.batch.sequences;
        let from = self.state.drawn + (part * count) as u64;
        drawn(self.training.len(), self.recipe.run.seed, from, count)
    }

    /// The packed pairs as the loss takes them, from what policy and reference say of them.
    fn pairs(&self, scores: &Scores, reference: &[preference::Reference]) -> Vec<Pair> {
        let stats = &scores.stats;
        let answer = |number: usize| Answer {
            log_probs: stats[number].iter().map(|stats| f64::from(stats.log_prob)).collect(),
            reference: reference[number].clone(),
            log_sum_sq_probs: scores.log_sums_of_squares[number].clone(),
        };
        let pair = |at: usize| Pair {
            chosen: answer(2 * at),
            rejected: answer(2 * at + 1),
            prompt_log_probs: Vec::new(),
        };
        (0..stats.len() / 2).map(pair).collect()
    }

    /// The reference's scores of the packed `answers`, which are the pairs `indices` of training or validation.
    fn referred(
        &self,
        answers: &Answers<'_>,
        indices: &[usize],
        is_validation: bool,
    ) -> Vec<preference::Reference> {
        match &self.reference {
            Reference::None => vec![preference::Reference::None; 2 * indices.len()],
            Reference::Model(model) => {
                let stats = answers.scores(model, false).stats;
                let of = |stats: &Vec<TokenStats>| match self.loss.needs_reference_tokens() {
                    true => {
                        let each = stats.iter().map(|stats| f64::from(stats.log_prob)).collect();
                        preference::Reference::Tokens(each)
                    }
                    false => preference::Reference::Sum(sum(stats)),
                };
                stats.iter().map(of).collect()
            }
            Reference::Kept(sets) => {
                let set = &sets[usize::from(is_validation)];
                let of = |index: &usize| set[*index].map(preference::Reference::Sum);
                indices.iter().flat_map(of).collect()
            }
        }
    }

    fn pack(&self, set: &[Comparison], indices: &[usize]) -> Answers<'_> {
        let documents: Vec<_> = indices.iter().flat_map(|at| &set[*at].documents).collect();
        self.scoring.pack(&documents, self.recipe.batch.seq_len)
    }

    /// Adds the gradients of the next step's micro-batches to the model's.
    fn accumulate(&mut self, seed: u64) -> Result<(Sums, usize)> {
        let batch = self.recipe.batch.clone();
        let share = 1.0 / batch.accumulate as f64;
        let (mut sums, mut tokens) = (Sums::default(), 0);
        for part in 0..batch.accumulate {
            let indices = self.next_pairs(part);
            let answers = self.pack(&self.training, &indices);
            let reference = self.referred(&answers, &indices, false);
            let activations = Activations::of(batch.activation_checkpointing, seed, part);
            let (model, squares) = (self.model(), self.loss.use_weighting);
            let (gradients, found) = answers.gradients(model, activations, squares, |scores| {
                sums.add_stats(&scores.stats);
                let found = self.loss.loss(&self.pairs(scores, &reference));
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
        if let Some((sum, count)) = sums.metrics.get("rewards/chosen")
            && self.loss.needs_reference()
        {
            let ratio = sum / *count as f64 / self.loss.beta;
            self.chosen = (self.chosen.0 + ratio, self.chosen.1 + 1);
        }
    }
}

/// The derivatives of the loss by document, those of a micro-batch that is `share` of the step.
fn slopes(found: Option<&PairLoss>, documents: usize, share: f64) -> Vec<Vec<f64>> {
    let Some(found) = found else { return vec![Vec::new(); documents] };
    let scaled = |slopes: &[f64]| slopes.iter().map(|slope| share * slope).collect();
    let of = |pair: &preference::PairGradient| [scaled(&pair.chosen), scaled(&pair.rejected)];
    found.gradient.iter().flat_map(of).collect()
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
            self.state.warned = true;
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
        let lower = ["loss", "logps/rejected", "rewards/rejected", "entropy", "nll_loss"];
        let higher = [
            "rewards/accuracies",
            "rewards/margins",
            "rewards/chosen",
            "logps/chosen",
            "log_odds_ratio",
            "log_odds_chosen",
            "mean_token_accuracy",
        ];
        let named = |names: &[&str], better| -> Vec<(String, Better)> {
            names.iter().map(|name| ((*name).to_owned(), better)).collect()
        };
        [named(&lower, Better::Lower), named(&higher, Better::Higher)].concat()
    }

    fn evaluate(&mut self) -> Result<Metrics> {
        if self.validation.is_empty() {
            return Ok(Metrics::new());
        }
        let model = self.lm.model.released();
        let mut sums = Sums::default();
        let all: Vec<usize> = (0..self.validation.len()).collect();
        for indices in all.chunks(self.recipe.batch.sequences) {
            let answers = self.pack(&self.validation, indices);
            let reference = self.referred(&answers, indices, true);
            let scores = answers.scores(&model, self.loss.use_weighting);
            sums.add_stats(&scores.stats);
            let share = indices.len() as f64 / all.len() as f64;
            sums.add(&self.loss.loss(&self.pairs(&scores, &reference))?, share);
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
        if state.tokenizer != self.state.tokenizer {
            let message =
                "was trained with another tokenizer; name it again, or choose another run.name";
            return Err(Error::file(dir, message));
        }
        self.lm.model.restore(dir)?;
        self.state = state;
        let pairs = self.recipe.batch.sequences * self.recipe.batch.accumulate;
        self.state.drawn += skip * pairs as u64;
        self.taken = self.state.clone();
        Ok(())
    }
}
