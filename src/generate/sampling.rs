//! From logits to one id: the logits processors of the original release, in its order.
//!
//! Allow-list, repetition penalty, temperature, top-k, top-p, softmax, draw. A hidden id has the
//! logit -inf. Order and rules are those of `chameleon/inference/` of the original release (Hugging
//! Face's `LogitsProcessor` semantics); it has no top-k, which is applied where Hugging Face does.

use rand::RngExt;
use rand_chacha::ChaCha8Rng;

use super::sampling_config::SamplingConfig;
use crate::error::{Error, Result};

/// SHIM
#[derive(Clone, Debug)]
pub struct Logits {
    /// a
    pub first: u32,
    /// b
    pub values: Vec<f32>,
}

/// Hides every id for which `allows` is false.
pub fn allow_only(logits: &mut Logits, allows: impl Fn(u32) -> bool) {
    for (id, logit) in (logits.first..).zip(&mut logits.values) {
        if !allows(id) {
            *logit = f32::NEG_INFINITY;
        }
    }
}

/// Lowers the logit of each id in `row`, once however often it occurs: negative logits are
/// multiplied by `penalty`, others divided by it. Ids beyond the logits are ignored.
pub fn repetition_penalty(logits: &mut [f32], row: &[u32], penalty: f32) {
    if penalty == 1.0 {
        return;
    }
    let mut ids = row.to_vec();
    ids.sort_unstable();
    ids.dedup();
    for id in ids {
        if let Some(logit) = logits.get_mut(id as usize) {
            *logit = if *logit < 0.0 { *logit * penalty } else { *logit / penalty };
        }
    }
}

/// Divides the logits by `temperature`.
pub fn temperature(logits: &mut [f32], temperature: f32) {
    for logit in logits {
        *logit /= temperature;
    }
}

/// Hides all ids below the `k`-th highest logit; ties with it stay.
pub fn top_k(logits: &mut [f32], k: usize) {
    let mut order = visible(logits);
    if k == 0 || k >= order.len() {
        return;
    }
    let (_, &mut kth, _) = order
        .select_nth_unstable_by(k - 1, |&a, &b| logits[b as usize].total_cmp(&logits[a as usize]));
    let lowest = logits[kth as usize];
    for logit in logits {
        if *logit < lowest {
            *logit = f32::NEG_INFINITY;
        }
    }
}

