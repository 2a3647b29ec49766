//! Training of the language model.

use std::path::Path;

use burn::optim::{GradientsAccumulator, GradientsParams};
use burn::tensor::Device;
use serde::{Deserialize, Serialize};
use vq_tokenizer::{VqTokenizer, weights};

use super::config::LanguageRecipe;
use super::documents::{DocumentStream, StreamState, validation_batches};
use super::objective::{NextToken, NextTokenBatch, NextTokenLoss};
use super::{Optimizer, Task};
use crate::checkpoint::{Checkpoint, Manifest, Parts};
use crate::data::Encoding;
use crate::data::pack::Packer;
use crate::error::{Error, Result};
use crate::files::{read_json, write_json};
use crate::model::{CausalLm, ModelConfig};
use crate::report::Metrics;
use crate::tokenize::{Processor, TextTokenizer};

/// What a resumed run needs beside weights and moments.
#[derive(Serialize, Deserialize)]
struct State {
    stream: StreamState,
    tokens: u64,
}

/// A language model in training.
pub struct LanguageTask {
    recipe: LanguageRecipe,
    config: ModelConfig,
    device: Device,
    /// Absent only while an update replaces it.
    model: Option<CausalLm>,
    optimizer: Optimizer,
    objective: NextToken,
    processor: Processor,
    vq: VqTokenizer,
    stream: DocumentStream,
    validation: Vec<NextTokenBatch>,
    tokens: u64,
}

