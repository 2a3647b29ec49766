//! Scores with their number of items and 95 % intervals.

use std::collections::BTreeMap;

use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;
use serde::Serialize;

/// The two-sided 95 % quantile of the normal distribution.
const Z: f64 = 1.959_963_984_540_054;

/// Resamples of a bootstrap interval.
const RESAMPLES: usize = 1000;

/// Seed of the resampling, so that reports are reproducible.
const SEED: u64 = 0;

/// The method behind a 95 % interval.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum IntervalMethod {
    /// Wilson's score interval of a share; holds its level even at 0 and 1.
    Wilson,
    /// Percentiles of the means of 1000 resamples with replacement.
    Bootstrap,
}

/// A measured value.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Score {
    /// The value; shares are in [0, 1].
    pub value: f64,
    /// The number of items.
    pub n: usize,
    /// The 95 % interval, low and high; `None` for a property of a whole set.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub interval: Option<[f64; 2]>,
    /// The method behind the interval.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub interval_method: Option<IntervalMethod>,
}

impl Score {
    /// The share of true values; 0 if there are none.
    pub fn share(right: impl IntoIterator<Item = bool>) -> Self {
        let (mut count, mut n) = (0, 0);
        for right in right {
            count += usize::from(right);
            n += 1;
        }
        let value = if n == 0 { 0.0 } else { count as f64 / n as f64 };
        let method = Some(IntervalMethod::Wilson);
        Self { value, n, interval: Some(wilson(value, n)), interval_method: method }
    }

    /// The share of true values among items in dependent groups, such as the questions about one
    /// image; each item comes with the name of its group.
    ///
    /// The value is that of [`share`](Self::share), the interval that of [`ratio`](Self::ratio). If
    /// all items are right or all wrong, resampling cannot vary, and the interval is Wilson's for
    /// one item per group.
    pub fn share_in_groups<'a>(items: impl IntoIterator<Item = (bool, &'a str)>) -> Self {
        let values = items.into_iter().map(|(right, group)| (f64::from(u8::from(right)), group));
        let (groups, all) = grouped(values);
        let right: f64 = groups.iter().map(|(sum, _)| sum).sum();
        if groups.len() == all {
            return Self::share(groups.iter().map(|(sum, _)| *sum > 0.0));
        }
        if right == 0.0 || right == all as f64 {
            let share = if right == 0.0 { 0.0 } else { 1.0 };
            let interval = Some(wilson(share, groups.len()));
            return Self { interval, ..Self::share((0..all).map(|_| right > 0.0)) };
        }
        Self::ratio(&groups)
    }

    /// The mean of values in dependent groups; see [`ratio`](Self::ratio).
    pub fn mean_in_groups<'a>(items: impl IntoIterator<Item = (f64, &'a str)>) -> Self {
        Self::ratio(&grouped(items.into_iter()).0)
    }

    /// The mean of `values`; 0 if there are none.
    pub fn mean(values: &[f64]) -> Self {
        Self::ratio(&values.iter().map(|value| (*value, 1)).collect::<Vec<_>>())
    }

    /// The mean over all items of several groups, each given as its sum and its number of items. The interval
    /// comes from resampling groups, so items of one group may depend on each other.
    pub fn ratio(groups: &[(f64, usize)]) -> Self {
        let interval = (groups.len() > 1).then(|| bootstrap(groups));
        Self {
            value: mean(groups.iter().copied()),
            n: groups.iter().map(|(_, n)| n).sum(),
            interval,
            interval_method: interval.map(|_| IntervalMethod::Bootstrap),
        }
    }

    /// A property of a whole set of `n` items.
    pub fn whole(value: f64, n: usize) -> Self {
        Self { value, n, interval: None, interval_method: None }
    }
}

impl std::fmt::Display for Score {
    /// Writes the value with its interval and N: `0.912 [0.893, 0.928] (N = 1000)`.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{:.3}", self.value)?;
        if let Some([low, high]) = self.interval {
            write!(f, " [{low:.3}, {high:.3}]")?;
        }
        write!(f, " (N = {})", self.n)
    }
}

/// The sum and the number of values of each group, and the number of all values.
fn grouped<'a>(items: impl Iterator<Item = (f64, &'a str)>) -> (Vec<(f64, usize)>, usize) {
    let mut groups: BTreeMap<&str, (f64, usize)> = BTreeMap::new();
    let mut all = 0;
    for (value, group) in items {
        let (sum, count) = groups.entry(group).or_default();
        (*sum, *count) = (*sum + value, *count + 1);
        all += 1;
    }
    (groups.into_values().collect(), all)
}

fn mean(groups: impl Iterator<Item = (f64, usize)>) -> f64 {
    let (sum, n) = groups.fold((0.0, 0), |(sum, n), (value, count)| (sum + value, n + count));
    if n == 0 { 0.0 } else { sum / n as f64 }
}

/// The interval of Wilson 1927; [0, 1] if nothing was measured.
fn wilson(share: f64, n: usize) -> [f64; 2] {
    if n == 0 {
        return [0.0, 1.0];
    }
    let n = n as f64;
    let center = share + Z * Z / (2.0 * n);
    let spread = Z * (share * (1.0 - share) / n + Z * Z / (4.0 * n * n)).sqrt();
    let scale = 1.0 + Z * Z / n;
    // Exact at the ends, which rounding would miss.
    let low = if share == 0.0 { 0.0 } else { (center - spread) / scale };
    let high = if share == 1.0 { 1.0 } else { (center + spread) / scale };
    [low, high]
}

fn bootstrap(groups: &[(f64, usize)]) -> [f64; 2] {
    let mut rng = ChaCha8Rng::seed_from_u64(SEED);
    let n = groups.len();
    let mut means: Vec<f64> =
        (0..RESAMPLES).map(|_| mean((0..n).map(|_| groups[rng.random_range(0..n)]))).collect();
    means.sort_by(f64::total_cmp);
    let at = |quantile: f64| means[((RESAMPLES - 1) as f64 * quantile).round() as usize];
    [at(0.025), at(0.975)]
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;

    fn close(a: [f64; 2], b: [f64; 2]) -> bool {
        a.iter().zip(b).all(|(a, b)| (a - b).abs() < 5e-4)
    }

    /// Reference: the worked values of Newcombe 1998, table I (method 3).
    #[test]
    fn wilson_intervals_match_published_values() {
        assert!(close(wilson(81.0 / 263.0, 263), [0.2553, 0.3662]));
        assert!(close(wilson(15.0 / 148.0, 148), [0.0624, 0.1605]));
        assert!(close(wilson(0.0, 20), [0.0, 0.1611]));
        assert!(close(wilson(1.0 / 29.0, 29), [0.0061, 0.1718]));
    }

    #[test]
    fn bootstrap_intervals_shrink_with_the_root_of_n() {
        let values = |n: usize| (0..n).map(|i| (i % 10) as f64).collect::<Vec<_>>();
        let width = |n| {
            let [low, high] = Score::mean(&values(n)).interval.unwrap();
            assert!(low < 4.5 && 4.5 < high);
            high - low
        };
        let ratio = width(100) / width(10_000);
        assert!((8.0..12.0).contains(&ratio), "{ratio}");
        assert_eq!(Score::mean(&values(50)), Score::mean(&values(50)));
    }

    #[test]
    fn scores_without_items_are_zero_with_n_of_zero() {
        assert_eq!(Score::share([]).to_string(), "0.000 [0.000, 1.000] (N = 0)");
        assert_eq!(Score::mean(&[]).interval, None);
        assert_eq!(Score::share([true, true, false, true]).value, 0.75);
    }
}
