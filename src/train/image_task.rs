//! Training of the image tokenizer.

use std::path::Path;

use burn::module::Module;
use burn::optim::{GradientsAccumulator, GradientsParams};
use burn::tensor::{Device, Tensor, TensorData};
use image::RgbImage;
use rand::SeedableRng;
use rand_chacha::ChaCha8Rng;
use serde::{Deserialize, Serialize};
use vq_tokenizer::metrics::{CodebookUsage, ms_ssim, psnr, ssim};
use vq_tokenizer::preprocess::PreprocessorConfig;
use vq_tokenizer::train::{
    CodebookCare, Discriminator, Judges, Lecam, Lpips, SemanticHead, VqLoss, VqObjective,
};
use vq_tokenizer::weights::{self, WeightFiles};
use vq_tokenizer::{VqModel, VqTokenizer};

use super::average::Average;
use super::companion::Companion;
use super::config::VqRecipe;
use super::image_batches::{ImageBatches, first_pictures};
use super::{Optimizer, OptimizerConfig, Stepped, Task, image_dir};
use crate::data::mixture::Cursor;
use crate::error::{Error, Result};
use crate::files::{read_json, write_json};
use crate::report::Metrics;
use crate::sheet::{Cell, Layout, Section, Tone, sheet};

/// Where the codebook lies among the parameters.
const CODEBOOK: &str = "quantize.embedding.weight";

/// What a resumed run needs beside weights and moments.
#[derive(Serialize, Deserialize)]
struct State {
    cursor: Cursor,
    codebook: CodebookCare,
    lecam: Lecam,
}

/// An image tokenizer in training.
pub struct ImageTask {
    recipe: VqRecipe,
    device: Device,
    preprocessor: PreprocessorConfig,
    /// Absent only while an update replaces it.
    model: Option<VqModel>,
    optimizer: Optimizer,
    objective: VqObjective,
    codebook: CodebookCare,
    /// Averaged weights, where the recipe asks for them.
    average: Option<Average>,
    critic: Option<Companion<Discriminator>>,
    lecam: Lecam,
    semantic: Option<Companion<SemanticHead>>,
    perceptual: Option<Lpips>,
    batches: ImageBatches,
    validation: Vec<(String, Vec<RgbImage>)>,
    /// Originals and reconstructions of the last evaluation.
    shown: Option<RgbImage>,
}

/// What a step reads.
struct Batch {
    /// `[images, 3, side, side]` in [-1, 1].
    pixels: Tensor<4>,
    /// `[images, words]`, 1 where a picture's text has a word.
    words: Tensor<2>,
}

impl ImageTask {
    /// Opens the data and initialises the model on `device`.
    ///
    /// # Errors
    /// Those of the data sets and of the recipe.
    pub fn new(recipe: VqRecipe, device: &Device) -> Result<Self> {
        let preprocessor = PreprocessorConfig::original(recipe.model.resolution);
        let batches = ImageBatches::new(&recipe.data, recipe.run.seed, preprocessor.clone())?;
        let samples = recipe.run.eval_samples;
        let pictures = recipe.validation.iter().map(|config| {
            Ok((config.path.clone(), first_pictures(config, samples, &preprocessor)?))
        });
        let validation = pictures.collect::<Result<_>>()?;
        let device = device.clone().autodiff();
        device.seed(recipe.run.seed);
        let mut model = recipe.model.init(&device);
        if let Some(dir) = &recipe.run.init {
            let path = image_dir(dir).join("model.safetensors");
            model = weights::load(model, WeightFiles::open(&path)?, &path)?;
        }
        let model = recipe.optimizer.freeze(model)?;
        let perceptual = match (&recipe.perceptual.weights, recipe.perceptual.weight > 0.0) {
            (Some(path), true) => Some(Lpips::load(path, &device)?),
            _ => None,
        };
        let critic = (recipe.adversarial.weight > 0.0).then(|| {
            let module = Discriminator::new(&recipe.adversarial, &device);
            Companion::new("critic", module, recipe.optimizer.clone())
        });
        let semantic = (recipe.semantic.weight > 0.0).then(|| {
            let module = SemanticHead::new(&recipe.semantic, recipe.model.embed_dim, &device);
            Companion::new("semantic", module, recipe.optimizer.clone())
        });
        Ok(Self {
            optimizer: Optimizer::new(recipe.optimizer.clone()),
            objective: VqObjective { config: recipe.loss.clone() },
            codebook: CodebookCare::new(recipe.codebook.clone(), &recipe.model),
            average: Average::new(&recipe.average, &model),
            critic,
            lecam: Lecam::default(),
            semantic,
            perceptual,
            device,
            preprocessor,
            model: Some(model),
            batches,
            validation,
            shown: None,
            recipe,
        })
    }

