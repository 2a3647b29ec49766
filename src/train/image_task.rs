//! Training of the image tokenizer.

use std::path::Path;

use burn::tensor::Device;
use image::RgbImage;
use rand::SeedableRng;
use rand_chacha::ChaCha8Rng;
use serde::{Deserialize, Serialize};
use tensor_files::WeightFiles;
use vq_tokenizer::preprocess::PreprocessorConfig;
use vq_tokenizer::train::{CodebookMaintenance, Lecam, VqLoss, VqObjective};
use vq_tokenizer::{VqModel, VqTokenizer, init};

use super::best::Better;
use super::config::VqRecipe;
use super::image_auxiliary::AuxiliaryNetworks;
use super::image_batches::{Group, ImageBatches, Position, first_images};
use super::image_codebook::{Codebook, latents, num_latents};
use super::image_scores::{SCORES, score};
use super::image_step::Gathered;
use super::state::write_toml;
use super::task::{Stepped, Task};
use super::trained::{TRAINER_DIR, Trained};
use crate::data::mixture::Cursor;
use crate::data::{BadSample, LeftOut, image_dir};
use crate::device::{Precision, seeded};
use crate::error::Result;
use crate::files::{read_json, write_json};
use crate::report::{Metrics, Omission};

/// State of a resumed run besides weights and moments.
#[derive(Serialize, Deserialize)]
struct State {
    cursor: Cursor,
    codebook: CodebookMaintenance,
    lecam: Lecam,
    /// Bad samples found so far, by source.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    bad: Vec<Vec<BadSample>>,
}

/// An image tokenizer in training.
pub struct ImageTask {
    recipe: VqRecipe,
    device: Device,
    preprocessor: PreprocessorConfig,
    model: Trained<VqModel>,
    auxiliary: AuxiliaryNetworks,
    objective: VqObjective,
    codebook: Codebook,
    batches: ImageBatches,
    /// Where the data of the next step begin.
    position: Position,
    /// Whether the weights are those after a complete step.
    is_whole: bool,
    /// Images of each validation source, under its name.
    validation: Vec<(String, Vec<RgbImage>)>,
    /// What was left out of the validation sources.
    validation_left_out: Vec<LeftOut>,
    /// Originals and reconstructions of the last evaluation.
    shown: Option<RgbImage>,
}

impl ImageTask {
    /// Opens the data and initialises the model on `device`. `precision` is that of the activations
    /// of encoder, decoder and discriminator; everything else is in f32.
    ///
    /// # Errors
    /// Those of the data sets and of the recipe.
    pub fn new(recipe: VqRecipe, device: &Device, precision: Precision) -> Result<Self> {
        let preprocessor = recipe.preprocessor();
        let batches = ImageBatches::new(&recipe.data, recipe.run.seed, preprocessor.clone())?;
        let samples = recipe.run.eval_samples;
        let (mut validation, mut validation_left_out) = (Vec::new(), Vec::new());
        for config in recipe.validation.iter() {
            let (images, left_out) = first_images(config, samples, &preprocessor)?;
            validation.push((config.source.path.clone(), images));
            validation_left_out.push(left_out);
        }
        let device = device.clone().autodiff();
        init::seed(recipe.run.seed);
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
        let auxiliary = AuxiliaryNetworks::new(&recipe, &device, is_mixed)?;
        Ok(Self {
            model: Trained::new(model, recipe.optimizer.clone(), recipe.average.decay),
            auxiliary,
            objective: VqObjective { config: recipe.loss.clone() },
            codebook: Codebook::new(&recipe),
            device,
            preprocessor,
            position: batches.position(),
            is_whole: true,
            batches,
            validation,
            validation_left_out,
            shown: None,
            recipe,
        })
    }

    /// The model.
    pub fn model(&self) -> &VqModel {
        self.model.module()
    }

    /// The tokenizer as it is now, outside autodiff and in f32, with averaged weights if the recipe
    /// asks for them.
    pub fn tokenizer(&self) -> VqTokenizer {
        let model = self.model.released().in_full_precision();
        let (config, preprocessor) = (self.recipe.model.clone(), self.preprocessor.clone());
        VqTokenizer::new(config, preprocessor, model, self.device.clone().inner())
    }

    /// The images of the next batch, grouped by size.
    fn groups(&mut self) -> Result<Vec<Group>> {
        let (images, words) = (self.recipe.batch.images, self.recipe.semantic.words);
        self.batches.groups(images, words, &self.device)
    }

    /// Whether `step` still trains a plain autoencoder.
    fn is_warming_up(&self, step: usize) -> bool {
        step < self.recipe.warmup.autoencoder_steps
    }

    /// Whether the discriminator takes part in `step`.
    fn discriminates(&self, step: usize) -> bool {
        !self.is_warming_up(step) && self.auxiliary.discriminates(step)
    }

    /// Whether the codebook starts at `step`.
    fn starts_codebook(&self, step: usize) -> bool {
        step == self.recipe.warmup.autoencoder_steps
            && self.model().quantize.codebook().is_some()
            && self.recipe.run.init.is_none()
    }

    /// Starts the codebook from the latents of `groups` and of as many more images as it takes.
    fn start_codebook(&mut self, groups: &[Group], rng: &mut ChaCha8Rng) -> Result<()> {
        let mut all = latents(self.model(), groups);
        while num_latents(&all) < self.codebook.num_starting_latents() {
            let more = self.groups()?;
            all.extend(latents(self.model(), &more));
        }
        self.codebook.start(&mut self.model, all, rng);
        Ok(())
    }

