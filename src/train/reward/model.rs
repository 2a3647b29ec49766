//! The reward of a reward model.

use std::path::PathBuf;

use burn::tensor::{Device, FloatDType};
use image::{Rgb, RgbImage};
use serde::{Deserialize, Serialize};
use vq_tokenizer::VqTokenizer;

use super::failures::{FailureKind, Failures};
use super::rollout::{Reward, Rollout};
use crate::checkpoint::Checkpoint;
use crate::checkpoint::adapter::WeightedAdapter;
use crate::error::{Error, Result};
use crate::model::CausalLm;
use crate::tokenize::{Processor, TokenClass};
use crate::train::answers::Answers;
use crate::train::distributions::Distributions;

/// Roll-outs that are rated at once.
const BATCH: usize = 16;

/// Keys of the kind `model`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RewardModelSource {
    /// A checkpoint with the tokenizers of the model in training: of a reward model, or its base.
    pub checkpoint: PathBuf,
    /// Adapters, such as a reward model's.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub adapters: Vec<WeightedAdapter>,
}

/// Where a reward model runs, and the tokenizers of the model in training.
#[derive(Clone, Copy, Debug)]
pub struct Place<'a> {
    /// The device, without autodiff.
    pub device: &'a Device,
    /// Text and images to ids and back.
    pub processor: &'a Processor,
    /// Images to codes and back.
    pub vq: Option<&'a VqTokenizer>,
}

/// What the score head of a reward model says at the end of prompt and answer.
#[derive(Debug)]
pub struct ModelReward {
    name: String,
    model: CausalLm,
    distributions: Distributions,
    /// The most tokens of prompt and answer.
    context: usize,
    processor: Processor,
    failures: Failures,
}

impl ModelReward {
    /// The reward called `name`.
    ///
    /// # Errors
    /// Those of the files; [`Error::File`] for other tokenizers or a model without a score head.
    pub fn open(name: &str, config: &RewardModelSource, place: Place<'_>) -> Result<Self> {
        let RewardModelSource { checkpoint: dir, adapters } = config;
        let opened = Checkpoint::open_with(dir, place.device, FloatDType::F32, adapters)?;
        let same_ids = place.writes_as(&opened.processor, opened.vq.as_ref())?;
        if !same_ids {
            let message =
                "has other tokenizers than the model in training, whose ids it is to rate";
            return Err(Error::file(dir, message));
        }
        if opened.model.score.is_none() {
            let message = "has no score head; [reward_model] in a recipe trains one";
            return Err(Error::file(dir, message));
        }
        let pad = opened.processor.vocabulary().special().pad;
        Ok(Self {
            name: name.to_owned(),
            model: opened.model,
            distributions: Distributions::all(pad),
            context: opened.config.max_position_embeddings,
            processor: opened.processor,
            failures: Failures::default(),
        })
    }

    /// What is rated of a roll-out, if it can be.
    fn fitting(&mut self, rollout: &Rollout<'_>) -> Option<Vec<u32>> {
        let Some(ids) = self.document(rollout.ids) else {
            let message = "the answer ends within an image";
            self.failures.add(FailureKind::Incomplete, 1, message);
            return None;
        };
        // A token follows the last one, which is rated.
        if ids.len() < self.context {
            return Some(ids);
        }
        let (len, most) = (ids.len(), self.context - 1);
        let message = format!("{len} tokens; the reward model takes at most {most}");
        self.failures.add(FailureKind::TooLong, 1, message);
        None
    }

    /// What the head says at the last tokens of `documents`.
    fn values(&self, documents: &[&[u32]]) -> Vec<f64> {
        if documents.is_empty() {
            return Vec::new();
        }
        let answers = Answers::of_last_tokens(documents, self.context, &self.distributions);
        answers.values(&self.model).concat()
    }

    /// Prompt and answer as the reward model was trained on them, with end-image and end-of-text where the sampler
    /// stopped before; `None` if an image in them is incomplete.
    fn document(&self, ids: &[u32]) -> Option<Vec<u32>> {
        let vocabulary = self.processor.vocabulary();
        let special = vocabulary.special();
        let len = special.without_end(ids);
        let mut ids = ids[..len].to_vec();
        if self.processor.decode_until_fault(&ids).1.is_some() {
            return None;
        }
        if ids.last().is_some_and(|id| vocabulary.class(*id) == TokenClass::Image) {
            ids.extend(special.end_image);
        }
        ids.push(special.eos);
        Some(ids)
    }
}

impl Place<'_> {
    /// Whether texts and images become the same ids as with the tokenizers `processor` and `vq`. Image tokenizers are
    /// compared by what they make of an image, since their files may differ in number format.
    fn writes_as(&self, processor: &Processor, vq: Option<&VqTokenizer>) -> Result<bool> {
        let (ours, theirs) = (self.processor, processor);
        if ours.text().to_bytes()? != theirs.text().to_bytes()? || ours.blocks() != theirs.blocks()
        {
            return Ok(false);
        }
        let (Some(own), Some(vq)) = (self.vq, vq) else { return Ok(true) };
        let colors = |x: u32, y: u32| Rgb([(4 * x) as u8, (4 * y) as u8, (3 * (x ^ y)) as u8]);
        let image = [RgbImage::from_fn(64, 64, colors)];
        Ok(own.encode(&image)? == vq.encode(&image)?)
    }
}

impl Reward for ModelReward {
    fn name(&self) -> &str {
        &self.name
    }

    fn score(&mut self, rollouts: &[Rollout<'_>]) -> Result<Vec<Option<f64>>> {
        let mut rewards = Vec::with_capacity(rollouts.len());
        for rollouts in rollouts.chunks(BATCH) {
            let documents: Vec<Option<Vec<u32>>> =
                rollouts.iter().map(|rollout| self.fitting(rollout)).collect();
            let fitting: Vec<&[u32]> = documents.iter().flatten().map(Vec::as_slice).collect();
            let mut values = self.values(&fitting).into_iter();
            rewards.extend(documents.iter().map(|ids| ids.as_ref().and_then(|_| values.next())));
        }
        Ok(rewards)
    }

    fn failures(&self) -> Failures {
        self.failures.clone()
    }
}
