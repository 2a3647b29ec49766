//! Updates of an image tokenizer's codebook other than by gradients: its start from latents, moving
//! averages, and the revival of unused codes.

use burn::module::Module;
use burn::tensor::{Int, Tensor};
use rand_chacha::ChaCha8Rng;
use vq_tokenizer::train::{CodebookMaintenance, CodebookStart};
use vq_tokenizer::{VqConfig, VqModel};

use super::config::VqRecipe;
use super::image_batches::Group;
use super::trained::Trained;

/// Path of the codebook among the model's parameters.
const PATH: &str = "quantize.embedding.weight";
/// Latents per code from which the codebook is initialised.
const LATENTS_PER_CODE: usize = 4;

/// The state of these updates.
pub(super) struct Codebook {
    config: VqConfig,
    start: CodebookStart,
    maintenance: CodebookMaintenance,
}

impl Codebook {
    /// The state before the first step of `recipe`.
    pub(super) fn new(recipe: &VqRecipe) -> Self {
        Self {
            config: recipe.model.clone(),
            start: recipe.warmup.codebook,
            maintenance: CodebookMaintenance::new(recipe.codebook.clone(), &recipe.model),
        }
    }

    /// Number of latents that [`Self::start`] needs.
    pub(super) fn num_starting_latents(&self) -> usize {
        LATENTS_PER_CODE * self.config.num_embeddings
    }

    /// Sets the codes to `latents` or to the centres of their clusters.
    ///
    /// # Shapes
    /// `latents`: `[images, embed, height, width]` each.
    pub(super) fn start(
        &mut self,
        model: &mut Trained<VqModel>,
        latents: Vec<Tensor<4>>,
        rng: &mut ChaCha8Rng,
    ) {
        model.change(|model| (self.maintenance.start(model, latents, self.start, rng), ()));
        let rows: Vec<usize> = (0..self.config.num_embeddings).collect();
        model.forget_rows(PATH, &rows);
    }

    /// Updates the codes that are moving averages and revives unused ones, after a step of the optimizer.
    ///
    /// # Shapes
    /// `codes`: `[1, 1, positions]`; `latents`: `[1, embed, 1, positions]`.
    pub(super) fn update(
        &mut self,
        model: &mut Trained<VqModel>,
        (codes, latents): (Tensor<3, Int>, Tensor<4>),
        rng: &mut ChaCha8Rng,
    ) {
        let revived =
            model.change(|model| self.maintenance.step(&self.config, model, codes, latents, rng));
        model.forget_rows(PATH, &revived);
    }

    /// Number of codes that the last step did not use.
    pub(super) fn unused(&self) -> usize {
        self.maintenance.unused()
    }

    /// The state that a resumed run needs.
    pub(super) fn state(&self) -> &CodebookMaintenance {
        &self.maintenance
    }

    /// Continues from `state`.
    pub(super) fn restore(&mut self, state: CodebookMaintenance) {
        self.maintenance = state;
    }
}

/// The latents of `groups`, outside autodiff: `[images, embed, height, width]` each.
pub(super) fn latents(model: &VqModel, groups: &[Group]) -> Vec<Tensor<4>> {
    let model = model.valid();
    groups.iter().map(|group| model.latents(group.pixels.clone().inner())).collect()
}

/// Number of latent vectors in `latents`.
pub(super) fn num_latents(latents: &[Tensor<4>]) -> usize {
    let positions = |latents: &Tensor<4>| {
        let [images, _, height, width] = latents.dims();
        images * height * width
    };
    latents.iter().map(positions).sum()
}