/// Hides the least likely ids whose probabilities add up to at most `1 - p`; the most likely id
/// always stays. The sums are in f64.
pub fn top_p(logits: &mut [f32], p: f32) {
    if p >= 1.0 {
        return;
    }
    let mut order = visible(logits);
    order.sort_unstable_by(|&a, &b| logits[a as usize].total_cmp(&logits[b as usize]));
    let Some((&most_likely, others)) = order.split_last() else { return };
    let highest = logits[most_likely as usize];
    let weight = |id: u32| f64::from(logits[id as usize] - highest).exp();
    let total: f64 = order.iter().map(|&id| weight(id)).sum();
    let mut cumulative = 0.0;
    let dropped = others
        .iter()
        .take_while(|&&id| {
            cumulative += weight(id) / total;
            cumulative <= 1.0 - f64::from(p)
        })
        .count();
    for &id in &others[..dropped] {
        logits[id as usize] = f32::NEG_INFINITY;
    }
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

/// The id with the highest logit, the first one of ties; `None` if every id is hidden.
pub fn argmax(logits: &[f32]) -> Option<u32> {
    let mut best: Option<(u32, f32)> = None;
    for (id, &logit) in (0..).zip(logits) {
        if logit > best.map_or(f32::NEG_INFINITY, |(_, highest)| highest) {
            best = Some((id, logit));
        }
    }
    best.map(|(id, _)| id)
}

/// An id drawn by the softmax of the logits, with one draw from `rng`; `None` if every id is hidden.
pub fn multinomial(logits: &[f32], rng: &mut ChaCha8Rng) -> Option<u32> {
    let at: f64 = rng.random();
    let last = (0..).zip(logits).filter(|(_, l)| l.is_finite()).last().map(|(id, _)| id)?;
    let mut cumulative = 0.0;
    for (id, probability) in (0..).zip(softmax(logits)) {
        cumulative += probability;
        if at < cumulative {
            return Some(id);
        }
    }
    // The sum of all probabilities may miss 1 by a rounding error.
    Some(last)
}

/// Applies the processors of `config` in place; the repetition penalty is for the ids in `row`.
pub fn process(logits: &mut [f32], row: &[u32], config: &SamplingConfig) {
    repetition_penalty(logits, row, config.repetition_penalty);
    temperature(logits, config.temperature);
    if let Some(k) = config.top_k {
        top_k(logits, k);
    }
    top_p(logits, config.top_p);
}

/// Chooses one of the ids that are not hidden: the most likely one if greedy, else with one draw
/// from `rng`.
///
/// # Errors
/// If a logit is NaN or infinite, or every id is hidden.
pub fn choose(
    logits: &mut Logits,
    row: &[u32],
    config: &SamplingConfig,
    seed: u64,
    position: u64,
) -> Result<u32> {
    use rand::SeedableRng;
    let mut rng = ChaCha8Rng::seed_from_u64(seed.wrapping_mul(77).wrapping_add(position));
    let first = logits.first;
    let logits = &mut logits.values;
    if logits.iter().any(|logit| logit.is_nan() || *logit == f32::INFINITY) {
        return Err(Error::invalid("the model returned logits that are not finite"));
    }
    process(logits, row, config);
    let id = if config.greedy { argmax(logits) } else { multinomial(logits, &mut rng) };
    id.map(|id| id + first)
        .ok_or_else(|| Error::invalid("the model's logits leave no id to choose from"))
}

/// The ids that are not hidden.
fn visible(logits: &[f32]) -> Vec<u32> {
    (0..).zip(logits).filter(|(_, l)| **l > f32::NEG_INFINITY).map(|(id, _)| id).collect()
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests")]
mod tests {
    use rand::SeedableRng;

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
    fn top_k_keeps_ties_and_never_brings_hidden_ids_back() {
        let mut logits = [1.0, 3.0, 2.0, 2.0, HIDDEN];
        top_k(&mut logits, 2);
        assert_eq!(logits, [HIDDEN, 3.0, 2.0, 2.0, HIDDEN]);
        top_k(&mut logits, 100);
        assert_eq!(logits, [HIDDEN, 3.0, 2.0, 2.0, HIDDEN]);
    }

    #[test]
    fn top_p_keeps_at_least_one_id() {
        let mut logits = [0.0, 0.1, HIDDEN, 0.0];
        top_p(&mut logits, 1e-6);
        assert_eq!(logits, [HIDDEN, 0.1, HIDDEN, HIDDEN]);
    }

    #[test]
    fn the_repetition_penalty_applies_once_and_to_ids_of_the_row_only() {
        let mut logits = [2.0, -2.0, 2.0];
        repetition_penalty(&mut logits, &[0, 1, 1, 0, 77], 2.0);
        assert_eq!(logits, [1.0, -4.0, 2.0]);
    }

    #[test]
    fn draws_follow_the_probabilities() {
        let logits = [HIDDEN, 0.0, 3.0_f32.ln(), HIDDEN];
        let mut rng = ChaCha8Rng::seed_from_u64(5);
        let mut counts = [0; 4];
        for _ in 0..4000 {
            counts[multinomial(&logits, &mut rng).unwrap() as usize] += 1;
        }
        assert_eq!((counts[0], counts[3]), (0, 0));
        // Three standard deviations of a binomial with n = 4000, p = 0.25 are 82.
        assert!((1000 - 82..1000 + 82).contains(&counts[1]), "{counts:?}");
    }

    #[test]
    fn greedy_choice_leaves_the_random_stream_alone() {
        let (mut rng, mut same) = (ChaCha8Rng::seed_from_u64(1), ChaCha8Rng::seed_from_u64(1));
        let greedy = SamplingConfig { greedy: true, ..SamplingConfig::TEXT };
        choose(&mut [1.0, 2.0], &[], &greedy, &mut rng).unwrap();
        assert_eq!(rng.random::<u64>(), same.random::<u64>());
    }

    #[test]
    fn useless_logits_are_errors() {
        let mut rng = ChaCha8Rng::seed_from_u64(1);
        for mut logits in [[f32::NAN, 1.0], [f32::INFINITY, 1.0], [HIDDEN, HIDDEN]] {
            assert!(choose(&mut logits, &[], &SamplingConfig::TEXT, &mut rng).is_err());
        }
    }
}
