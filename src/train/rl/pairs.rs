//! The best and the worst of several answers to a prompt, as data for training on preferences.

use std::ops::AddAssign;

use super::answering::Answering;
use super::rollouts::{Answer, total};
use super::task::RlTask;
use crate::error::Result;
use crate::tokenize::CodedSegment;

/// A prompt with its best and its worst answer.
#[derive(Clone, Debug, PartialEq)]
pub struct RankedPair {
    /// The prompt without begin-of-text, and without the separator at its end.
    pub prompt: Vec<CodedSegment>,
    /// The answer with the highest reward.
    pub chosen: Vec<CodedSegment>,
    /// The one with the lowest.
    pub rejected: Vec<CodedSegment>,
    /// The rewards of both.
    pub rewards: [f64; 2],
    /// Whether a separator follows the prompt.
    pub is_separated: bool,
}

/// Pairs, and prompts without one.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct RankedPairs {
    /// The pairs.
    pub pairs: Vec<RankedPair>,
    /// The other prompts.
    pub left: LeftPrompts,
}

/// Numbers of prompts without a pair.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct LeftPrompts {
    /// Their answers have equal rewards.
    pub ties: usize,
    /// Less than two answers are complete and not empty.
    pub incomplete: usize,
    /// Less than two complete answers have a reward.
    pub unrewarded: usize,
    /// A control token stands within prompt or answers, which rows cannot hold.
    pub control_tokens: usize,
}

impl LeftPrompts {
    /// The numbers with the reason of each.
    pub fn by_reason(&self) -> [(usize, &'static str); 4] {
        [
            (self.ties, "equal rewards"),
            (self.incomplete, "less than two complete answers"),
            (self.unrewarded, "less than two rewards"),
            (self.control_tokens, "control tokens within"),
        ]
    }
}

impl AddAssign for LeftPrompts {
    fn add_assign(&mut self, other: Self) {
        self.ties += other.ties;
        self.incomplete += other.incomplete;
        self.unrewarded += other.unrewarded;
        self.control_tokens += other.control_tokens;
    }
}

impl RlTask {
    /// Answers the next step's prompts and pairs the best with the worst answer to each.
    ///
    /// # Errors
    /// Those of generation and rewards.
    pub fn ranked_pairs(&mut self) -> Result<RankedPairs> {
        let groups = self.collect()?.all;
        let (answering, mut found) = (self.answering(), RankedPairs::default());
        for group in &groups {
            let pair = match best_and_worst(group, answering) {
                Ok(ranked) => answering.pair(ranked)?,
                Err(left) => {
                    found.left += left;
                    continue;
                }
            };
            let is_special = |segment: &CodedSegment| matches!(segment, CodedSegment::Special(_));
            let sides = [&pair.prompt, &pair.chosen, &pair.rejected];
            let holds_control = sides.into_iter().flatten().any(is_special);
            match holds_control {
                true => found.left.control_tokens += 1,
                false => found.pairs.push(pair),
            }
        }
        Ok(found)
    }
}

/// The best and the worst answer of a group, each with its reward; without such a pair, why.
fn best_and_worst<'a>(
    group: &'a [Answer],
    answering: &Answering,
) -> std::result::Result<[(f64, &'a Answer); 2], LeftPrompts> {
    let is_complete = |answer: &&Answer| answer.is_well_formed && answering.end(answer) > 0;
    let complete: Vec<&Answer> = group.iter().filter(is_complete).collect();
    let weights = answering.rewards.weights();
    let rewarded = complete.iter().filter_map(|a| Some((total(&a.rewards, weights)?, *a)));
    let mut ranked: Vec<(f64, &Answer)> = rewarded.collect();
    ranked.sort_by(|(a, _), (b, _)| b.total_cmp(a));
    let none = LeftPrompts::default();
    match (ranked.first(), ranked.last()) {
        _ if complete.len() < 2 => Err(LeftPrompts { incomplete: 1, ..none }),
        (Some(best), Some(worst)) if best.0 > worst.0 => Ok([*best, *worst]),
        _ if ranked.len() < 2 => Err(LeftPrompts { unrewarded: 1, ..none }),
        _ => Err(LeftPrompts { ties: 1, ..none }),
    }
}

impl Answering {
    /// The number of ids of an answer before what ends it.
    fn end(&self, answer: &Answer) -> usize {
        self.processor.vocabulary().special().without_end(&answer.ids)
    }

    fn pair(&self, [best, worst]: [(f64, &Answer); 2]) -> Result<RankedPair> {
        let special = self.processor.vocabulary().special();
        let prompt = &self.training.prompts[best.1.prompt].ids[..];
        let without = |prompt: &[u32], end: Option<u32>| match (prompt, end) {
            ([.., last], Some(end)) if *last == end => prompt.len() - 1,
            _ => prompt.len(),
        };
        let len = without(prompt, special.begin_image);
        let (prompt, opening) = prompt.split_at(len);
        let len = without(prompt, special.sep);
        let is_separated = len < prompt.len();
        let prompt = &prompt[..len];
        let answer = |answer: &Answer| {
            self.processor.decode(&[opening, &answer.ids[..self.end(answer)]].concat())
        };
        Ok(RankedPair {
            prompt: self.processor.decode(prompt)?,
            chosen: answer(best.1)?,
            rejected: answer(worst.1)?,
            rewards: [best.0, worst.0],
            is_separated,
        })
    }
}
