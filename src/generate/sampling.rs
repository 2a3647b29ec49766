//! From logits to one id: a pure function of logits, ids so far, settings, seed and position.
//!
//! Order: guidance (mixed before), allow-list, repetition penalty, temperature, top-k, top-p, min-p, then the
//! highest sum of logit and noise. Rules and order up to top-p are those of `chameleon/inference/` of the
//! original release (Hugging Face's `LogitsProcessor` semantics); it has no top-k and min-p, which are applied
//! where Hugging Face does. A hidden id has the logit -inf.

use super::distribution::{Distribution, Logits};
use super::sampling_config::SamplingConfig;
use crate::error::Result;

/// The id at `position`, counted from the request's first new id: drawn by the settings `config` with the noise
/// of `seed` there, or the most likely one if they are greedy. The repetition penalty is for the ids in `row`.
///
/// # Errors
/// If a logit is NaN or infinite, or every id is hidden.
///
/// ```
/// use calumma::generate::{Logits, SamplingConfig, sampling::choose};
/// let logits = Logits::new(100, vec![0.0, 3.0, f32::NEG_INFINITY]);
/// let id = choose(&logits, &[], &SamplingConfig::TEXT, 42, 0)?;
/// assert_eq!(id, choose(&logits, &[], &SamplingConfig::TEXT, 42, 0)?);
/// let greedy = SamplingConfig { greedy: true, ..SamplingConfig::TEXT };
/// assert_eq!(choose(&logits, &[], &greedy, 42, 0)?, 101);
/// # Ok::<(), calumma::Error>(())
/// ```
pub fn choose(
    logits: &Logits,
    row: &[u32],
    config: &SamplingConfig,
    seed: u64,
    position: usize,
) -> Result<u32> {
    Ok(Distribution::new(logits, row, config)?.draw(seed, position))
}

/// The softmax of `logits`, in f64; hidden ids have probability 0.
pub fn softmax(logits: &[f32]) -> Vec<f64> {
    let highest = logits.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    let mut weights: Vec<f64> =
        logits.iter().map(|&logit| f64::from(logit - highest).exp()).collect();
    let total: f64 = weights.iter().sum();
    weights.iter_mut().for_each(|weight| *weight /= total);
    weights
}

/// The natural logarithm of the softmax of `logits` at `id`, in f64.
pub fn log_probability(logits: &[f32], id: u32) -> f64 {
    let highest = logits.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    let sum: f64 = logits.iter().map(|&logit| f64::from(logit - highest).exp()).sum();
    f64::from(logits[id as usize] - highest) - sum.ln()
}

/// The index of the highest logit, the first one of ties; `None` if every id is hidden.
pub fn argmax(logits: &[f32]) -> Option<u32> {
    let mut best: Option<(u32, f32)> = None;
    for (id, &logit) in (0..).zip(logits) {
        if logit > best.map_or(f32::NEG_INFINITY, |(_, highest)| highest) {
            best = Some((id, logit));
        }
    }
    best.map(|(id, _)| id)
}

#[cfg(test)]
mod tests {
    use super::*;

    const HIDDEN: f32 = f32::NEG_INFINITY;

    #[test]
    fn log_probabilities_sum_to_one_however_large_the_logits() {
        let logits = [1e4, 1e4 - 1.0, -3e4];
        let sum: f64 = (0..3).map(|id| log_probability(&logits, id).exp()).sum();
        assert!((sum - 1.0).abs() < 1e-9, "{sum}");
        assert!((log_probability(&[0.0; 8], 3) + 8f64.ln()).abs() < 1e-12);
    }

    #[test]
    fn argmax_takes_the_first_of_equals_and_nothing_from_nothing() {
        assert_eq!(argmax(&[HIDDEN, 1.0, 3.0, 3.0]), Some(2));
        assert_eq!(argmax(&[HIDDEN, HIDDEN]), None);
    }

    #[test]
    fn useless_logits_are_errors() {
        for values in [[f32::NAN, 1.0], [f32::INFINITY, 1.0], [HIDDEN, HIDDEN]] {
            for greedy in [false, true] {
                let config = SamplingConfig { greedy, ..SamplingConfig::TEXT };
                assert!(choose(&Logits::new(0, values.to_vec()), &[], &config, 1, 0).is_err());
            }
        }
    }

    #[test]
    fn hidden_ids_may_have_any_logit_before() {
        let mut logits = Logits::new(10, vec![f32::NAN, 1.0, f32::INFINITY]);
        logits.allow_only(|id| id == 11);
        assert_eq!(choose(&logits, &[], &SamplingConfig::TEXT, 1, 0).ok(), Some(11));
    }

    #[test]
    fn a_draw_depends_on_seed_and_position_and_on_nothing_else() {
        let logits = Logits::new(5, (0..64).map(|id| (id % 7) as f32 / 3.0).collect());
        let draws = |seed, shift: usize| -> Vec<Option<u32>> {
            let draw = |at| choose(&logits, &[], &SamplingConfig::IMAGE, seed, at + shift).ok();
            (0..32).map(draw).collect()
        };
        assert_eq!(draws(3, 0), draws(3, 0));
        assert_eq!(draws(3, 0)[8..], draws(3, 8)[..24]);
        assert_ne!(draws(3, 0), draws(4, 0));
        assert_ne!(draws(3, 0), draws(3, 1));
    }

    #[test]
    fn hiding_an_id_that_is_not_drawn_changes_no_draw() {
        let all = Logits::new(0, vec![0.0; 16]);
        let plain = SamplingConfig { temperature: 1.0, top_p: 1.0, ..SamplingConfig::IMAGE };
        for position in 0..64 {
            let drawn = choose(&all, &[], &plain, 1, position).ok();
            let mut fewer = all.clone();
            fewer.allow_only(|id| id % 2 == 0 || Some(id) == drawn);
            assert_eq!(choose(&fewer, &[], &plain, 1, position).ok(), drawn);
            let column = drawn.map(|id| Logits::new(id, vec![0.0]));
            assert_eq!(choose(&column.unwrap_or_default(), &[], &plain, 1, 0).ok(), drawn);
        }
    }
}
