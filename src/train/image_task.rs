//! Training of the image tokenizer.

use std::path::Path;

use burn::module::Module;
use burn::optim::{GradientsAccumulator, GradientsParams};
use burn::tensor::{Device, Tensor};
use image::RgbImage;
use rand::SeedableRng;
use rand_chacha::ChaCha8Rng;
use serde::{Deserialize, Serialize};
use tensor_files::WeightFiles;
use vq_tokenizer::preprocess::PreprocessorConfig;
use vq_tokenizer::train::{
    CodebookCare, Discriminator, Judges, Lecam, Lpips, Seen, SemanticHead, VqLoss, VqObjective,
};
use vq_tokenizer::{VqModel, VqTokenizer};

use super::average::Average;
use super::companion::Companion;
use super::config::VqRecipe;
use super::image_batches::{Group, ImageBatches, first_images};
use super::image_scores::score;
use super::image_step::Gathered;
use super::{Optimizer, OptimizerConfig, Stepped, Task, image_dir};
use crate::data::mixture::Cursor;
use crate::device::Precision;
use crate::error::{Error, Result};
use crate::files::{read_json, write_json};
use crate::report::Metrics;

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

impl ImageTask {
    /// Opens the data and initialises the model on `device`; `precision` is that of the activations of
    /// encoder, decoder and critic, everything else is in f32 always.
    ///
    /// # Errors
    /// Those of the data sets and of the recipe.
    pub fn new(recipe: VqRecipe, device: &Device, precision: Precision) -> Result<Self> {
        let preprocessor = recipe.preprocessor();
        let batches = ImageBatches::new(&recipe.data, recipe.run.seed, preprocessor.clone())?;
        let samples = recipe.run.eval_samples;
        let images = recipe
            .validation
            .iter()
            .map(|config| Ok((config.path.clone(), first_images(config, samples, &preprocessor)?)));
        let validation = images.collect::<Result<_>>()?;
        let device = device.clone().autodiff();
        device.seed(recipe.run.seed);
        let mut model = recipe.model.init(&device);
        if let Some(dir) = &recipe.run.init {
            let path = image_dir(dir).join("model.safetensors");
            model = tensor_files::load(model, WeightFiles::open(&path)?, &path)?;
        }
        model = recipe.optimizer.freeze(model)?;
        let is_mixed = precision == Precision::Bf16;
        if is_mixed {
            model = model.in_mixed_precision();
        }
        let perceptual = match (&recipe.perceptual.weights, recipe.perceptual.weight > 0.0) {
            (Some(path), true) => Some(Lpips::load(path, &device)?),
            _ => None,
        };
        let critic = (recipe.adversarial.weight > 0.0).then(|| {
            let module = Discriminator::new(&recipe.adversarial, &device);
            let module = if is_mixed { module.in_mixed_precision() } else { module };
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

    /// The tokenizer as it is now, outside autodiff and in f32; of averaged weights where the recipe asks for
    /// them.
    ///
    /// # Errors
    /// None but of the averages' names, which are the model's.
    pub fn tokenizer(&self) -> Result<VqTokenizer> {
        let model = self.model().valid().in_full_precision();
        let model = match &self.average {
            Some(average) => average.load(model)?,
            None => model,
        };
        let (config, preprocessor) = (self.recipe.model.clone(), self.preprocessor.clone());
        Ok(VqTokenizer::new(config, preprocessor, model, self.device.clone().inner()))
    }

    /// The images of the next batch.
    fn groups(&mut self) -> Result<Vec<Group>> {
        let (images, words) = (self.recipe.batch.images, self.recipe.semantic.words);
        self.batches.groups(images, words, &self.device)
    }

    /// Latents to start the codebook from: those of `groups`, and of more images until there are a few
    /// for each code.
    fn starting_latents(&mut self, groups: &[Group]) -> Result<Vec<Tensor<4>>> {
        const FOR_EACH_CODE: usize = 4;
        let wanted = FOR_EACH_CODE * self.recipe.model.num_embeddings;
        let of = |model: &VqModel, groups: &[Group]| -> Vec<Tensor<4>> {
            let model = model.valid();
            groups.iter().map(|group| model.latents(group.pixels.clone().inner())).collect()
        };
        let positions = |latents: &Tensor<4>| {
            let [batch, _, height, width] = latents.dims();
            batch * height * width
        };
        let mut all = of(self.model(), groups);
        while all.iter().map(positions).sum::<usize>() < wanted {
            let more = self.groups()?;
            all.extend(of(self.model(), &more));
        }
        Ok(all)
    }

    /// Whether the codebook is started at `step`.
    fn starts_codebook(&self, step: usize) -> bool {
        let has_codebook = self.model().quantize.codebook().is_some();
        let begins = step == self.recipe.warmup.autoencoder_steps;
        begins && has_codebook && self.recipe.run.init.is_none()
    }

    fn start_codebook(&mut self, groups: &[Group], rng: &mut ChaCha8Rng) -> Result<()> {
        let latents = self.starting_latents(groups)?;
        let model = self.model.take().expect("the model is put back at once");
        let model = self.codebook.start(model, latents, self.recipe.warmup.codebook, rng);
        let rows: Vec<usize> = (0..self.recipe.model.num_embeddings).collect();
        self.copy_rows_to_average(&model, &rows);
        self.model = Some(model);
        Ok(())
    }

    /// Moves and revives codes after an update by the optimizer.
    fn care_for_codebook(
        &mut self,
        model: VqModel,
        gathered: &Gathered,
        rng: &mut ChaCha8Rng,
    ) -> VqModel {
        let (codes, latents) = gathered.positions();
        let config = &self.recipe.model;
        let (model, rows) = self.codebook.step(config, model, codes, latents, rng);
        self.copy_rows_to_average(&model, &rows);
        let rows = rows.into_iter().collect();
        self.optimizer.reset_rows(CODEBOOK, &rows, self.recipe.model.embed_dim);
        model
    }

    fn is_warming_up(&self, step: usize) -> bool {
        step < self.recipe.warmup.autoencoder_steps
    }

    fn criticises(&self, step: usize) -> bool {
        !self.is_warming_up(step) && step >= self.recipe.adversarial.start_step
    }

    fn loss(&self, step: usize, group: &Group) -> VqLoss {
        let (model, pixels) = (self.model(), group.pixels.clone());
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
                .map(|head| (head.module(), &group.words, self.recipe.semantic.weight)),
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

    /// The critic's own step on groups of images and their reconstructions, each with its weight.
    fn teach_critic(&mut self, step: usize, seen: Vec<(Seen, f64)>, lr: f64) -> Result<Metrics> {
        let Some(critic) = &mut self.critic else { return Ok(Metrics::new()) };
        let adversarial = &self.recipe.adversarial;
        let mut gradients = GradientsAccumulator::new();
        let (mut real, mut fake) = (0.0, 0.0);
        for (seen, weight) in seen {
            let module = critic.module();
            let loss = self.lecam.critic_loss(module, seen, adversarial.lecam);
            let found = (loss.total * weight).backward();
            gradients.accumulate(module, GradientsParams::from_grads(found, module));
            real += weight * loss.real;
            fake += weight * loss.fake;
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
    const UNIT: &'static str = "images";

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
        let units = accumulate * self.recipe.batch.images;
        let mut gathered = Gathered::new();
        for part in 0..accumulate {
            let groups = self.groups()?;
            if part == 0 && self.starts_codebook(step) {
                self.start_codebook(&groups, &mut rng)?;
            }
            for group in groups {
                let loss = self.loss(step, &group);
                let weight = group.share / accumulate as f64;
                let modules = (self.model(), self.semantic.as_ref().map(Companion::module));
                if !gathered.add(modules, group, loss, weight) {
                    return Ok(Stepped::skipped("loss", gathered.total, units));
                }
            }
        }
        let model = self.model.take().expect("the model is put back below");
        let (mut model, norm) = match self.optimizer.step(model, gathered.of_model.grads(), lr) {
            Ok(stepped) => stepped,
            Err((model, norm)) => {
                self.model = Some(model);
                return Ok(Stepped::skipped("gradient norm", norm, units));
            }
        };
        if !self.is_warming_up(step) {
            model = self.care_for_codebook(model, &gathered, &mut rng);
        }
        if let Some(average) = &mut self.average {
            average.update(&model);
        }
        self.model = Some(model);
        let Gathered { mut of_head, total, squared_error, mut terms, seen, .. } = gathered;
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
        let (metrics, shown) = score(&self.tokenizer()?, &self.validation, self.recipe.run.shown)?;
        self.shown = shown.or(self.shown.take());
        Ok(metrics)
    }

    fn image(&mut self) -> Option<RgbImage> {
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
            tensor_files::shapes(self.model()).values().map(|s| s.iter().product::<usize>()).sum();
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
