//! Training of the language model.

use std::path::Path;
use std::sync::Arc;
use std::time::Instant;

use burn::module::Module;
use burn::optim::GradientsAccumulator;
use burn::tensor::Device;
use image::RgbImage;
use serde::{Deserialize, Serialize};
use vq_tokenizer::VqTokenizer;

use super::average::Average;
use super::config::LanguageRecipe;
use super::documents::{DocumentStream, Stages, StreamState, validation_batches};
use super::loader::Loader;
use super::objective::{NextToken, NextTokenBatch};
use super::shown::{Showcase, documents};
use super::{Optimizer, Stepped, Task};
use crate::checkpoint::{Checkpoint, Parts};
use crate::data::Encoding;
use crate::data::pack::Packer;
use crate::data::shards::tokenizer_digest;
use crate::device::Precision;
use crate::error::{Error, Result};
use crate::files::{read_json, write_json};
use crate::generate::GenerationConfig;
use crate::model::{CausalLm, ModelConfig, ServingModel};
use crate::report::{Metrics, SampleText};
use crate::tokenize::Processor;

/// What a resumed run needs beside weights and moments.
#[derive(Serialize, Deserialize)]
struct State {
    stream: StreamState,
    tokens: u64,
    /// Digest of the tokenizers.
    #[serde(default)]
    tokenizer: String,
}

/// A language model in training.
pub struct LanguageTask {
    recipe: LanguageRecipe,
    config: ModelConfig,
    device: Device,
    /// Absent only while an update replaces it.
    model: Option<CausalLm>,
    optimizer: Optimizer,
    /// Averaged weights, where the recipe asks for them.
    average: Option<Average>,
    objective: NextToken,
    processor: Arc<Processor>,
    vq: VqTokenizer,
    /// Digest of both tokenizers.
    tokenizer: String,
    loader: Loader,
    validation: Vec<NextTokenBatch>,
    showcase: Showcase,
    shown: (Option<RgbImage>, Vec<SampleText>),
    tokens: u64,
    interval: Interval,
}

/// Sums since the last report.
struct Interval {
    sources: Vec<(f64, usize)>,
    image_tokens: usize,
    tokens: usize,
    slots: usize,
    documents: usize,
    since: Instant,
}

impl Interval {
    fn new(sources: usize) -> Self {
        let sources = vec![(0.0, 0); sources];
        Self { sources, image_tokens: 0, tokens: 0, slots: 0, documents: 0, since: Instant::now() }
    }

    fn add(&mut self, batch: &NextTokenBatch, by_source: &[(f64, usize)]) {
        let finite = by_source.iter().filter(|(sum, _)| sum.is_finite()).count() == by_source.len();
        for (sum, more) in self.sources.iter_mut().zip(by_source).filter(|_| finite) {
            add(sum, *more);
        }
        self.image_tokens += batch.is_image.iter().filter(|is_image| **is_image).count();
        self.tokens += batch.packed.num_tokens();
        self.slots += batch.packed.ids.len();
        let begins =
            |at: &usize| batch.packed.document_ids[*at] != 0 && batch.packed.positions[*at] == 0;
        self.documents += (0..batch.packed.ids.len()).filter(begins).count();
    }
}

impl LanguageTask {
    /// Opens tokenizers and data and initialises the model on `device`; `precision` is that of the matrix
    /// products, the weights are in f32 always.
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
        let processor = Arc::new(processor);
        let tokenizer = tokenizer_digest(&processor, &digest)?;
        let config = recipe.model.config(processor.vocabulary().len());
        check_vocabulary(&config, &processor)?;
        let cache_dir = recipe.run.path().join("codes");
        let encoding = Encoding { vq: &vq, digest: &digest, cache_dir: &cache_dir, quiet };
        let pad = processor.vocabulary().special().pad;
        let (rows, seq_len) = (recipe.batch.sequences, recipe.batch.seq_len);
        let packer = || Packer::new(rows, seq_len, pad);
        let stages = Stages::new(&recipe.curriculum, recipe.run.steps, recipe.batch.accumulate);
        let seed = recipe.run.seed;
        let stream = DocumentStream::new(
            &recipe.data,
            encoding,
            seed,
            processor.clone(),
            packer()?,
            stages,
        )?;
        let samples = recipe.run.eval_samples;
        let validation =
            validation_batches(&recipe.validation, encoding, samples, &processor, packer)?.batches;
        let labels: Vec<String> = recipe.validation.iter().map(|c| c.label().to_owned()).collect();
        let generation = GenerationConfig { seed, ..recipe.generation_config()? };
        let showcase =
            Showcase::new(&validation, &labels, recipe.run.shown, &processor, generation);
        let training_device = device.clone().autodiff();
        training_device.seed(seed);
        let mut model = config.init(&training_device)?;
        if let Some(dir) = &recipe.run.init {
            model = Checkpoint::load_weights(dir, &config, model)?;
        }
        model = recipe.optimizer.freeze(model)?;
        if precision == Precision::Bf16 {
            model = model.in_mixed_precision();
        }
        let interval = Interval::new(stream.labels().len());
        Ok(Self {
            config,
            device: training_device,
            average: Average::new(&recipe.average, &model),
            model: Some(model),
            optimizer: Optimizer::new(recipe.optimizer.clone()),
            objective: NextToken { config: recipe.loss.clone() },
            processor,
            vq,
            tokenizer,
            loader: Loader::new(stream)?,
            validation,
            showcase,
            shown: (None, Vec::new()),
            tokens: 0,
            interval,
            recipe,
        })
    }

    /// The model.
    pub fn model(&self) -> &CausalLm {
        self.model.as_ref().expect("the model is absent only inside `step`")
    }

    /// The sizes.
    pub fn config(&self) -> &ModelConfig {
        &self.config
    }

    /// The text of the next batch's documents, as ids turned back into text and image marks;
    /// the stream moves on.
    ///
    /// # Errors
    /// Those of the data.
    pub fn preview(&mut self) -> Result<Vec<String>> {
        let batch = self.loader.next_batch()?;
        let read = |ids: &[u32]| -> Result<String> {
            Ok(self.processor.decode(ids)?.iter().map(ToString::to_string).collect())
        };
        documents(&batch).iter().map(|document| read(&document.ids)).collect()
    }

    /// Where the stream of documents stands.
    pub fn stream(&self) -> &StreamState {
        self.loader.state()
    }

    /// The model outside autodiff; of averaged weights where the recipe asks for them.
    fn evaluated(&self) -> Result<CausalLm> {
        let model = self.model().valid();
        self.average.as_ref().map_or(Ok(model.clone()), |average| average.load(model))
    }
}

