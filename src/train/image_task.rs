//! Training of the image tokenizer.

use std::path::Path;

use burn::module::Module;
use burn::optim::GradientsParams;
use burn::tensor::{Device, Tensor};
use image::RgbImage;
use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;
use rayon::prelude::*;
use serde::{Deserialize, Serialize};
use vq_tokenizer::metrics::{CodebookUsage, psnr, ssim};
use vq_tokenizer::preprocess::PreprocessorConfig;
use vq_tokenizer::train::{CodebookCare, VqLoss, VqObjective};
use vq_tokenizer::weights::{self, WeightFiles};
use vq_tokenizer::{VqModel, VqTokenizer};

use super::config::VqRecipe;
use super::{Optimizer, Task};
use crate::data::mixture::{Cursor, Mixture, Source};
use crate::data::{self, Counted, DataConfig, Dataset};
use crate::error::{Error, Result};
use crate::report::Metrics;

/// Where the codebook lies among the parameters.
const CODEBOOK: &str = "quantize.embedding.weight";

/// What a resumed run needs beside weights and moments.
#[derive(Serialize, Deserialize)]
struct State {
    cursor: Cursor,
    codebook: CodebookCare,
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
    sources: Vec<Counted>,
    mixture: Mixture,
    validation: Vec<(String, Vec<RgbImage>)>,
}

impl ImageTask {
    /// Opens the data and initialises the model on `device`.
    ///
    /// # Errors
    /// Those of the data sets and of the recipe.
    pub fn new(recipe: VqRecipe, device: &Device) -> Result<Self> {
        let preprocessor = PreprocessorConfig::original(recipe.model.resolution);
        let open = |config: &DataConfig| -> Result<Counted> {
            Counted::new(open(config)?, config.max_bad)
        };
        let sources: Vec<Counted> = recipe.data.iter().map(open).collect::<Result<_>>()?;
        let mixture = Mixture::new(
            recipe.run.seed,
            recipe
                .data
                .iter()
                .zip(&sources)
                .map(|(config, source)| Source {
                    name: config.path.clone(),
                    len: config.limit.map_or(source.len(), |limit| limit.min(source.len())),
                    weight: config.weight,
                    templates: vec![1.0],
                })
                .collect(),
        )?;
        let validation = recipe
            .validation
            .iter()
            .map(|config| {
                Ok((config.path.clone(), pictures(config, recipe.run.eval_samples, &preprocessor)?))
            })
            .collect::<Result<_>>()?;
        let training_device = device.clone().autodiff();
        training_device.seed(recipe.run.seed);
        let model = Some(recipe.model.init(&training_device));
        Ok(Self {
            optimizer: Optimizer::new(recipe.optimizer.clone()),
            objective: VqObjective { config: recipe.loss.clone() },
            codebook: CodebookCare::new(recipe.codebook.clone(), &recipe.model),
            device: training_device,
            preprocessor,
            model,
            sources,
            mixture,
            validation,
            recipe,
        })
    }

    /// The model.
    pub fn model(&self) -> &VqModel {
        self.model.as_ref().expect("the model is absent only inside `step`")
    }

    /// The tokenizer as it is now, outside autodiff.
    pub fn tokenizer(&self) -> VqTokenizer {
        VqTokenizer::new(
            self.recipe.model.clone(),
            self.preprocessor.clone(),
            self.model().valid(),
            self.device.clone().inner(),
        )
    }

