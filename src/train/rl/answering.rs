//! What answers prompts: tokenizers, prompts, sampler and rewards.

use burn::tensor::Device;
use image::RgbImage;
use vq_tokenizer::{Codes, VqTokenizer};

use super::config::RlConfig;
use super::evaluation::{Evaluation, names};
use super::prompts::{PromptSet, Reading};
use super::rollouts::{Answer, Reader, teaches};
use super::sampler::{Sampler, Serving};
use super::seeds::requests;
use crate::data::shards::tokenizer_digest;
use crate::data::{DocumentData, Encoding, LeftOut};
use crate::error::{Error, Result};
use crate::report::{Metrics, Omission, SampleText};
use crate::tokenize::Processor;
use crate::train::best::Better;
use crate::train::config::LanguageRecipe;
use crate::train::order::drawn;
use crate::train::preview::bracketed;
use crate::train::released::Released;
use crate::train::reward::{Place, Rewards};

/// Added to the number of a prompt's draw in evaluations.
const HELD_OUT: u64 = 1 << 40;

/// A sheet of images, if there are any, and texts.
pub(super) type Shown = (Option<RgbImage>, Vec<SampleText>);

/// What answers the prompts of a run.
pub(super) struct Answering {
    pub(super) processor: Processor,
    vq: Option<VqTokenizer>,
    pub(super) sampler: Sampler,
    pub(super) rewards: Rewards,
    pub(super) training: PromptSet,
    validation: PromptSet,
    seed: u64,
    config: RlConfig,
}

/// The answers of a step.
pub(super) struct Collected {
    /// The groups to learn from.
    pub(super) groups: Vec<Vec<Answer>>,
    /// Those and the ones that were left out.
    pub(super) all: Vec<Vec<Answer>>,
}

impl Answering {
    /// Opens tokenizers, prompts and rewards on `device`, and returns a digest of the tokenizers.
    ///
    /// # Errors
    /// Those of the files that the recipe names, and of its rewards.
    pub(super) fn open(
        recipe: &LanguageRecipe,
        config: &RlConfig,
        device: &Device,
        quiet: bool,
    ) -> Result<(Self, String)> {
        let (processor, vq, digest) = recipe.tokenizer.open(device)?;
        let tokenizer = tokenizer_digest(&processor, &digest)?;
        let stop_ids = recipe.generation_config()?.stop_ids;
        let context = recipe.model.max_position_embeddings;
        let sampler = Sampler::new(config, &processor, stop_ids, context)?;
        let (seq_len, answer) = (recipe.batch.seq_len, sampler.longest());
        let longest = seq_len.checked_sub(answer).filter(|longest| *longest > 0).ok_or_else(|| {
            Error::invalid(format!(
                "batch.seq_len is {seq_len}; an answer may have {answer} tokens, so with a prompt it must be larger"
            ))
        })?;
        let cache_dir = recipe.run.path().join("codes");
        let encoding = Encoding { vq: vq.as_ref(), digest: &digest, cache_dir: &cache_dir, quiet };
        let seed = recipe.run.seed;
        let open = |configs: &[DocumentData], held_out| {
            let (processor, open_image) = (&processor, config.draws_only());
            let reading = Reading { encoding, processor, seed, open_image, longest, held_out };
            PromptSet::open(configs, reading)
        };
        let training = open(&recipe.data, None)?;
        let validation = open(&recipe.validation, Some(recipe.run.eval_samples))?;
        let place = Place { device, processor: &processor, vq: vq.as_ref() };
        let rewards = Rewards::open(&config.reward, Some(place))?;
        let config = config.clone();
        let answering =
            Self { processor, vq, sampler, rewards, training, validation, seed, config };
        Ok((answering, tokenizer))
    }

    /// Answers that a step learns from, by the model `serving`, as ids with the number of ids of their prompts: to the
    /// prompts from draw `from` on.
    ///
    /// # Errors
    /// Those of generation.
    pub(super) fn rollouts(
        &self,
        serving: Serving<'_>,
        from: u64,
    ) -> Result<Vec<(Vec<u32>, usize)>> {
        let prompts = self.next_prompts(from, self.config.prompts_per_step);
        let (indices, requests) =
            requests(&self.training.prompts, &prompts, self.group(), self.seed);
        let generated = self.sampler.draw(serving, &self.processor, &requests)?;
        let whole = |(index, ids): (&usize, Vec<u32>)| {
            let prompt = &self.training.prompts[*index].ids;
            ([&prompt[..], &ids].concat(), prompt.len())
        };
        Ok(indices.iter().zip(generated.into_iter().map(|g| g.ids)).map(whole).collect())
    }

