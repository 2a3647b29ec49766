//! Negative log-likelihood as a part of a preference loss.

use super::answers::Pair;

/// The negative log-likelihood of the tokens of a step, whose mean is over all of them.
pub(super) struct Likelihood {
    pub loss: f64,
    /// The derivative with respect to each token's log-probability.
    pub slope: f64,
}

impl Likelihood {
    /// Of the chosen answers.
    pub fn of_chosen(pairs: &[Pair]) -> Self {
        Self::new(pairs.iter().map(|pair| pair.chosen.log_probs.as_slice()))
    }

    /// Of the chosen answers and the prompts before them.
    pub fn of_chosen_rows(pairs: &[Pair]) -> Self {
        let prompts = pairs.iter().map(|pair| pair.prompt_log_probs.as_slice());
        Self::new(prompts.chain(pairs.iter().map(|pair| pair.chosen.log_probs.as_slice())))
    }

    fn new<'a>(lists: impl Iterator<Item = &'a [f64]>) -> Self {
        let (mut sum, mut count) = (0.0, 0);
        for list in lists {
            sum += list.iter().sum::<f64>();
            count += list.len();
        }
        Self { loss: -sum / count as f64, slope: -1.0 / count as f64 }
    }
}
