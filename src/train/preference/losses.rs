//! What is minimised over the answers of a micro-batch: a loss over pairs, or over single answers.

use std::borrow::Cow;

use super::comparisons::Comparison;
use super::reference::sum;
use crate::error::{Error, Result};
use crate::model::TokenStats;
use crate::tokenize::TokenSequence;
use crate::train::answers::Scores;
use crate::train::config::LanguageRecipe;
use crate::train::objective::Metrics;
use crate::train::objective::preference::{
    Answer, LabelledAnswer, MismatchedAnswer, Pair, PreferenceConfig, Reference, UnpairedConfig,
    mismatched_answer,
};
use crate::train::objective::reward_model::RewardModelConfig;

/// The loss of a run.
#[derive(Clone, Debug)]
pub(super) enum Losses {
    /// Over pairs of answers.
    Pairs(PreferenceConfig),
    /// Over answers with a verdict.
    Unpaired(UnpairedConfig),
    /// Over the scores that a reward model gives pairs.
    Scores(RewardModelConfig),
}

/// What a loss returned.
pub(super) struct Found {
    /// The loss.
    pub(super) loss: f64,
    /// For each document the derivatives with respect to its tokens' log-probabilities; none for a document that the
    /// loss only compares with.
    pub(super) slopes: Vec<Vec<f64>>,
    /// TRL's metrics.
    pub(super) metrics: Metrics,
}

impl Losses {
    /// The loss of `recipe`.
    ///
    /// # Errors
    /// [`Error::Invalid`] if it has none.
    pub(super) fn of(recipe: &LanguageRecipe) -> Result<Self> {
        match (&recipe.preference, &recipe.kto, &recipe.reward_model) {
            (Some(pairs), ..) => Ok(Self::Pairs(pairs.clone())),
            (_, Some(unpaired), _) => Ok(Self::Unpaired(unpaired.clone())),
            (.., Some(scores)) => Ok(Self::Scores(scores.clone())),
            (None, None, None) => {
                Err(Error::invalid("the recipe has none of [preference], [kto] and [reward_model]"))
            }
        }
    }

    /// Whether rows are pairs.
    pub(super) fn is_paired(&self) -> bool {
        !matches!(self, Self::Unpaired(_))
    }

    /// Whether the reference has to score the answers.
    pub(super) fn needs_reference(&self) -> bool {
        match self {
            Self::Pairs(pairs) => pairs.needs_reference(),
            Self::Unpaired(_) => true,
            Self::Scores(_) => false,
        }
    }

    /// The settings of a reward model's loss, if it is that.
    pub(super) fn of_scores(&self) -> Option<&RewardModelConfig> {
        match self {
            Self::Scores(config) => Some(config),
            _ => None,
        }
    }

    /// Whether `ln sum_v p_v^2` of the policy is needed.
    pub(super) fn needs_squares(&self) -> bool {
        matches!(self, Self::Pairs(pairs) if pairs.use_weighting)
    }

    /// What rewards are multiplied by.
    pub(super) fn beta(&self) -> f64 {
        match self {
            Self::Pairs(pairs) => pairs.beta,
            Self::Unpaired(unpaired) => unpaired.beta,
            Self::Scores(_) => 1.0,
        }
    }

