//! The loss of a reward model over pairs: the reward of an answer is the score head's number at the last token of prompt
//! and answer, so texts and images are rated alike.

use super::comparisons::Comparison;
use super::losses::Found;
use crate::error::Result;
use crate::train::objective::reward_model::{RewardModelConfig, ScorePair};

/// The loss of `items`, whose documents have the scores `values`.
///
/// # Errors
/// Those of the loss.
pub(super) fn over_scores(
    config: &RewardModelConfig,
    items: &[&Comparison],
    values: &[Vec<f64>],
) -> Result<Found> {
    let pair = |(item, of_pair): (&&Comparison, &[Vec<f64>])| ScorePair {
        chosen: of_pair[0][0],
        rejected: of_pair[1][0],
        margin: item.margin,
    };
    let pairs: Vec<ScorePair> = items.iter().zip(values.chunks(2)).map(pair).collect();
    let found = config.loss(&pairs)?;
    let slopes = found.gradient.iter().flat_map(|pair| [pair.chosen, pair.rejected]);
    let slopes = slopes.map(|slope| vec![slope]).collect();
    Ok(Found { loss: found.loss, slopes, metrics: found.metrics })
}