fn check_vocabulary(config: &ModelConfig, processor: &Processor) -> Result<()> {
    let (rows, ids) = (config.vocab_size, processor.vocabulary().len());
    if rows < ids {
        let message = format!("model.vocab_size is {rows}; allowed: at least the {ids} ids");
        return Err(Error::invalid(message));
    }
    Ok(())
}

/// Means per modality; a modality without targets is left out.
fn means(image: (f64, usize), text: (f64, usize)) -> Metrics {
    let mean = |name: &'static str, (sum, count): (f64, usize)| {
        (count > 0).then(|| (name.into(), sum / count as f64))
    };
    [mean("image_loss", image), mean("text_loss", text)].into_iter().flatten().collect()
}

/// The mean of each source that has targets, under its label.
fn by_source<'a>(labels: impl IntoIterator<Item = &'a String>, sums: &[(f64, usize)]) -> Metrics {
    let means = labels.into_iter().zip(sums).filter(|(_, (_, count))| *count > 0);
    means
        .map(|(label, (sum, count))| (format!("loss/{label}").into(), sum / *count as f64))
        .collect()
}

impl Task for LanguageTask {
    const UNIT: &'static str = "tokens";

    /// Another mixture begins with every stage of the curriculum.
    fn phase(&self, step: usize) -> usize {
        let (steps, accumulate) = (self.recipe.run.steps, self.recipe.batch.accumulate);
        Stages::new(&self.recipe.curriculum, steps, accumulate).of((step * accumulate) as u64)
    }

    fn step(&mut self, step: usize, lr: f64) -> Result<Stepped> {
        // Dropout draws from the device; seeding it by step makes a resumed run repeat the masks.
        let seed = self.recipe.run.seed.wrapping_mul(0x9E37_79B9).wrapping_add(step as u64);
        self.device.seed(seed);
        let (accumulate, by_layer) =
            (self.recipe.batch.accumulate, self.recipe.batch.activation_checkpointing);
        let share = 1.0 / accumulate as f64;
        let mut accumulator = GradientsAccumulator::new();
        let (mut total, mut image, mut text, mut tokens) = (0.0, (0.0, 0), (0.0, 0), 0);
        for part in 0..accumulate {
            let batch = self.loader.next_batch()?;
            tokens += batch.packed.num_tokens();
            let model = self.model();
            let (gradients, loss) = match by_layer {
                true => {
                    let seed = seed.wrapping_mul(0x9E37_79B9).wrapping_add(part as u64) << 16;
                    self.objective.gradients_by_layer(model, &batch, share, seed)
                }
                false => self.objective.gradients(model, &batch, share),
            };
            accumulator.accumulate(model, gradients);
            total += loss.total * share;
            add(&mut image, loss.image);
            add(&mut text, loss.text);
            self.interval.add(&batch, &loss.sources);
        }
        if !total.is_finite() {
            return Ok(Stepped::skipped("loss", total, tokens));
        }
        let model = self.model.take().expect("the model is put back at once");
        let (model, norm) = match self.optimizer.step(model, accumulator.grads(), lr) {
            Ok(stepped) => stepped,
            Err((model, norm)) => {
                self.model = Some(model);
                return Ok(Stepped::skipped("gradient norm", norm, tokens));
            }
        };
        if let Some(average) = &mut self.average {
            average.update(&model);
        }
        self.model = Some(model);
        self.tokens += tokens as u64;
        let mut metrics = vec![("loss".into(), total)];
        metrics.extend(means(image, text));
        metrics.push(("grad_norm".into(), norm));
        Ok(Stepped { metrics, units: tokens, skipped: None })
    }

