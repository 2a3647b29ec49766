//! Training of the language model.

use std::path::Path;
use std::sync::Arc;

use burn::tensor::Device;
use image::RgbImage;
use vq_tokenizer::VqTokenizer;

use super::best::Better;
use super::config::LanguageRecipe;
use super::expert_metrics;
use super::language_metrics::{Interval, by_modality, by_source, overall};
use super::language_state::LanguageState;
use super::loader::Loader;
use super::objective::{Activations, MicroBatch, NextToken, NextTokenBatch, NextTokenLoss};
use super::preview::bracketed;
use super::released::{Released, TrainedLm};
use super::shown::{Document, Showcase, documents};
use super::task::{Stepped, Task};
use super::trained::NotFinite;
use crate::data::pack::Packer;
use crate::data::shards::tokenizer_digest;
use crate::data::{
    DocumentData, DocumentStream, Encoding, LeftOut, Stages, StreamState, validation_batches,
};
use crate::device::{Precision, seeded};
use crate::error::{Error, Result};
use crate::generate::{GenerationConfig, ServingModel};
use crate::model::{CausalLm, ExpertsConfig, ModelConfig};
use crate::report::{LayerExperts, Metrics, Omission, SampleText};
use crate::tokenize::{Processor, TokenSequence};

/// Most by which the share of added norms may differ from a checkpoint's, which was written as text.
const MOST_JUMP: f64 = 1e-9;

/// A language model in training.
pub struct LanguageTask {
    recipe: LanguageRecipe,
    /// With autodiff.
    device: Device,
    lm: TrainedLm,
    objective: NextToken,
    processor: Arc<Processor>,
    vq: Option<VqTokenizer>,
    /// Digest of both tokenizers.
    tokenizer: String,
    loader: Loader,
    /// Where the data of the next step begin.
    position: StreamState,
    validation: Vec<NextTokenBatch>,
    /// What was left out of the sources when they were opened, and of the validation sets.
    opened: Vec<LeftOut>,
    showcase: Showcase,
    /// Images and texts of the last evaluation.
    shown: (Option<RgbImage>, Vec<SampleText>),
    /// Tokens trained on so far.
    tokens: u64,
    interval: Interval,
    /// What experts did in the last one.
    experts: Vec<LayerExperts>,
    /// Whether there was no step since a checkpoint was restored.
    is_restored: bool,
}

impl LanguageTask {
    /// Opens tokenizers and data and initialises the model on `device`; `precision` is that of the matrix
    /// products, weights are always in f32.
    ///
    /// # Errors
    /// Those of the files that the recipe names.
    pub fn new(
        recipe: LanguageRecipe,
        device: &Device,
        precision: Precision,
        quiet: bool,
    ) -> Result<Self> {
        let (processor, vq, digest) = recipe.tokenizer.open(device)?;
        let chats =
            recipe.data.iter().chain(&recipe.validation).any(DocumentData::uses_chat_template);
        // The model answers by the layout that it was trained with.
        let processor = if chats { processor } else { processor.with_chat_template(None) };
        let processor = Arc::new(processor);
        let tokenizer = tokenizer_digest(&processor, &digest)?;
        let cache_dir = recipe.run.path().join("codes");
        let encoding = Encoding { vq: vq.as_ref(), digest: &digest, cache_dir: &cache_dir, quiet };
        let (stream, validation, opened) = open_data(&recipe, encoding, &processor)?;
        let generation = GenerationConfig { seed: recipe.run.seed, ..recipe.generation_config()? };
        let labels = validation_labels(&recipe);
        let showcase =
            Showcase::new(&validation, &labels, recipe.run.shown, &processor, generation);
        let mut loader = Loader::new(stream, recipe.batch.accumulate)?;
        let device = device.clone().autodiff();
        let vocabulary = processor.vocabulary();
        let mut lm = TrainedLm::new(&recipe, vocabulary, &device, precision)?
            .of_rows(&recipe.optimizer, vocabulary)?;
        if let Some(added) = &recipe.add_qk_norm {
            let begin = loader.state().clone();
            let batches = (0..added.batches).map(|_| loader.next_batch());
            lm = lm.with_measured_norms(&recipe, &batches.collect::<Result<Vec<_>>>()?);
            loader.restore(&begin, 0)?;
            loader.take_waited();
        }
        Ok(Self {
            lm,
            device,
            objective: NextToken { config: recipe.loss.clone() },
            processor,
            vq,
            tokenizer,
            position: loader.state().clone(),
            loader,
            validation,
            opened,
            showcase,
            shown: (None, Vec::new()),
            tokens: 0,
            interval: Interval::start(),
            experts: Vec::new(),
            is_restored: false,
            recipe,
        })
    }