impl LanguageTask {
    /// Opens tokenizers and data and initialises the model on `device`.
    ///
    /// # Errors
    /// Those of the files that the recipe names.
    pub fn new(recipe: LanguageRecipe, device: &Device, quiet: bool) -> Result<Self> {
        let image_dir = recipe.tokenizer.image_dir();
        let vq = VqTokenizer::load(&image_dir, device)?;
        let text = TextTokenizer::load(&recipe.tokenizer.text_path())?;
        let processor = Processor::new(text, vq.grid())?;
        check_codebook(&recipe, &processor, &vq)?;
        let config = recipe.model.config(processor.vocabulary().len());
        let digest = Manifest::of(&image_dir)?.digest();
        let cache_dir = recipe.run.path().join("codes");
        let encoding = Encoding { vq: &vq, digest: &digest, cache_dir: &cache_dir, quiet };
        let pad = processor.vocabulary().special().pad;
        let (rows, seq_len) = (recipe.batch.sequences, recipe.batch.seq_len);
        let packer = || Packer::new(rows, seq_len, pad);
        let stream = DocumentStream::new(&recipe.data, encoding, recipe.run.seed, packer()?)?;
        let validation = validation_batches(
            &recipe.validation,
            encoding,
            recipe.run.eval_samples,
            &processor,
            packer,
        )?;
        let training_device = device.clone().autodiff();
        training_device.seed(recipe.run.seed);
        let model = Some(config.init(&training_device)?);
        let optimizer = Optimizer::new(recipe.optimizer.clone());
        let objective = NextToken { config: recipe.loss.clone() };
        Ok(Self {
            config,
            device: training_device,
            model,
            optimizer,
            objective,
            processor,
            vq,
            stream,
            validation,
            tokens: 0,
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

    /// The text of the next batch's documents, as ids turned back into text and picture marks;
    /// the stream moves on.
    ///
    /// # Errors
    /// Those of the data.
    pub fn preview(&mut self) -> Result<Vec<String>> {
        let batch = self.stream.next_batch(&self.processor)?.packed;
        let mut documents = Vec::new();
        let mut start = 0;
        for end in 1..=batch.ids.len() {
            let goes_on = end < batch.ids.len()
                && end % batch.seq_len != 0
                && batch.document_ids[end] == batch.document_ids[start];
            if !goes_on {
                if batch.document_ids[start] != 0 {
                    let segments = self.processor.decode(&batch.ids[start..end])?;
                    documents.push(segments.iter().map(ToString::to_string).collect());
                }
                start = end;
            }
        }
        Ok(documents)
    }

    fn diverged(step: usize, what: &str, value: f64) -> Error {
        Error::Diverged { step, message: format!("the {what} is {value}; no weight was changed") }
    }
}

fn check_codebook(recipe: &LanguageRecipe, processor: &Processor, vq: &VqTokenizer) -> Result<()> {
    let (names, codes) = (processor.vocabulary().num_codes(), vq.config().num_embeddings);
    if names != codes {
        let message = format!("{names} picture tokens, but the image tokenizer has {codes} codes");
        return Err(Error::file(&recipe.tokenizer.text_path(), message));
    }
    Ok(())
}

/// Means per modality; a modality without targets is left out.
fn means(image: (f64, usize), text: (f64, usize)) -> Metrics {
    let mean = |name, (sum, count): (f64, usize)| (count > 0).then(|| (name, sum / count as f64));
    [mean("image_loss", image), mean("text_loss", text)].into_iter().flatten().collect()
}

impl Task for LanguageTask {
    const UNIT: &'static str = "tokens";

    fn step(&mut self, step: usize, lr: f64) -> Result<(Metrics, usize)> {
        // Dropout draws from the device; seeding it by step makes a resumed run repeat the masks.
        self.device.seed(self.recipe.run.seed.wrapping_mul(0x9E37_79B9).wrapping_add(step as u64));
        let model = self.model.take().expect("the model is put back at the end of every step");
        let accumulate = self.recipe.batch.accumulate;
        let mut accumulator = GradientsAccumulator::new();
        let (mut total, mut image, mut text, mut tokens) = (0.0, (0.0, 0), (0.0, 0), 0);
        for _ in 0..accumulate {
            let batch = self.stream.next_batch(&self.processor)?;
            tokens += batch.packed.num_tokens();
            let loss = self.objective.loss(&model, &batch);
            total += loss.total / accumulate as f64;
            add(&mut image, loss.image);
            add(&mut text, loss.text);
            let gradients = (loss.surrogate / accumulate as f64).backward();
            accumulator.accumulate(&model, GradientsParams::from_grads(gradients, &model));
        }
        if !total.is_finite() {
            return Err(Self::diverged(step, "loss", total));
        }
        let (model, norm) = self
            .optimizer
            .step(model, accumulator.grads(), lr)
            .map_err(|norm| Self::diverged(step, "gradient norm", norm))?;
        self.model = Some(model);
        self.tokens += tokens as u64;
        let mut metrics = vec![("loss", total)];
        metrics.extend(means(image, text));
        metrics.push(("grad_norm", norm));
        Ok((metrics, tokens))
    }

    fn evaluate(&mut self) -> Result<Metrics> {
        use burn::module::Module;
        let model = self.model().valid();
        let (mut image, mut text) = ((0.0, 0), (0.0, 0));
        for batch in &self.validation {
            let NextTokenLoss { image: i, text: t, .. } = self.objective.loss(&model, batch);
            add(&mut image, i);
            add(&mut text, t);
        }
        Ok(means(image, text))
    }

    fn save(&self, dir: &Path) -> Result<()> {
        let parts = Parts {
            config: &self.config,
            weights: Some(weights::collect(self.model())),
            dtype: weights::StoredDtype::F32,
            processor: &self.processor,
            vq: Some(&self.vq),
            generation: &self.recipe.generation,
        };
        parts.write(dir)?;
        let trainer = dir.join("trainer");
        std::fs::create_dir_all(&trainer).map_err(Error::io(&trainer))?;
        self.optimizer.save(&trainer.join("optimizer.safetensors"))?;
        let state = State { stream: self.stream.state(), tokens: self.tokens };
        write_json(&trainer.join("state.json"), &state)?;
        super::state::write_toml(&trainer.join("recipe.toml"), &self.recipe)
    }

    fn restore(&mut self, dir: &Path) -> Result<()> {
        let trainer = dir.join("trainer");
        let model = self.model.take().expect("the model is absent only inside `step`");
        self.model = Some(Checkpoint::load_weights(dir, &self.config, model)?);
        self.optimizer = Optimizer::load(
            self.recipe.optimizer.clone(),
            &trainer.join("optimizer.safetensors"),
            &self.device.clone().inner(),
        )?;
        let state: State = read_json(&trainer.join("state.json"))?;
        self.stream.restore(&state.stream)?;
        self.tokens = state.tokens;
        Ok(())
    }
}

fn add(sum: &mut (f64, usize), more: (f64, usize)) {
    sum.0 += more.0;
    sum.1 += more.1;
}
