//! How answers are drawn, and the distributions that their tokens were drawn from.

use burn::tensor::Device;

use super::config::RlConfig;
use crate::error::{Error, Result};
use crate::generate::{
    Generated, GenerationConfig, GenerationMode, Generator, ModalityRules, ModalityState, Request,
    SamplingConfig, ServingModel,
};
use crate::model::{CausalLm, ModelConfig};
use crate::tokenize::{Processor, TokenSequence};
use crate::train::answers::Scored;
use crate::train::distributions::{Distributions, Support};

/// Numbers of distributions: over image codes, over text, and over text and begin-image, where an image fits.
pub(super) const CODES: usize = 0;
const TEXT: usize = 1;
const TEXT_OR_IMAGE: usize = 2;

/// Draws answers, and says how their tokens are scored.
pub(super) struct Sampler {
    config: GenerationConfig,
    rules: ModalityRules,
    context: usize,
    pub(super) distributions: Distributions,
}

/// A model that answers.
#[derive(Clone)]
pub(super) struct Serving<'a> {
    /// Its sizes.
    pub(super) config: &'a ModelConfig,
    /// The model, outside autodiff.
    pub(super) model: CausalLm,
    /// Where it lies.
    pub(super) device: Device,
}

impl Sampler {
    /// The sampler of `config` for a model with a context of `context` ids; `stop_ids` end an answer too.
    ///
    /// # Errors
    /// [`Error::Invalid`] if the images of the checkpoint have any size, or a stop id cannot be one.
    pub(super) fn new(
        config: &RlConfig,
        processor: &Processor,
        stop_ids: Vec<u32>,
        context: usize,
    ) -> Result<Self> {
        let blocks = processor.blocks().clone();
        if blocks.are_sized() && config.mode != GenerationMode::TextOnly {
            let message = "rl.mode draws images of one size, but those of this checkpoint have any; allowed: text";
            return Err(Error::invalid(message));
        }
        let vocabulary = processor.vocabulary();
        let rules = ModalityRules::new(vocabulary, blocks, config.mode, &stop_ids)?;
        let ids = 0..vocabulary.len() as u32;
        let allowed =
            |allows: &dyn Fn(u32) -> bool| -> Vec<bool> { ids.clone().map(allows).collect() };
        let text = |available| allowed(&|id| rules.allows(ModalityState::Text, id, available));
        let codes = vocabulary.image_ids();
        let codes = match (codes.iter().min(), codes.iter().max()) {
            (Some(first), Some(last)) if (last - first) as usize + 1 == codes.len() => {
                Support::Range(*first as usize..*last as usize + 1)
            }
            _ => Support::Only(allowed(&|id| rules.is_image(id))),
        };
        let distributions = Distributions {
            supports: vec![codes, Support::Only(text(1)), Support::Only(text(usize::MAX))],
            temperature: config.temperature,
            pad: vocabulary.special().pad,
        };
        let sampling = SamplingConfig {
            temperature: config.temperature as f32,
            top_p: 1.0,
            top_k: None,
            min_p: 0.0,
            repetition_penalty: 1.0,
            greedy: false,
        };
        let config = GenerationConfig {
            text: sampling,
            image: sampling,
            guidance_scale: config.guidance_scale as f32,
            max_new_tokens: Some(config.max_new_tokens),
            mode: config.mode,
            stop_ids,
            ..GenerationConfig::default()
        };
        config.validate()?;
        Ok(Self { config, rules, context, distributions })
    }

    /// `ids` with their answer as what is learnt, to be shown: an image whole, although begin-image belongs to the prompt.
    pub(super) fn document(&self, ids: &[u32], prompt_len: usize) -> TokenSequence {
        let is_opened = ids.get(prompt_len - 1).copied() == self.rules.begin_image();
        let (prompt, answer) = ids.split_at(prompt_len - usize::from(is_opened));
        let mut document = TokenSequence::default();
        document.extend(prompt, false);
        document.extend(answer, true);
        document
    }

    /// The most ids of an answer.
    pub(super) fn longest(&self) -> usize {
        let state = ModalityState::Text;
        match self.config.mode {
            // Begin-image belongs to the prompt.
            GenerationMode::ImageOnly => self.rules.least_to_complete(state) - 1,
            _ => self.config.max_new_tokens.unwrap_or(self.context),
        }
    }

    /// Answers to `prompts`, each with its seed, by the model `serving`.
    ///
    /// # Errors
    /// Those of generation.
    pub(super) fn draw(
        &self,
        serving: Serving<'_>,
        processor: &Processor,
        prompts: &[(&[u32], u64)],
    ) -> Result<Vec<Generated>> {
        let Serving { config, model, device } = serving;
        let serving = ServingModel::new(config.clone(), model, device);
        let blocks = processor.blocks().clone();
        let generator = Generator::new(&serving, processor.vocabulary(), blocks)?;
        let request = |(prompt, seed): &(&[u32], u64)| {
            let config = GenerationConfig { seed: *seed, ..self.config.clone() };
            Request::new(prompt.to_vec(), config)
        };
        generator.run(prompts.iter().map(request).collect(), &mut |_, _| Ok(()))
    }

    /// `ids`, of which the first `prompt_len` are a prompt, with the distribution that each id of the answer was drawn
    /// from. What the rules force is not scored.
    ///
    /// # Errors
    /// None is expected of an answer that was drawn.
    pub(super) fn scored<'a>(&self, ids: &'a [u32], prompt_len: usize) -> Result<Scored<'a>> {
        let mut state = self.rules.state_after(&ids[..prompt_len])?;
        let limit = self.context.min(prompt_len + self.longest());
        let mut distributions = vec![None; prompt_len];
        for (at, id) in ids.iter().enumerate().skip(prompt_len) {
            distributions.push(match state {
                _ if self.rules.forced(state).is_some() => None,
                ModalityState::Image { .. } => Some(CODES),
                _ if self.begins_images(state, limit - at.min(limit)) => Some(TEXT_OR_IMAGE),
                _ => Some(TEXT),
            });
            state = self.rules.advance(state, *id);
        }
        Ok(Scored { ids, distributions })
    }

    /// The images of an answer without anything before them but begin-of-text, as guidance compares with; their codes
    /// are scored.
    pub(super) fn unprompted(
        &self,
        ids: &[u32],
        scored: &Scored<'_>,
    ) -> Vec<(Vec<u32>, Vec<Option<usize>>)> {
        let mut images = Vec::new();
        for (at, number) in scored.distributions.iter().enumerate() {
            if *number != Some(CODES) {
                continue;
            }
            if Some(ids[at - 1]) == self.rules.begin_image() {
                let start: Vec<u32> = self.rules.bos().into_iter().chain([ids[at - 1]]).collect();
                let none = vec![None; start.len()];
                images.push((start, none));
            }
            let (ids_of, numbers) = images.last_mut().expect("a code follows begin-image");
            ids_of.push(ids[at]);
            numbers.push(*number);
        }
        images
    }

    fn begins_images(&self, state: ModalityState, available: usize) -> bool {
        self.rules.begin_image().is_some_and(|id| self.rules.allows(state, id, available))
    }
}