    /// Checks that added norms of queries and keys count as much in a checkpoint, if the run goes on from one, as in step
    /// `step`: with other settings they would jump.
    fn check_blend(&mut self, step: usize) -> Result<()> {
        let restored = std::mem::take(&mut self.is_restored);
        let Some(added) = self.recipe.add_qk_norm.as_ref().filter(|_| restored) else {
            return Ok(());
        };
        let share = self.lm.config.qk_norm_share;
        match (share - added.share(step)).abs() < MOST_JUMP {
            true => Ok(()),
            false => Err(Error::invalid(format!(
                "add_qk_norm.steps is {}, but the norms count {share} of 1 at step {step}; allowed: what the run began with",
                added.steps
            ))),
        }
    }

    /// Lets added norms of queries and keys count as in step `step`.
    fn blend_norms(&mut self, step: usize) {
        if let Some(added) = &self.recipe.add_qk_norm {
            self.lm.blend_norms(added.share(step));
        }
    }

    /// The model with its current weights.
    pub fn model(&self) -> &CausalLm {
        self.lm.model.module()
    }

    /// The sizes of the model.
    pub fn config(&self) -> &ModelConfig {
        &self.lm.config
    }

    /// The number of weights that are trained, frozen ones not among them, if an adapter is.
    pub fn num_adapted(&self) -> Option<usize> {
        self.lm.num_adapted()
    }

    /// The documents of the next batch as text with image marks, what is learnt in brackets `⟦…⟧`; the
    /// stream moves on.
    ///
    /// # Errors
    /// Those of the data.
    pub fn preview(&mut self) -> Result<Vec<String>> {
        let documents = self.next_documents()?;
        documents.iter().map(|document| bracketed(document, &self.processor)).collect()
    }

    /// The documents of the next batch; the stream moves on.
    ///
    /// # Errors
    /// Those of the data.
    pub fn next_documents(&mut self) -> Result<Vec<TokenSequence>> {
        let batch = self.loader.next_batch()?;
        let tokens =
            |document: Document| TokenSequence { ids: document.ids, loss_mask: document.mask };
        Ok(documents(&batch).into_iter().map(tokens).collect())
    }

    /// Position in the stream of documents.
    pub fn stream(&self) -> &StreamState {
        self.loader.state()
    }

    /// Adds the gradients of the next step's micro-batches to the model's; returns the step's loss and its
    /// number of tokens.
    fn accumulate(&mut self, seed: u64) -> Result<(NextTokenLoss, usize)> {
        let batch = &self.recipe.batch;
        let next = (0..batch.accumulate).map(|_| self.loader.next_batch());
        let batches = next.collect::<Result<Vec<_>>>()?;
        let normalizer = self.objective.normalizer(&batches);
        let (mut loss, mut tokens) = (NextTokenLoss::default(), 0);
        for (part, micro_batch) in batches.iter().enumerate() {
            let of_step = MicroBatch {
                normalizer,
                earlier: &loss.routers.loads,
                activations: Activations::of(batch.activation_checkpointing, seed, part),
                seed: Some(seed.wrapping_mul(0x9E37_79B9).wrapping_add(part as u64)),
            };
            let model = self.lm.model.module();
            let (gradients, part) = self.objective.gradients_of(model, micro_batch, of_step);
            self.lm.model.add(gradients);
            self.interval.add(micro_batch, &part);
            loss += part;
            tokens += micro_batch.packed.num_tokens();
        }
        Ok((loss, tokens))
    }