    fn loss(&self, step: usize, group: &Group) -> VqLoss {
        let (model, pixels) = (self.model(), group.pixels.clone());
        if self.is_warming_up(step) {
            return self.objective.autoencoder_loss(model, pixels);
        }
        self.objective.loss_with(model, pixels, self.auxiliary.losses(step, &group.words))
    }

    /// Losses and gradients of the micro-batches of `step`. All are drawn whatever their losses are,
    /// so that a rewound run can count what it skips.
    fn gather(&mut self, step: usize, rng: &mut ChaCha8Rng) -> Result<Gathered> {
        let mut gathered = Gathered::default();
        for part in 0..self.recipe.batch.accumulate {
            let groups = self.groups()?;
            if part == 0 && self.starts_codebook(step) {
                self.is_whole = false;
                self.start_codebook(&groups, rng)?;
            }
            for group in groups {
                if gathered.check().is_err() {
                    break;
                }
                let loss = self.loss(step, &group);
                let weight = group.share / self.recipe.batch.accumulate as f64;
                if let Some(mut gradients) = gathered.add(group, loss, weight) {
                    self.model.add_from(&mut gradients);
                    self.auxiliary.add_from(&mut gradients);
                }
            }
        }
        Ok(gathered)
    }

    /// A step, but for the position of its data.
    fn attempt(&mut self, step: usize, lr: f64) -> Result<Stepped> {
        // Dropout draws from the device; seeding it by step makes a resumed run repeat the masks.
        let seed = self.recipe.run.seed.wrapping_mul(0x9E37_79B9).wrapping_add(step as u64);
        let _drawing = (self.recipe.model.dropout > 0.0).then(|| seeded(&self.device, seed));
        let mut rng = ChaCha8Rng::seed_from_u64(self.recipe.run.seed);
        rng.set_stream(step as u64);
        let units = self.recipe.batch.accumulate * self.recipe.batch.images;
        let gathered = self.gather(step, &mut rng)?;
        let norm = match gathered.check().and_then(|()| self.model.update(lr)) {
            Ok(norm) => norm,
            Err(problem) => {
                self.model.discard();
                self.auxiliary.discard();
                return Ok(Stepped::skipped(problem, units));
            }
        };
        self.is_whole = false;
        if !self.is_warming_up(step) {
            self.codebook.update(&mut self.model, gathered.positions(), &mut rng);
        }
        self.model.average();
        let [loss, psnr] = gathered.loss_and_psnr();
        let mut metrics: Metrics = vec![
            ("loss".into(), loss),
            ("psnr".into(), psnr),
            ("unused_codes".into(), self.codebook.unused() as f64),
            ("grad_norm".into(), norm),
        ];
        let (terms, adversarial) = gathered.into_parts();
        metrics.extend(terms);
        if !self.is_warming_up(step) {
            self.auxiliary.update_semantic_head(step, lr)?;
        }
        if self.discriminates(step) {
            metrics.extend(self.auxiliary.update_discriminator(step, adversarial, lr)?);
        }
        Ok(Stepped { metrics, units, skipped: None })
    }
}

impl Task for ImageTask {
    const UNIT: &'static str = "images";

    /// The loss changes when the codebook starts, and again when the discriminator does.
    fn phase(&self, step: usize) -> usize {
        usize::from(!self.is_warming_up(step)) + usize::from(self.discriminates(step))
    }

    fn step(&mut self, step: usize, lr: f64) -> Result<Stepped> {
        let stepped = self.attempt(step, lr)?;
        self.position = self.batches.position();
        self.is_whole = true;
        Ok(stepped)
    }

    fn eval_metrics(&self) -> Vec<(String, Better)> {
        SCORES.map(|(name, better)| (name.to_owned(), better)).into()
    }

    fn evaluate(&mut self) -> Result<Metrics> {
        let (metrics, shown) = score(&self.tokenizer(), &self.validation, self.recipe.run.shown)?;
        self.shown = shown.or(self.shown.take());
        Ok(metrics)
    }

    fn image(&mut self) -> Option<RgbImage> {
        self.shown.take()
    }

    fn left_out(&self) -> Vec<Omission> {
        let all = self.batches.left_out();
        all.iter().chain(&self.validation_left_out).flat_map(LeftOut::omissions).collect()
    }

    fn checkpoint_bytes(&self) -> u64 {
        self.model.checkpoint_bytes() + self.auxiliary.checkpoint_bytes()
    }

    fn undo(&mut self) -> bool {
        self.model.discard();
        self.auxiliary.discard();
        self.is_whole && self.model.is_whole()
    }

    fn save(&self, dir: &Path) -> Result<()> {
        self.tokenizer().save(dir)?;
        self.model.save(dir)?;
        self.auxiliary.save(dir)?;
        let state = State {
            cursor: self.position.0.clone(),
            codebook: self.codebook.state().clone(),
            lecam: self.auxiliary.lecam().clone(),
            bad: self.position.1.clone(),
        };
        let trainer = dir.join(TRAINER_DIR);
        write_json(&trainer.join("state.json"), &state)?;
        write_toml(&trainer.join("recipe.toml"), &self.recipe)
    }

    fn restore(&mut self, dir: &Path, skip: u64) -> Result<()> {
        let state: State = read_json(&dir.join(TRAINER_DIR).join("state.json"))?;
        self.model.restore(dir)?;
        self.auxiliary.restore(dir, state.lecam)?;
        self.batches.restore(&state.cursor, state.bad)?;
        self.codebook.restore(state.codebook);
        for _ in 0..skip * self.recipe.batch.accumulate as u64 {
            self.batches.next(self.recipe.batch.images)?;
        }
        self.position = self.batches.position();
        self.is_whole = true;
        Ok(())
    }
}