    /// The model.
    pub fn model(&self) -> &VqModel {
        self.model.as_ref().expect("the model is absent only inside `step`")
    }

    /// The tokenizer as it is now, outside autodiff; of averaged weights where the recipe asks for them.
    ///
    /// # Errors
    /// None but of the averages' names, which are the model's.
    pub fn tokenizer(&self) -> Result<VqTokenizer> {
        let model = self.model().valid();
        let model = match &self.average {
            Some(average) => average.load(model)?,
            None => model,
        };
        let (config, preprocessor) = (self.recipe.model.clone(), self.preprocessor.clone());
        Ok(VqTokenizer::new(config, preprocessor, model, self.device.clone().inner()))
    }

    fn batch(&mut self) -> Result<Batch> {
        let drawn = self.batches.next(self.recipe.batch.images)?;
        let words = self.recipe.semantic.words;
        let mut present = vec![0.0_f32; drawn.len() * words];
        for (drawn, row) in drawn.iter().zip(present.chunks_exact_mut(words)) {
            drawn.words.iter().for_each(|word| row[*word as usize % words] = 1.0);
        }
        let present = TensorData::new(present, [drawn.len(), words]);
        let images: Vec<RgbImage> = drawn.into_iter().map(|drawn| drawn.image).collect();
        let pixels = self.preprocessor.tensor(&images, &self.device)?;
        Ok(Batch { pixels, words: Tensor::from_data(present, &self.device) })
    }

    /// Latents to start the codebook from: those of `batch`, and of more pictures until there are a few
    /// for each code.
    fn starting_latents(&mut self, batch: &Batch) -> Result<Vec<Tensor<4>>> {
        const FOR_EACH_CODE: usize = 4;
        let latents = |model: &VqModel, pixels: Tensor<4>| model.valid().latents(pixels.inner());
        let mut all = vec![latents(self.model(), batch.pixels.clone())];
        let [images, _, height, width] = all[0].dims();
        let wanted = FOR_EACH_CODE * self.recipe.model.num_embeddings;
        while all.len() * images * height * width < wanted {
            let more = self.batch()?;
            all.push(latents(self.model(), more.pixels));
        }
        Ok(all)
    }

    fn is_warming_up(&self, step: usize) -> bool {
        step < self.recipe.warmup.autoencoder_steps
    }

    fn criticises(&self, step: usize) -> bool {
        !self.is_warming_up(step) && step >= self.recipe.adversarial.start_step
    }

    fn loss(&self, step: usize, batch: &Batch) -> VqLoss {
        let (model, pixels) = (self.model(), batch.pixels.clone());
        if self.is_warming_up(step) {
            return self.objective.autoencoder_loss(model, pixels);
        }
        let adversarial = &self.recipe.adversarial;
        let critic = self.critic.as_ref().filter(|_| self.criticises(step));
        let judges = Judges {
            critic: critic.map(|c| (c.module(), adversarial.weight, adversarial.adaptive)),
            perceptual: self.perceptual.as_ref().map(|p| (p, self.recipe.perceptual.weight)),
            semantic: self
                .semantic
                .as_ref()
                .map(|head| (head.module(), &batch.words, self.recipe.semantic.weight)),
        };
        self.objective.judged_loss(model, pixels, judges)
    }

    /// Rows of the codebook that were replaced are no longer what their averages are of.
    fn copy_rows_to_average(&mut self, model: &VqModel, rows: &[usize]) {
        let (Some(average), Some(codebook)) = (&mut self.average, model.quantize.codebook()) else {
            return;
        };
        let values: Vec<f32> = codebook.weight.val().into_data().iter::<f32>().collect();
        average.replace_rows(CODEBOOK, rows, &values, self.recipe.model.embed_dim);
    }

    /// The critic's own step on batches and their reconstructions.
    fn teach_critic(
        &mut self,
        step: usize,
        seen: Vec<(Tensor<4>, Tensor<4>)>,
        lr: f64,
    ) -> Result<Metrics> {
        let Some(critic) = &mut self.critic else { return Ok(Metrics::new()) };
        let adversarial = &self.recipe.adversarial;
        let share = 1.0 / seen.len() as f64;
        let mut gradients = GradientsAccumulator::new();
        let (mut real, mut fake) = (0.0, 0.0);
        for (pixels, output) in seen {
            let module = critic.module();
            let loss = self.lecam.critic_loss(module, pixels, output, adversarial.lecam);
            let found = (loss.total * share).backward();
            gradients.accumulate(module, GradientsParams::from_grads(found, module));
            real += share * loss.real;
            fake += share * loss.fake;
        }
        critic
            .step(gradients.grads(), lr * adversarial.lr_factor)
            .map_err(|norm| of_companion(step, "critic", norm))?;
        Ok(vec![("critic_real".into(), real), ("critic_fake".into(), fake)])
    }
}

