//! The paired bootstrap: confidence interval and p-value of a difference of two means.
//!
//! With `s_g` the sum of the differences of group `g` and `n_g` its number of items, the difference
//! is `d = sum(s_g) / sum(n_g)`. A resample draws as many groups as there are, with replacement, and
//! gives `d*` by the same formula (Efron & Tibshirani 1993, An Introduction to the Bootstrap,
//! chapters 6 and 13); dependent items stay together in their group.
//!
//! - The 95 % interval is the percentile interval: the 2.5 % and the 97.5 % quantile of `d*`.
//! - The p-value is two-sided and comes from the same resamples shifted to the null hypothesis, under
//!   which they are centred at 0 (Efron & Tibshirani 1993, section 16.4):
//!   `p = (1 + #{|d* - d| >= |d|}) / (1 + resamples)`. Its one-sided half, `d* >= 2 d`, is the test of
//!   Berg-Kirkpatrick, Burkett & Klein 2012 (An Empirical Investigation of Statistical Significance
//!   in NLP). Adding one keeps it above zero (Davison & Hinkley 1997, Bootstrap Methods and their
//!   Application, chapter 4).
//!
//! Both are approximations for many groups: with 10 groups the interval is some 5 % too narrow.

use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;
use rayon::prelude::*;
use serde::Serialize;

/// Settings of the bootstrap.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct Resampling {
    /// Number of resamples.
    pub resamples: usize,
    /// Random seed; the result does not depend on the number of threads.
    pub seed: u64,
}

impl Default for Resampling {
    /// 10,000 resamples.
    fn default() -> Self {
        Self { resamples: 10_000, seed: 0 }
    }
}

/// A difference with its interval and p-value.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Difference {
    /// The mean of the differences over all items.
    pub value: f64,
    /// The 95 % interval, low and high.
    pub interval: [f64; 2],
    /// The two-sided p-value of no difference.
    pub p_value: f64,
}

/// The mean difference over `groups`, each given as the sum of its items' differences and their
/// number; `None` for fewer than two groups or without resamples.
pub fn paired(groups: &[(f64, usize)], resampling: Resampling) -> Option<Difference> {
    let Resampling { resamples, seed } = resampling;
    if groups.len() < 2 || resamples == 0 {
        return None;
    }
    let value = mean(groups.iter().copied());
    let mut means: Vec<f64> = (0..resamples as u64)
        .into_par_iter()
        .map(|stream| {
            let mut rng = ChaCha8Rng::seed_from_u64(seed);
            rng.set_stream(stream);
            mean(groups.iter().map(|_| groups[rng.random_range(0..groups.len())]))
        })
        .collect();
    // Tolerates rounding: sums in another order differ in their last bits.
    let largest = groups.iter().map(|(sum, _)| sum.abs()).fold(0.0, f64::max);
    let reached = value.abs() - 1e-12 * largest;
    let extreme = means.iter().filter(|mean| (*mean - value).abs() >= reached).count();
    means.sort_by(f64::total_cmp);
    let at = |quantile: f64| means[((resamples - 1) as f64 * quantile).round() as usize];
    let p_value = (1 + extreme) as f64 / (1 + resamples) as f64;
    Some(Difference { value, interval: [at(0.025), at(0.975)], p_value })
}

/// The mean over the items of all `groups`.
fn mean(groups: impl Iterator<Item = (f64, usize)>) -> f64 {
    let (sum, n) = groups.fold((0.0, 0), |(sum, n), (value, count)| (sum + value, n + count));
    sum / n as f64
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;

    fn normal(rng: &mut ChaCha8Rng) -> f64 {
        // Irwin & Hall: the sum of twelve uniform numbers, minus 6, has variance 1.
        (0..12).map(|_| rng.random::<f64>()).sum::<f64>() - 6.0
    }

    fn differences(seed: u64, n: usize, shift: f64) -> Vec<(f64, usize)> {
        let mut rng = ChaCha8Rng::seed_from_u64(seed);
        (0..n).map(|_| (shift + normal(&mut rng), 1)).collect()
    }

    #[test]
    fn intervals_are_as_wide_as_the_normal_approximation() {
        let groups = differences(1, 400, 0.3);
        let found = paired(&groups, Resampling::default()).unwrap();
        let n = groups.len() as f64;
        let mean = groups.iter().map(|(d, _)| d).sum::<f64>() / n;
        let variance = groups.iter().map(|(d, _)| (d - mean).powi(2)).sum::<f64>() / n;
        let half = 1.959_964 * (variance / n).sqrt();
        assert!((found.value - mean).abs() < 1e-12);
        for (found, normal) in found.interval.into_iter().zip([mean - half, mean + half]) {
            assert!((found - normal).abs() < 0.05 * half, "{found} instead of {normal}");
        }
        assert_eq!(paired(&groups, Resampling::default()).unwrap(), found);
        let other = paired(&groups, Resampling { seed: 1, ..Resampling::default() }).unwrap();
        assert_ne!(other.interval, found.interval);
    }

    #[test]
    fn intervals_cover_the_truth_and_p_values_are_uniform_under_the_null() {
        let resampling = Resampling { resamples: 1000, seed: 0 };
        let (mut covered, mut below_half, mut significant, repeats) = (0, 0, 0, 400);
        for seed in 0..repeats {
            let found = paired(&differences(1000 + seed, 60, 0.0), resampling).unwrap();
            covered += u32::from(found.interval[0] <= 0.0 && 0.0 <= found.interval[1]);
            below_half += u32::from(found.p_value < 0.5);
            significant += u32::from(found.p_value < 0.05);
        }
        // Three standard errors of 400 draws, and the percentile interval is narrow for 60 items.
        assert!((362..=394).contains(&covered), "{covered} of 400");
        assert!((170..=232).contains(&below_half), "{below_half} of 400");
        assert!((6..=38).contains(&significant), "{significant} of 400");
    }

    #[test]
    fn equal_runs_have_p_of_one_and_clear_differences_the_smallest() {
        let equal = paired(&[(0.0, 1); 50], Resampling::default()).unwrap();
        assert_eq!((equal.value, equal.interval, equal.p_value), (0.0, [0.0, 0.0], 1.0));
        let balanced: Vec<_> = (0..100).map(|i| (f64::from(i % 3 - 1) * 0.1, 1)).collect();
        assert!(paired(&balanced, Resampling::default()).unwrap().p_value > 0.5);
        let clear = paired(&differences(2, 100, 1.0), Resampling::default()).unwrap();
        assert_eq!(clear.p_value, 1.0 / 10_001.0);
        assert_eq!(paired(&[(1.0, 3)], Resampling::default()), None);
    }

    #[test]
    fn items_of_a_group_are_resampled_together() {
        let alone = differences(3, 50, 0.2);
        let fivefold: Vec<_> = alone.iter().map(|(d, _)| (5.0 * d, 5)).collect();
        let (one, five) = (
            paired(&alone, Resampling::default()).unwrap(),
            paired(&fivefold, Resampling::default()).unwrap(),
        );
        // Five equal items carry no more information than one.
        assert!((one.interval[0] - five.interval[0]).abs() < 1e-12);
        assert_eq!(one.p_value, five.p_value);
    }
}