    /// The next batch, `[images, 3, side, side]` in [-1, 1].
    fn batch(&mut self) -> Result<Tensor<4>> {
        let mut images = Vec::with_capacity(self.recipe.batch.images);
        while images.len() < self.recipe.batch.images {
            let missing = self.recipe.batch.images - images.len();
            let draws: Vec<_> = (0..missing).map(|_| self.mixture.draw()).collect();
            let drawn = draws.into_par_iter().map(|mut draw| {
                let source = &self.sources[draw.source];
                let Some(sample) = source.take(draw.index)? else { return Ok(None) };
                let Some(image) = sample.images.into_iter().next() else {
                    source.reject(draw.index, format!("{}: no picture", sample.source))?;
                    return Ok(None);
                };
                let image = self.preprocessor.resize(&image);
                let augment = self.recipe.data[draw.source].augment;
                Ok(Some(if augment { augmented(image, &mut draw.rng) } else { image }))
            });
            images.extend(drawn.collect::<Result<Vec<_>>>()?.into_iter().flatten());
        }
        Ok(self.preprocessor.tensor(&images, &self.device)?)
    }

    /// Latents to start the codebook from: those of `pixels`, and of more pictures until there are a few
    /// for each code.
    fn starting_latents(&mut self, pixels: &Tensor<4>) -> Result<Vec<Tensor<4>>> {
        const FOR_EACH_CODE: usize = 4;
        let latents = |model: &VqModel, pixels: Tensor<4>| model.valid().latents(pixels.inner());
        let mut all = vec![latents(self.model(), pixels.clone())];
        let [batch, _, height, width] = all[0].dims();
        let wanted = FOR_EACH_CODE * self.recipe.model.num_embeddings;
        while all.len() * batch * height * width < wanted {
            let pixels = self.batch()?;
            all.push(latents(self.model(), pixels));
        }
        Ok(all)
    }

    fn objective_of(&self, step: usize, pixels: Tensor<4>) -> VqLoss {
        if step < self.recipe.warmup.autoencoder_steps {
            self.objective.autoencoder_loss(self.model(), pixels)
        } else {
            self.objective.loss(self.model(), pixels)
        }
    }
}

/// A data set whose samples hold a picture each.
fn open(config: &DataConfig) -> Result<Box<dyn Dataset>> {
    data::open_as(&config.path, config.explode.as_deref(), config.group_by.as_deref())
}

/// The first `count` pictures, resized.
fn pictures(
    config: &DataConfig,
    count: usize,
    preprocessor: &PreprocessorConfig,
) -> Result<Vec<RgbImage>> {
    let dataset = Counted::new(open(config)?, config.max_bad)?;
    let count = count.min(dataset.len());
    let samples: Vec<_> =
        (0..count).into_par_iter().map(|index| dataset.take(index)).collect::<Result<_>>()?;
    let first = samples.into_iter().flatten().filter_map(|sample| sample.images.into_iter().next());
    Ok(first.map(|image| preprocessor.resize(&image)).collect())
}

/// Mirrored half of the time, and shifted by up to 4 pixels with its border repeated.
fn augmented(image: RgbImage, rng: &mut ChaCha8Rng) -> RgbImage {
    const SHIFT: i64 = 4;
    let image = if rng.random::<bool>() { image::imageops::flip_horizontal(&image) } else { image };
    let (width, height) = image.dimensions();
    let (dx, dy) = (rng.random_range(-SHIFT..=SHIFT), rng.random_range(-SHIFT..=SHIFT));
    let moved =
        |at: u32, by: i64, len: u32| (i64::from(at) + by).clamp(0, i64::from(len) - 1) as u32;
    RgbImage::from_fn(width, height, |x, y| {
        *image.get_pixel(moved(x, dx, width), moved(y, dy, height))
    })
}

impl Task for ImageTask {
    const UNIT: &'static str = "pictures";

