//! Logged quantities of an objective, by the names that TRL 1.16 logs them under.

use std::collections::BTreeMap;

/// Values by name.
pub type Metrics = BTreeMap<String, f64>;

/// Metrics of the given names and values.
pub(super) fn metrics<const N: usize>(values: [(&str, f64); N]) -> Metrics {
    values.into_iter().map(|(name, value)| (name.to_owned(), value)).collect()
}

/// The mean; NaN of nothing.
pub(in crate::train) fn mean(values: impl IntoIterator<Item = f64>) -> f64 {
    let add = |(sum, count): (f64, usize), value| (sum + value, count + 1);
    let (sum, count) = values.into_iter().fold((0.0, 0), add);
    sum / count as f64
}

/// The share of true values.
pub(super) fn share(values: impl IntoIterator<Item = bool>) -> f64 {
    mean(values.into_iter().map(|value| f64::from(u8::from(value))))
}