fn of_companion(step: usize, whose: &str, norm: f64) -> Error {
    let message = format!("the {whose}'s gradient norm is {norm}; go back to the last checkpoint");
    Error::Diverged { step, message }
}

impl Task for ImageTask {
    const UNIT: &'static str = "pictures";

    /// Another loss begins with the codebook, and one more with the critic.
    fn phase(&self, step: usize) -> usize {
        usize::from(!self.is_warming_up(step))
            + usize::from(self.critic.is_some() && self.criticises(step))
    }

    fn step(&mut self, step: usize, lr: f64) -> Result<Stepped> {
        self.device.seed(self.recipe.run.seed.wrapping_mul(0x9E37_79B9).wrapping_add(step as u64));
        let mut rng = ChaCha8Rng::seed_from_u64(self.recipe.run.seed);
        rng.set_stream(step as u64);
        let accumulate = self.recipe.batch.accumulate;
        let (mut of_model, mut of_head) =
            (GradientsAccumulator::new(), GradientsAccumulator::new());
        let (mut total, mut squared_error) = (0.0, 0.0);
        let mut terms = Metrics::new();
        let (mut codes, mut latents, mut seen) = (Vec::new(), Vec::new(), Vec::new());
        for part in 0..accumulate {
            let batch = self.batch()?;
            let has_codebook = self.model().quantize.codebook().is_some();
            let begins = part == 0 && step == self.recipe.warmup.autoencoder_steps;
            if begins && has_codebook && self.recipe.run.init.is_none() {
                let latents = self.starting_latents(&batch)?;
                let model = self.model.take().expect("the model is put back at once");
                let start = self.recipe.warmup.codebook;
                let model = self.codebook.start(model, latents, start, &mut rng);
                let rows: Vec<usize> = (0..self.recipe.model.num_embeddings).collect();
                self.copy_rows_to_average(&model, &rows);
                self.model = Some(model);
            }
            let loss = self.loss(step, &batch);
            let share = 1.0 / accumulate as f64;
            total += share * f64::from(loss.total.clone().into_scalar::<f32>());
            squared_error += share * f64::from(loss.squared_error.into_scalar::<f32>());
            for (name, value) in loss.terms {
                let value = share * f64::from(value.into_scalar::<f32>());
                match terms.iter_mut().find(|(known, _)| *known == name) {
                    Some((_, sum)) => *sum += value,
                    None => terms.push((name.into(), value)),
                }
            }
            if !total.is_finite() {
                let units = accumulate * self.recipe.batch.images;
                return Ok(Stepped::skipped("loss", total, units));
            }
            let mut gradients = (loss.total * share).backward();
            let model = self.model();
            of_model.accumulate(model, GradientsParams::from_module(&mut gradients, model));
            if let Some(head) = &self.semantic {
                let head = head.module();
                of_head.accumulate(head, GradientsParams::from_module(&mut gradients, head));
            }
            codes.push(loss.codes);
            latents.push(loss.latents);
            seen.push((batch.pixels, loss.output));
        }
        let model = self.model.take().expect("the model is put back below");
        let units = accumulate * self.recipe.batch.images;
        let (mut model, norm) = match self.optimizer.step(model, of_model.grads(), lr) {
            Ok(stepped) => stepped,
            Err((model, norm)) => {
                self.model = Some(model);
                return Ok(Stepped::skipped("gradient norm", norm, units));
            }
        };
        if !self.is_warming_up(step) {
            let (codes, latents) = (Tensor::cat(codes, 0), Tensor::cat(latents, 0));
            let rows;
            let config = &self.recipe.model;
            (model, rows) = self.codebook.step(config, model, codes, latents, &mut rng);
            self.copy_rows_to_average(&model, &rows);
            let rows = rows.into_iter().collect();
            self.optimizer.reset_rows(CODEBOOK, &rows, self.recipe.model.embed_dim);
        }
        if let Some(average) = &mut self.average {
            average.update(&model);
        }
        self.model = Some(model);
        if !self.is_warming_up(step)
            && let Some(head) = &mut self.semantic
        {
            head.step(of_head.grads(), lr)
                .map_err(|norm| of_companion(step, "semantic head", norm))?;
        }
        if self.criticises(step) {
            terms.extend(self.teach_critic(step, seen, lr)?);
        }
        // Pixels span [-1, 1]; against a peak of 1 the error is a quarter.
        let psnr = -10.0 * (squared_error / 4.0).log10();
        let mut metrics: Metrics = vec![
            ("loss".into(), total),
            ("psnr".into(), psnr),
            ("unused_codes".into(), self.codebook.unused() as f64),
            ("grad_norm".into(), norm),
        ];
        metrics.extend(terms);
        Ok(Stepped { metrics, units, skipped: None })
    }