    /// A step, but for the position of its data.
    fn attempt(&mut self, step: usize, lr: f64) -> Result<Stepped> {
        // Dropout draws from the device; seeding it by step makes a resumed run repeat the masks.
        let seed = self.recipe.run.seed.wrapping_mul(0x9E37_79B9).wrapping_add(step as u64);
        let _drawing = self.lm.model.module().has_dropout().then(|| seeded(&self.device, seed));
        let (loss, tokens) = self.accumulate(seed)?;
        if !loss.total.is_finite() {
            self.lm.model.discard();
            let not_finite = NotFinite { quantity: "loss", value: loss.total };
            return Ok(Stepped::skipped(not_finite, tokens));
        }
        let norm = match self.lm.model.update(lr) {
            Ok(norm) => norm,
            Err(not_finite) => return Ok(Stepped::skipped(not_finite, tokens)),
        };
        let (speed, loads) = (self.objective.config.bias_update_speed, &loss.routers.loads);
        if speed > 0.0 {
            self.lm.model.change(|model| (model.with_balanced_biases(speed, loads), ()));
        }
        self.lm.model.average();
        self.tokens += tokens as u64;
        let mut metrics = vec![("loss".into(), loss.total)];
        metrics.extend(by_modality(&loss));
        metrics.push(("grad_norm".into(), norm));
        Ok(Stepped { metrics, units: tokens, skipped: None })
    }
}

/// The training stream, the validation batches, and what was left out of both so far.
fn open_data(
    recipe: &LanguageRecipe,
    encoding: Encoding<'_>,
    processor: &Arc<Processor>,
) -> Result<(DocumentStream, Vec<NextTokenBatch>, Vec<LeftOut>)> {
    let pad = processor.vocabulary().special().pad;
    let packer = || Packer::new(recipe.batch.sequences, recipe.batch.seq_len, pad);
    let stream = DocumentStream::new(
        &recipe.data,
        encoding,
        recipe.run.seed,
        processor.clone(),
        packer()?,
        stages(recipe),
    )?;
    let count = recipe.run.eval_samples;
    let validation = validation_batches(&recipe.validation, encoding, count, processor, packer)?;
    let of_validation = validation
        .left_out
        .into_iter()
        .map(|left_out| LeftOut { source: format!("validation {}", left_out.source), ..left_out });
    let opened = stream.opened().into_iter().chain(of_validation).collect();
    Ok((stream, validation.batches, opened))
}

/// The stages of the curriculum; each starts another mixture.
fn stages(recipe: &LanguageRecipe) -> Stages {
    Stages::new(&recipe.curriculum, recipe.run.steps, recipe.batch.accumulate)
}

fn validation_labels(recipe: &LanguageRecipe) -> Vec<String> {
    recipe.validation.iter().map(|config| config.label().to_owned()).collect()
}

impl Task for LanguageTask {
    const UNIT: &'static str = "tokens";

    /// The stage of the curriculum, and whether the model is in its final form.
    fn phase(&self, step: usize) -> usize {
        let stage = stages(&self.recipe).of((step * self.recipe.batch.accumulate) as u64);
        let is_final =
            self.recipe.add_qk_norm.as_ref().is_none_or(|added| added.share(step) == 1.0);
        2 * stage + usize::from(is_final)
    }

    fn step(&mut self, step: usize, lr: f64) -> Result<Stepped> {
        self.check_blend(step)?;
        self.blend_norms(step);
        let stepped = self.attempt(step, lr)?;
        self.blend_norms(step + 1);
        self.position = self.loader.state().clone();
        Ok(stepped)
    }