    fn since_last(&mut self) -> Metrics {
        let labels = self.loader.labels();
        let fresh = Interval::new(labels.len());
        let Interval { sources, image_tokens, tokens, slots, documents, since } =
            std::mem::replace(&mut self.interval, fresh);
        let mut metrics = by_source(labels, &sources);
        let share = |part: usize, whole: usize| part as f64 / whole.max(1) as f64;
        metrics.push(("image_share".into(), share(image_tokens, tokens)));
        metrics.push(("padding_share".into(), share(slots - tokens, slots)));
        let seconds = since.elapsed().as_secs_f64().max(1e-9);
        metrics.push(("documents_per_s_now".into(), documents as f64 / seconds));
        let waited = self.loader.take_waited().as_secs_f64();
        metrics.push(("data_wait_share".into(), waited / seconds));
        metrics
    }

    fn evaluate(&mut self) -> Result<Metrics> {
        let model = self.evaluated()?;
        let (mut image, mut text) = ((0.0, 0), (0.0, 0));
        let mut sources = vec![(0.0, 0); self.recipe.validation.len()];
        for batch in &self.validation {
            let loss = self.objective.loss(&model, batch);
            add(&mut image, loss.image);
            add(&mut text, loss.text);
            sources.iter_mut().zip(loss.sources).for_each(|(sum, more)| add(sum, more));
        }
        let mut all = image;
        add(&mut all, text);
        let mut metrics = Metrics::new();
        if all.1 > 0 {
            metrics.push(("loss".into(), all.0 / all.1 as f64));
        }
        metrics.extend(means(image, text));
        let labels: Vec<String> =
            self.recipe.validation.iter().map(|config| config.label().to_owned()).collect();
        metrics.extend(by_source(&labels, &sources));
        let serving = ServingModel::new(self.config.clone(), model, self.device.clone().inner());
        self.shown = self.showcase.show(&serving, &self.processor, &self.vq)?;
        Ok(metrics)
    }

    fn image(&mut self) -> Option<RgbImage> {
        self.shown.0.take()
    }

    fn texts(&mut self) -> Vec<SampleText> {
        std::mem::take(&mut self.shown.1)
    }

    fn flops_per_unit(&self) -> Option<f64> {
        Some(self.config.training_flops(self.recipe.batch.seq_len))
    }

    fn checkpoint_bytes(&self) -> u64 {
        let copies = 3 + u64::from(self.average.is_some());
        4 * copies * self.config.num_parameters() as u64
    }

    fn save(&self, dir: &Path) -> Result<()> {
        let released = match &self.average {
            Some(average) => average.tensors().clone(),
            None => tensor_files::collect(self.model()),
        };
        let parts = Parts {
            config: &self.config,
            weights: Some(released),
            dtype: tensor_files::StoredDtype::F32,
            processor: &self.processor,
            vq: Some(&self.vq),
            generation: &self.recipe.generation,
        };
        parts.write(dir)?;
        let trainer = dir.join("trainer");
        std::fs::create_dir_all(&trainer).map_err(Error::io(&trainer))?;
        if self.average.is_some() {
            Average::save_raw(&trainer, self.model())?;
        }
        self.optimizer.save(&trainer.join("optimizer.safetensors"))?;
        let state = State {
            stream: self.loader.state().clone(),
            tokens: self.tokens,
            tokenizer: self.tokenizer.clone(),
        };
        write_json(&trainer.join("state.json"), &state)?;
        super::state::write_toml(&trainer.join("recipe.toml"), &self.recipe)
    }

    fn restore(&mut self, dir: &Path, skip: u64) -> Result<()> {
        let trainer = dir.join("trainer");
        let state: State = read_json(&trainer.join("state.json"))?;
        if !state.tokenizer.is_empty() && state.tokenizer != self.tokenizer {
            let (then, now) = (&state.tokenizer, &self.tokenizer);
            let message = format!(
                "was trained with the tokenizer {then}, tokenizer.checkpoint and tokenizer.text are {now} now; \
                 name those that it began with, or choose another run.name"
            );
            return Err(Error::file(dir, message));
        }
        let released = dir.join("model.safetensors");
        if let Some(average) = &mut self.average {
            average.restore(&released)?;
        }
        let model = self.model.take().expect("the model is absent only inside `step`");
        self.model = Some(Average::load_raw(model, &trainer, &released)?);
        self.optimizer = Optimizer::load(
            self.recipe.optimizer.clone(),
            &trainer.join("optimizer.safetensors"),
            &self.device.clone().inner(),
        )?;
        self.loader.restore(&state.stream, skip * self.recipe.batch.accumulate as u64)?;
        self.tokens = state.tokens;
        Ok(())
    }
}

fn add(sum: &mut (f64, usize), more: (f64, usize)) {
    sum.0 += more.0;
    sum.1 += more.1;
}