    fn step(&mut self, step: usize, lr: f64) -> Result<(Metrics, usize)> {
        self.device.seed(self.recipe.run.seed.wrapping_mul(0x9E37_79B9).wrapping_add(step as u64));
        let pixels = self.batch()?;
        let mut rng = ChaCha8Rng::seed_from_u64(self.recipe.run.seed);
        rng.set_stream(step as u64);
        if step == self.recipe.warmup.autoencoder_steps {
            let latents = self.starting_latents(&pixels)?;
            let model = self.model.take().expect("the model is put back at once");
            let start = self.recipe.warmup.codebook;
            self.model = Some(self.codebook.start(model, latents, start, &mut rng));
        }
        let loss = self.objective_of(step, pixels);
        let total = f64::from(loss.total.clone().into_scalar::<f32>());
        let squared_error = f64::from(loss.squared_error.into_scalar::<f32>());
        let diverged = |what: &str, value: f64| Error::Diverged {
            step,
            message: format!("the {what} is {value}; no weight was changed"),
        };
        if !total.is_finite() {
            return Err(diverged("loss", total));
        }
        let model = self.model.take().expect("the model is put back below");
        let gradients = GradientsParams::from_grads(loss.total.backward(), &model);
        let (mut model, norm) = self
            .optimizer
            .step(model, gradients, lr)
            .map_err(|norm| diverged("gradient norm", norm))?;
        if step >= self.recipe.warmup.autoencoder_steps {
            let rows;
            let config = &self.recipe.model;
            (model, rows) = self.codebook.step(config, model, loss.codes, loss.latents, &mut rng);
            let rows = rows.into_iter().collect();
            self.optimizer.reset_rows(CODEBOOK, &rows, self.recipe.model.embed_dim);
        }
        self.model = Some(model);
        // Pixels span [-1, 1]; against a peak of 1 the error is a quarter.
        let psnr = -10.0 * (squared_error / 4.0).log10();
        let metrics = vec![
            ("loss", total),
            ("psnr", psnr),
            ("unused_codes", self.codebook.unused() as f64),
            ("grad_norm", norm),
        ];
        Ok((metrics, self.recipe.batch.images))
    }

    fn evaluate(&mut self) -> Result<Metrics> {
        let tokenizer = self.tokenizer();
        let mut metrics = Metrics::new();
        let mut usage = CodebookUsage::new(self.recipe.model.num_embeddings);
        let (mut sum_psnr, mut sum_ssim, mut count) = (0.0, 0.0, 0);
        for (_, images) in &self.validation {
            let codes = tokenizer.encode(images)?;
            let decoded = tokenizer.decode(&codes)?;
            codes.iter().for_each(|codes| usage.add(&codes.ids));
            for (image, decoded) in images.iter().zip(&decoded) {
                sum_psnr += psnr(image, decoded)?;
                sum_ssim += ssim(image, decoded)?;
                count += 1;
            }
        }
        if count > 0 {
            metrics.push(("psnr", sum_psnr / f64::from(count)));
            metrics.push(("ssim", sum_ssim / f64::from(count)));
            metrics.push(("codes_used", usage.used_share()));
            metrics.push(("perplexity", usage.perplexity()));
        }
        Ok(metrics)
    }

    fn save(&self, dir: &Path) -> Result<()> {
        self.tokenizer().save(dir)?;
        let trainer = dir.join("trainer");
        std::fs::create_dir_all(&trainer).map_err(Error::io(&trainer))?;
        self.optimizer.save(&trainer.join("optimizer.safetensors"))?;
        let state =
            State { cursor: self.mixture.cursor().clone(), codebook: self.codebook.clone() };
        super::state::write_json(&trainer.join("state.json"), &state)?;
        super::state::write_toml(&trainer.join("recipe.toml"), &self.recipe)
    }

    fn restore(&mut self, dir: &Path) -> Result<()> {
        let trainer = dir.join("trainer");
        let path = dir.join("model.safetensors");
        let model = self.model.take().expect("the model is absent only inside `step`");
        self.model = Some(weights::load(model, WeightFiles::open(&path)?, &path)?);
        self.optimizer = Optimizer::load(
            self.recipe.optimizer.clone(),
            &trainer.join("optimizer.safetensors"),
            &self.device.clone().inner(),
        )?;
        let state: State = super::state::read_json(&trainer.join("state.json"))?;
        self.mixture.restore(&state.cursor)?;
        self.codebook = state.codebook;
        Ok(())
    }
}
