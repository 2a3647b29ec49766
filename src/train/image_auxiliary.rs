//! The auxiliary networks of an image tokenizer's loss: a discriminator, a head that predicts words
//! from the latents, and a perceptual distance.

use std::path::Path;

use burn::tensor::{Device, Gradients, Tensor};
use vq_tokenizer::train::{
    AdversarialBatch, AdversarialConfig, AuxiliaryLosses, Discriminator, Lecam, Lpips, SemanticHead,
};

use super::config::VqRecipe;
use super::trained::{NotFinite, Trained};
use crate::error::{Error, Result};
use crate::report::Metrics;

/// The auxiliary networks that a recipe asks for, with the weights of their losses.
pub(super) struct AuxiliaryNetworks {
    adversarial: AdversarialConfig,
    discriminator: Option<Trained<Discriminator>>,
    lecam: Lecam,
    semantic: Option<(Trained<SemanticHead>, f64)>,
    perceptual: Option<(Lpips, f64)>,
}

impl AuxiliaryNetworks {
    /// New networks on `device`; `is_mixed` computes the discriminator's activations in bfloat16.
    ///
    /// # Errors
    /// Those of the perceptual weights' file.
    pub(super) fn new(recipe: &VqRecipe, device: &Device, is_mixed: bool) -> Result<Self> {
        let (perceptual, adversarial) = (&recipe.perceptual, &recipe.adversarial);
        let perceptual = match (&perceptual.weights, perceptual.weight > 0.0) {
            (Some(path), true) => Some((Lpips::load(path, device)?, perceptual.weight)),
            _ => None,
        };
        let discriminator = (adversarial.weight > 0.0).then(|| {
            let module = Discriminator::new(adversarial, device);
            let module = if is_mixed { module.in_mixed_precision() } else { module };
            Trained::auxiliary("critic", module, recipe.optimizer.clone())
        });
        let semantic = (recipe.semantic.weight > 0.0).then(|| {
            let module = SemanticHead::new(&recipe.semantic, recipe.model.embed_dim, device);
            let head = Trained::auxiliary("semantic", module, recipe.optimizer.clone());
            (head, recipe.semantic.weight)
        });
        Ok(Self {
            adversarial: adversarial.clone(),
            discriminator,
            lecam: Lecam::default(),
            semantic,
            perceptual,
        })
    }

    /// Whether there is a discriminator that takes part in `step`: from
    /// `adversarial.start_step` on.
    pub(super) fn discriminates(&self, step: usize) -> bool {
        self.discriminator.is_some() && step >= self.adversarial.start_step
    }

    /// The networks that take part in the loss at `step`; `words` are those of the images.
    ///
    /// # Shapes
    /// `words`: `[images, words]`.
    pub(super) fn losses<'a>(&'a self, step: usize, words: &'a Tensor<2>) -> AuxiliaryLosses<'a> {
        let Self { adversarial, discriminator, semantic, perceptual, .. } = self;
        let discriminator = discriminator.as_ref().filter(|_| self.discriminates(step));
        AuxiliaryLosses {
            discriminator: discriminator
                .map(|d| (d.module(), adversarial.weight, adversarial.adaptive)),
            perceptual: perceptual.as_ref().map(|(lpips, weight)| (lpips, *weight)),
            semantic: semantic.as_ref().map(|(head, weight)| (head.module(), words, *weight)),
        }
    }

    /// Takes the semantic head's gradients from those of the tokenizer's loss.
    pub(super) fn add_from(&mut self, gradients: &mut Gradients) {
        if let Some((head, _)) = &mut self.semantic {
            head.add_from(gradients);
        }
    }

    /// Drops the gradients of this step.
    pub(super) fn discard(&mut self) {
        if let Some((head, _)) = &mut self.semantic {
            head.discard();
        }
    }

    /// Updates the semantic head.
    ///
    /// # Errors
    /// [`Error::Diverged`] for a gradient that is not finite.
    pub(super) fn update_semantic_head(&mut self, step: usize, lr: f64) -> Result<()> {
        let Some((head, _)) = &mut self.semantic else { return Ok(()) };
        head.apply(lr).map_err(|problem| diverged(step, "semantic head", problem))?;
        Ok(())
    }

    /// Trains the discriminator on images and their reconstructions, each group with its weight.
    ///
    /// # Errors
    /// [`Error::Diverged`] for a gradient that is not finite.
    pub(super) fn update_discriminator(
        &mut self,
        step: usize,
        batches: Vec<(AdversarialBatch, f64)>,
        lr: f64,
    ) -> Result<Metrics> {
        let Some(discriminator) = self.discriminator.as_mut() else { return Ok(Metrics::new()) };
        let (mut real, mut fake) = (0.0, 0.0);
        for (batch, weight) in batches {
            let module = discriminator.module();
            let loss = self.lecam.discriminator_loss(module, batch, self.adversarial.lecam);
            discriminator.add_from(&mut (loss.total * weight).backward());
            real += weight * loss.real;
            fake += weight * loss.fake;
        }
        discriminator
            .apply(lr * self.adversarial.lr_factor)
            .map_err(|problem| diverged(step, "discriminator", problem))?;
        Ok(vec![("critic_real".into(), real), ("critic_fake".into(), fake)])
    }

    /// The moving averages of the discriminator's logits, part of the state of a run.
    pub(super) fn lecam(&self) -> &Lecam {
        &self.lecam
    }

    /// Approximate size of the networks in a checkpoint, in bytes.
    pub(super) fn checkpoint_bytes(&self) -> u64 {
        let discriminator = self.discriminator.as_ref().map_or(0, Trained::checkpoint_bytes);
        discriminator + self.semantic.as_ref().map_or(0, |(head, _)| head.checkpoint_bytes())
    }

    /// Writes the networks that are trained to the checkpoint `dir`.
    ///
    /// # Errors
    /// Those of the file system.
    pub(super) fn save(&self, dir: &Path) -> Result<()> {
        self.discriminator.iter().try_for_each(|discriminator| discriminator.save(dir))?;
        self.semantic.iter().try_for_each(|(head, _)| head.save(dir))
    }

    /// Continues from the checkpoint `dir`, whose state has the averages `lecam`.
    ///
    /// # Errors
    /// Those of the files.
    pub(super) fn restore(&mut self, dir: &Path, lecam: Lecam) -> Result<()> {
        self.lecam = lecam;
        self.discriminator.iter_mut().try_for_each(|discriminator| discriminator.restore(dir))?;
        self.semantic.iter_mut().try_for_each(|(head, _)| head.restore(dir))
    }
}

fn diverged(step: usize, network: &str, problem: NotFinite) -> Error {
    let NotFinite { quantity, value } = problem;
    let message = format!("the {network}'s {quantity} is {value}; go back to the last checkpoint");
    Error::Diverged { step, message }
}
