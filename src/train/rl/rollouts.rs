//! Answers to prompts, what they show, and what the rewards say of them.

use image::RgbImage;
use vq_tokenizer::{Codes, VqTokenizer};

use crate::data::Prompt;
use crate::error::{Error, Result};
use crate::generate::{EndReason, Generated};
use crate::tokenize::{CodedSegment, Processor};
use crate::train::reward::{Rewards, Rollout};

/// Stands for an image in texts that rewards read.
const IMAGE: &str = "<image>";
/// Images that are decoded at once.
const BATCH: usize = 32;

/// An answer to a prompt.
#[derive(Clone, Debug)]
pub(super) struct Answer {
    /// Number of the prompt.
    pub(super) prompt: usize,
    /// Its ids, with what ends it.
    pub(super) ids: Vec<u32>,
    /// Whether it was cut off.
    pub(super) is_truncated: bool,
    /// Its images.
    pub(super) codes: Vec<Codes>,
    /// The same in pixels.
    pub(super) images: Vec<RgbImage>,
    /// Its text, with a mark in place of each image.
    pub(super) text: String,
    /// What each reward gives it.
    pub(super) rewards: Vec<Option<f64>>,
    /// Whether its structure is right and it has an end.
    pub(super) is_well_formed: bool,
}

/// What is needed to read answers.
#[derive(Clone, Copy)]
pub(super) struct Reader<'a> {
    pub(super) processor: &'a Processor,
    pub(super) vq: Option<&'a VqTokenizer>,
    pub(super) prompts: &'a [Prompt],
}

impl Reader<'_> {
    /// The answers `generated` to the prompts with the numbers `indices`, with what `rewards` gives them.
    ///
    /// # Errors
    /// Those of decoding images, and of rewards that stop the run.
    pub(super) fn answers(
        &self,
        indices: &[usize],
        generated: Vec<Generated>,
        rewards: &mut Rewards,
    ) -> Result<Vec<Answer>> {
        let read = |(index, generated): (&usize, Generated)| self.answer(*index, generated);
        let mut answers: Vec<Answer> = indices.iter().zip(generated).map(read).collect();
        self.decode(&mut answers)?;
        let whole = |(index, answer): (&usize, &Answer)| {
            (self.prompt_text(*index), [&self.prompts[*index].ids[..], &answer.ids].concat())
        };
        let prompts: Vec<(String, Vec<u32>)> = indices.iter().zip(&answers).map(whole).collect();
        let pairs = answers.iter().zip(&prompts);
        let rollouts: Vec<Rollout<'_>> =
            pairs.map(|(answer, (prompt, ids))| self.rollout(answer, prompt, ids)).collect();
        let rows = rewards.score(&rollouts)?;
        answers.iter_mut().zip(rows).for_each(|(answer, row)| answer.rewards = row);
        Ok(answers)
    }

    /// The text of a prompt, with a mark in place of each image.
    pub(super) fn prompt_text(&self, index: usize) -> String {
        let ids = &self.prompts[index].ids;
        let ids = ids.strip_suffix(self.begin_image().as_slice()).unwrap_or(ids);
        text(&self.processor.decode_until_fault(ids).0)
    }

    fn begin_image(&self) -> Option<u32> {
        self.processor.vocabulary().special().begin_image
    }

    fn answer(&self, prompt: usize, Generated { ids, end, .. }: Generated) -> Answer {
        let last = self.prompts[prompt].ids.last().copied();
        let opening = last.filter(|last| Some(*last) == self.begin_image());
        let whole = [Vec::from_iter(opening), ids.clone()];
        let (segments, fault) = self.processor.decode_until_fault(&whole.concat());
        let text = text(&segments);
        let is_truncated = matches!(end, EndReason::MaxNewTokens | EndReason::Context);
        let is_readable = fault.is_none() && !text.contains(char::REPLACEMENT_CHARACTER);
        let codes = segments.into_iter().filter_map(|segment| match segment {
            CodedSegment::Image(codes) => Some(codes),
            _ => None,
        });
        Answer {
            prompt,
            is_truncated,
            codes: codes.collect(),
            images: Vec::new(),
            text,
            rewards: Vec::new(),
            is_well_formed: is_readable && !is_truncated,
            ids,
        }
    }

    fn decode(&self, answers: &mut [Answer]) -> Result<()> {
        let codes: Vec<Codes> = answers.iter().flat_map(|answer| answer.codes.clone()).collect();
        let mut images = Vec::with_capacity(codes.len());
        for batch in codes.chunks(BATCH) {
            images.extend(self.vq.ok_or(Error::NoImageTokenizer)?.decode(batch)?);
        }
        let mut images = images.into_iter();
        for answer in answers {
            answer.images = images.by_ref().take(answer.codes.len()).collect();
        }
        Ok(())
    }

    fn rollout<'a>(&'a self, answer: &'a Answer, prompt: &'a str, ids: &'a [u32]) -> Rollout<'a> {
        Rollout {
            prompt,
            completion: &answer.text,
            images: answer.images.iter().collect(),
            fields: &self.prompts[answer.prompt].fields,
            ids,
            tokens: answer.ids.len(),
            is_truncated: answer.is_truncated,
            is_well_formed: answer.is_well_formed,
        }
    }
}

/// Texts as they are, images as marks, without control tokens.
fn text(segments: &[CodedSegment]) -> String {
    let part = |segment: &CodedSegment| match segment {
        CodedSegment::Text(text) => text.clone(),
        CodedSegment::Image(_) => IMAGE.to_owned(),
        CodedSegment::Special(_) => String::new(),
    };
    segments.iter().map(part).collect()
}

/// The weighted sum of the rewards of an answer, if it has any.
pub(super) fn total(rewards: &[Option<f64>], weights: &[f64]) -> Option<f64> {
    let given =
        rewards.iter().zip(weights).filter_map(|(reward, weight)| Some((*reward)? * weight));
    given.fold(None, |sum, reward| Some(sum.unwrap_or(0.0) + reward))
}

/// Whether the answers of a group have different rewards, so that it teaches something.
pub(super) fn teaches(group: &[Answer], weights: &[f64]) -> bool {
    let totals: Vec<f64> =
        group.iter().filter_map(|answer| total(&answer.rewards, weights)).collect();
    let max = totals.iter().copied().fold(f64::NEG_INFINITY, f64::max);
    let min = totals.iter().copied().fold(f64::INFINITY, f64::min);
    max - min > 1e-8
}