    fn since_last(&mut self) -> Metrics {
        let interval = std::mem::replace(&mut self.interval, Interval::start());
        let waited = self.loader.take_waited();
        let mut metrics = interval.metrics(self.loader.labels(), waited);
        let sparse =
            (0..self.lm.config.num_hidden_layers).filter(|at| self.lm.config.is_sparse(*at));
        let (model, experts) = (self.lm.model.module(), self.lm.config.experts.as_ref());
        let choices = experts.map(ExpertsConfig::choices).unwrap_or_default();
        let biases = model.selection_biases();
        self.experts = expert_metrics::by_layer(&interval.routers, sparse, &choices, &biases);
        metrics.extend(expert_metrics::overall(&self.experts));
        if self.recipe.add_qk_norm.is_some() {
            metrics.push(("qk_norm_share".into(), self.lm.config.qk_norm_share));
        }
        metrics
    }

    fn experts(&mut self) -> Vec<LayerExperts> {
        std::mem::take(&mut self.experts)
    }

    fn eval_metrics(&self) -> Vec<(String, Better)> {
        let sources = self.recipe.validation.iter().map(|c| format!("loss/{}", c.label()));
        let losses = ["loss", "image_loss", "text_loss"].map(str::to_owned);
        losses.into_iter().chain(sources).map(|name| (name, Better::Lower)).collect()
    }

    fn is_changing(&self) -> bool {
        self.lm.config.qk_norm_share < 1.0
    }

    fn evaluate(&mut self) -> Result<Metrics> {
        let model = self.lm.model.released();
        let mut loss = NextTokenLoss::default();
        for batch in &self.validation {
            loss += self.objective.loss(&model, batch);
        }
        let mut metrics = overall(&loss);
        metrics.extend(by_modality(&loss));
        metrics.extend(by_source(&validation_labels(&self.recipe), &loss.sources));
        let serving =
            ServingModel::new(self.lm.config.clone(), model.merged(), self.device.clone().inner());
        self.shown = self.showcase.show(&serving, &self.processor, self.vq.as_ref())?;
        Ok(metrics)
    }

    fn image(&mut self) -> Option<RgbImage> {
        self.shown.0.take()
    }

    fn texts(&mut self) -> Vec<SampleText> {
        std::mem::take(&mut self.shown.1)
    }

    fn left_out(&self) -> Vec<Omission> {
        let drawn = self.stream().left_out();
        self.opened.iter().chain(&drawn).flat_map(LeftOut::omissions).collect()
    }

    fn flops_per_unit(&self) -> Option<f64> {
        let seq = self.recipe.batch.seq_len;
        Some(match self.num_adapted() {
            Some(trained) => self.lm.config.adapter_flops(seq, trained),
            None => self.lm.config.training_flops(seq),
        })
    }

    fn checkpoint_bytes(&self) -> u64 {
        self.lm.model.checkpoint_bytes()
    }

    fn undo(&mut self) -> bool {
        self.lm.model.discard();
        self.lm.model.is_whole()
    }

    fn save(&self, dir: &Path) -> Result<()> {
        let released =
            Released { recipe: &self.recipe, processor: &self.processor, vq: self.vq.as_ref() };
        self.lm.save(dir, released)?;
        let state = LanguageState {
            stream: self.position.clone(),
            tokens: self.tokens,
            tokenizer: self.tokenizer.clone(),
        };
        state.save(dir)
    }

    fn restore(&mut self, dir: &Path, skip: u64) -> Result<()> {
        let state = LanguageState::load(dir, &self.tokenizer)?;
        self.lm.restore(dir)?;
        self.loader.restore(&state.stream, skip * self.recipe.batch.accumulate as u64)?;
        self.position = self.loader.state().clone();
        self.tokens = state.tokens;
        self.is_restored = true;
        // What was counted before is of steps that are undone.
        self.interval = Interval::start();
        Ok(())
    }
}