    /// The documents of a micro-batch: those of the items in their order, then those that are only compared with, of at
    /// most `seq_len` tokens.
    pub(super) fn documents<'a>(
        &self,
        items: &[&'a Comparison],
        seq_len: usize,
    ) -> Vec<Cow<'a, TokenSequence>> {
        let own = items.iter().flat_map(|item| &item.documents).map(Cow::Borrowed);
        let mut documents: Vec<_> = own.collect();
        if matches!(self, Self::Unpaired(unpaired) if unpaired.needs_mismatched()) {
            let mismatched = |row| {
                let other = items[mismatched_answer(row, items.len())];
                let mut document = joined(&items[row].documents[0], &other.documents[0]);
                document.ids.truncate(seq_len);
                document.loss_mask.truncate(seq_len);
                Cow::Owned(document)
            };
            documents.extend((0..items.len()).map(mismatched));
        }
        documents
    }

    /// The reference's score of a document in the form that the loss takes.
    pub(super) fn referred(&self, stats: &[TokenStats]) -> Reference {
        match self {
            Self::Pairs(pairs) if pairs.needs_reference_tokens() => {
                Reference::Tokens(stats.iter().map(|stats| f64::from(stats.log_prob)).collect())
            }
            _ => Reference::Sum(sum(stats)),
        }
    }

    /// The loss over `items`, whose [`documents`](Self::documents) have these scores.
    ///
    /// # Errors
    /// Those of the loss; [`Error::Invalid`] if it is a reward model's.
    pub(super) fn over(
        &self,
        items: &[&Comparison],
        scores: &Scores,
        reference: &[Reference],
    ) -> Result<Found> {
        match self {
            Self::Pairs(config) => over_pairs(config, scores, reference),
            Self::Unpaired(config) => over_answers(config, items, scores, reference),
            Self::Scores(_) => Err(Error::invalid("a reward model's loss is over its scores")),
        }
    }
}

fn over_pairs(
    config: &PreferenceConfig,
    scores: &Scores,
    reference: &[Reference],
) -> Result<Found> {
    let answer = |number: usize| Answer {
        log_probs: log_probs(&scores.stats[number]),
        reference: reference[number].clone(),
        log_sum_sq_probs: scores.log_sums_of_squares[number].clone(),
    };
    let pair = |at: usize| Pair {
        chosen: answer(2 * at),
        rejected: answer(2 * at + 1),
        prompt_log_probs: Vec::new(),
    };
    let pairs: Vec<Pair> = (0..scores.stats.len() / 2).map(pair).collect();
    let found = config.loss(&pairs)?;
    let slopes = found.gradient.into_iter().flat_map(|pair| [pair.chosen, pair.rejected]);
    Ok(Found { loss: found.loss, slopes: slopes.collect(), metrics: found.metrics })
}

fn over_answers(
    config: &UnpairedConfig,
    items: &[&Comparison],
    scores: &Scores,
    reference: &[Reference],
) -> Result<Found> {
    let referred = |number: usize| match &reference[number] {
        Reference::Sum(sum) => *sum,
        Reference::Tokens(each) => each.iter().sum(),
        Reference::None => 0.0,
    };
    let of_item = |(number, item): (usize, &&Comparison)| LabelledAnswer {
        log_probs: log_probs(&scores.stats[number]),
        reference: referred(number),
        is_desirable: item.is_desirable,
    };
    let answers: Vec<_> = items.iter().enumerate().map(of_item).collect();
    let mismatched = (items.len()..scores.stats.len())
        .map(|at| MismatchedAnswer { policy: sum(&scores.stats[at]), reference: referred(at) });
    let found = config.loss(&answers, &mismatched.collect::<Vec<_>>())?;
    let mut slopes = found.gradient;
    slopes.resize(scores.stats.len(), Vec::new());
    Ok(Found { loss: found.loss, slopes, metrics: found.metrics })
}

fn log_probs(stats: &[TokenStats]) -> Vec<f64> {
    stats.iter().map(|stats| f64::from(stats.log_prob)).collect()
}

/// The prompt of one document with the answer of another.
fn joined(prompt: &TokenSequence, answer: &TokenSequence) -> TokenSequence {
    let begins = |document: &TokenSequence| {
        document.loss_mask.iter().position(|learnt| *learnt).unwrap_or(document.ids.len())
    };
    let (end, start) = (begins(prompt), begins(answer));
    let mut whole = TokenSequence::default();
    whole.extend(&prompt.ids[..end], false);
    whole.extend(&answer.ids[start..], true);
    whole
}