    /// The first answer to each prompt among `rows`, in brackets.
    ///
    /// # Errors
    /// If an image is damaged.
    pub(super) fn shown(&self, rows: &[(Vec<u32>, usize)]) -> Result<Vec<String>> {
        let first = rows.iter().step_by(self.group());
        let shown = first.map(|(ids, len)| self.sampler.document(ids, *len));
        shown.map(|document| bracketed(&document, &self.processor)).collect()
    }

    /// Answers to prompts from draw `drawn` on, which moves on, until a step is full, or as often as
    /// `dynamic_sampling` allows.
    ///
    /// # Errors
    /// Those of generation and of rewards that stop the run.
    pub(super) fn collect(&mut self, serving: Serving<'_>, drawn: &mut u64) -> Result<Collected> {
        let (wanted, rounds) = (self.config.prompts_per_step, self.config.dynamic_sampling);
        let mut collected = Collected { groups: Vec::new(), all: Vec::new() };
        for _ in 0..rounds.max(1) {
            let prompts = self.next_prompts(*drawn, wanted - collected.groups.len());
            *drawn += prompts.len() as u64;
            let (indices, requests) =
                requests(&self.training.prompts, &prompts, self.group(), self.seed);
            let generated = self.sampler.draw(serving.clone(), &self.processor, &requests)?;
            let (processor, vq) = (&self.processor, self.vq.as_ref());
            let reader = Reader { processor, vq, prompts: &self.training.prompts };
            let answers = reader.answers(&indices, generated, &mut self.rewards)?;
            for answers in answers.chunks(self.group()) {
                collected.all.push(answers.to_vec());
                if rounds == 0 || teaches(answers, self.rewards.weights()) {
                    collected.groups.push(answers.to_vec());
                }
            }
            if collected.groups.len() == wanted {
                break;
            }
        }
        Ok(collected)
    }

    /// One answer to every held-out prompt, with the same seeds every time: what is logged of them, a sheet of images
    /// and texts, `count` of each source. Nothing without such prompts.
    ///
    /// # Errors
    /// As [`Self::collect`].
    pub(super) fn evaluate(
        &mut self,
        serving: Serving<'_>,
        count: usize,
    ) -> Result<(Metrics, Shown)> {
        let prompts = &self.validation.prompts;
        if prompts.is_empty() {
            return Ok(Default::default());
        }
        let all: Vec<(usize, u64)> = (0..prompts.len()).zip(HELD_OUT..).collect();
        let (indices, requests) = requests(prompts, &all, 1, self.seed);
        let generated = self.sampler.draw(serving, &self.processor, &requests)?;
        let reader = Reader { processor: &self.processor, vq: self.vq.as_ref(), prompts };
        let answers = reader.answers(&indices, generated, &mut self.rewards)?;
        let (names, weights) = (&self.rewards.names()[..], self.rewards.weights());
        let prompts = &self.validation;
        let evaluation = Evaluation { prompts, answers: &answers, names, weights };
        Ok((evaluation.metrics(), evaluation.shown(&reader, count)))
    }

    /// The names of the metrics of an evaluation, each with its better direction.
    pub(super) fn eval_metrics(&self) -> Vec<(String, Better)> {
        names(&self.rewards.names(), &self.validation.labels)
    }

    /// What was left out of prompts and rewards so far.
    pub(super) fn left_out(&self) -> Vec<Omission> {
        let of_validation = self.validation.left_out.iter().map(|left_out| LeftOut {
            source: format!("validation {}", left_out.source),
            ..left_out.clone()
        });
        let opened = self.training.left_out.iter().cloned().chain(of_validation);
        let mut all: Vec<Omission> = opened.flat_map(|left_out| left_out.omissions()).collect();
        all.extend(self.rewards.omissions());
        all
    }

    /// An image in pixels.
    ///
    /// # Errors
    /// If its codes are not the image tokenizer's.
    pub(super) fn decoded(&self, codes: &Codes) -> Result<RgbImage> {
        Ok(self
            .vq
            .as_ref()
            .ok_or(Error::NoImageTokenizer)?
            .decode(std::slice::from_ref(codes))?
            .remove(0))
    }

    /// What a checkpoint holds besides weights.
    pub(super) fn released<'a>(&'a self, recipe: &'a LanguageRecipe) -> Released<'a> {
        Released { recipe, processor: &self.processor, vq: self.vq.as_ref() }
    }

    /// The number of answers to a prompt.
    fn group(&self) -> usize {
        self.config.advantage.num_generations
    }

    /// The numbers of the prompts of `count` draws from `from` on, each with the number of its draw.
    fn next_prompts(&self, from: u64, count: usize) -> Vec<(usize, u64)> {
        let indices = drawn(self.training.prompts.len(), self.seed, from, count);
        indices.into_iter().zip(from..).collect()
    }
}