    fn evaluate(&mut self) -> Result<Metrics> {
        let tokenizer = self.tokenizer()?;
        let mut metrics = Metrics::new();
        let mut usage = CodebookUsage::new(self.recipe.model.num_embeddings);
        let mut sums = [0.0; 3];
        let (mut count, mut sections) = (0, Vec::new());
        for (path, images) in &self.validation {
            let codes = tokenizer.encode(images)?;
            let decoded = tokenizer.decode(&codes)?;
            codes.iter().for_each(|codes| usage.add(&codes.ids));
            let mut cells = Vec::new();
            for (image, decoded) in images.iter().zip(decoded) {
                let found =
                    [psnr(image, &decoded)?, ssim(image, &decoded)?, ms_ssim(image, &decoded)?];
                sums.iter_mut().zip(found).for_each(|(sum, value)| *sum += value);
                count += 1;
                if cells.len() < 2 * self.recipe.run.shown {
                    cells.push(Cell::new(image.clone()).note(Tone::Muted, "original"));
                    let note = format!("{:.1} dB", found[0]);
                    cells.push(Cell::new(decoded).note(Tone::Plain, note));
                }
            }
            sections.push(Section { heading: path.clone(), cells });
        }
        if count > 0 {
            let names = ["psnr", "ssim", "ms_ssim"].map(Into::into);
            metrics.extend(names.into_iter().zip(sums.map(|sum| sum / f64::from(count))));
            metrics.push(("codes_used".into(), usage.used_share()));
            metrics.push(("perplexity".into(), usage.perplexity()));
            metrics.push(("dead_codes".into(), usage.dead() as f64));
            let layout = Layout { columns: 6, picture: 128, ..Layout::default() };
            self.shown = Some(sheet(&sections, &layout));
        }
        Ok(metrics)
    }

    fn picture(&mut self) -> Option<RgbImage> {
        self.shown.take()
    }

    fn save(&self, dir: &Path) -> Result<()> {
        self.tokenizer()?.save(dir)?;
        let trainer = dir.join("trainer");
        std::fs::create_dir_all(&trainer).map_err(Error::io(&trainer))?;
        if self.average.is_some() {
            Average::save_raw(&trainer, self.model())?;
        }
        self.optimizer.save(&trainer.join("optimizer.safetensors"))?;
        self.critic.iter().try_for_each(|critic| critic.save(&trainer))?;
        self.semantic.iter().try_for_each(|head| head.save(&trainer))?;
        let state = State {
            cursor: self.batches.cursor().clone(),
            codebook: self.codebook.clone(),
            lecam: self.lecam.clone(),
        };
        write_json(&trainer.join("state.json"), &state)?;
        super::state::write_toml(&trainer.join("recipe.toml"), &self.recipe)
    }

    fn checkpoint_bytes(&self) -> u64 {
        let weights: usize =
            weights::shapes(self.model()).values().map(|s| s.iter().product::<usize>()).sum();
        (4 * weights * (3 + usize::from(self.average.is_some()))) as u64
    }

    fn restore(&mut self, dir: &Path, skip: u64) -> Result<()> {
        let trainer = dir.join("trainer");
        let released = dir.join("model.safetensors");
        if let Some(average) = &mut self.average {
            average.restore(&released)?;
        }
        let model = self.model.take().expect("the model is put back at once");
        self.model = Some(Average::load_raw(model, &trainer, &released)?);
        let config: OptimizerConfig = self.recipe.optimizer.clone();
        let device = self.device.clone().inner();
        self.optimizer =
            Optimizer::load(config.clone(), &trainer.join("optimizer.safetensors"), &device)?;
        if let Some(critic) = &mut self.critic {
            critic.restore(&trainer, config.clone(), &device)?;
        }
        if let Some(head) = &mut self.semantic {
            head.restore(&trainer, config, &device)?;
        }
        let state: State = read_json(&trainer.join("state.json"))?;
        self.batches.restore(&state.cursor)?;
        (self.codebook, self.lecam) = (state.codebook, state.lecam);
        for _ in 0..skip * self.recipe.batch.accumulate as u64 {
            self.batches.next(self.recipe.batch.images)?;
        }
        Ok(())
    }
}
