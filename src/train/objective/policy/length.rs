//! The lengths of completions: DAPO's soft penalty (arXiv 2503.14476, equation 13) and metrics.

use serde::{Deserialize, Serialize};

use crate::error::{Error, Result};
use crate::train::objective::metrics::{Metrics, mean, metrics, share};

/// A reward that falls from 0 to -1 over the last tokens before the greatest length.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SoftOverlong {
    /// Length from which the reward is -1.
    pub max_completion_len: usize,
    /// Over how many tokens before that it falls.
    pub soft_punish_cache: usize,
}

impl SoftOverlong {
    /// Checks the ranges.
    ///
    /// # Errors
    /// [`Error::Invalid`] with both values.
    pub fn validate(&self) -> Result<()> {
        let (max, cache) = (self.max_completion_len, self.soft_punish_cache);
        if max == 0 {
            return Err(Error::invalid("max_completion_len is 0; allowed: at least 1"));
        }
        if cache <= max {
            return Ok(());
        }
        let allowed = format!("allowed: at most max_completion_len, {max}");
        Err(Error::invalid(format!("soft_punish_cache is {cache}; {allowed}")))
    }

    /// The reward of a completion of `len` tokens.
    pub fn reward(&self, len: usize) -> f64 {
        let free = self.max_completion_len.saturating_sub(self.soft_punish_cache);
        if len <= free {
            0.0
        } else if len <= self.max_completion_len {
            -((len - free) as f64) / self.soft_punish_cache as f64
        } else {
            -1.0
        }
    }
}

/// `completions/{mean,min,max}_length`, the same with `_terminated_length` for those that were not cut off
/// (0 if all were), and `completions/clipped_ratio`; of each completion its length and whether it was cut
/// off. Names are TRL's.
pub fn length_metrics(completions: &[(usize, bool)]) -> Metrics {
    let all: Vec<f64> = completions.iter().map(|(len, _)| *len as f64).collect();
    let ended = completions.iter().filter(|(_, is_truncated)| !is_truncated);
    let mut ended: Vec<f64> = ended.map(|(len, _)| *len as f64).collect();
    if ended.is_empty() {
        ended.push(0.0);
    }
    let min = |lens: &[f64]| lens.iter().copied().fold(f64::INFINITY, f64::min);
    let max = |lens: &[f64]| lens.iter().copied().fold(0.0, f64::max);
    metrics([
        ("completions/mean_length", mean(all.iter().copied())),
        ("completions/min_length", min(&all)),
        ("completions/max_length", max(&all)),
        ("completions/mean_terminated_length", mean(ended.iter().copied())),
        ("completions/min_terminated_length", min(&ended)),
        ("completions/max_terminated_length", max(&ended)),
        ("completions/clipped_ratio", share(completions.iter().map(|(_, cut_off)| *cut_off))),
    ])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_penalty_falls_over_the_last_tokens() {
        let config = SoftOverlong { max_completion_len: 10, soft_punish_cache: 4 };
        let rewards: Vec<f64> = (5..12).map(|len| config.reward(len)).collect();
        assert_eq!(rewards, [0.0, 0.0, -0.25, -0.5, -0.75, -1.0, -1.0]);
        let hard = SoftOverlong { max_completion_len: 10, soft_punish_cache: 0 };
        assert_eq!((hard.reward(10), hard.reward(11)), (0.0, -1.0));
        assert!(config.validate().is_ok());
        assert!(SoftOverlong { soft_punish_cache: 11, ..config }.validate().is_err());
    }

    #[test]
    fn lengths_of_completions_that_ended_are_logged_apart() {
        let found = length_metrics(&[(3, false), (9, true), (5, false), (9, true)]);
        assert_eq!(found["completions/mean_length"], 6.5);
        assert_eq!(found["completions/clipped_ratio"], 0.5);
        assert_eq!(found["completions/mean_terminated_length"], 4.0);
        assert_eq!(found["completions/max_terminated_length"], 5.0);
        assert_eq!(length_metrics(&[(9, true)])["completions/min_terminated_length"], 0.0);
    }
}
