//! Entries of benchmarks and their columns.

use std::collections::HashMap;

use serde_json::Value;

use crate::data::dataset::Fields;

/// An entry of a benchmark.
pub(super) trait Record: Send + Sync {
    /// Its name in messages, such as `question 42`.
    fn label(&self) -> String;

    /// Its columns.
    fn fields(&self) -> Fields;

    /// Path of its image relative to the image directory, or `None` if it has no image.
    fn image(&self) -> Option<String>;
}

/// The most frequent of several annotators' answers; the first of equally frequent ones.
pub(crate) fn most_frequent<T: AsRef<str>>(answers: &[T]) -> Option<&str> {
    let mut counts: HashMap<&str, usize> = HashMap::new();
    answers.iter().for_each(|answer| *counts.entry(answer.as_ref()).or_default() += 1);
    // `max_by_key` returns the last maximum, hence the reverse order.
    answers.iter().rev().map(AsRef::as_ref).max_by_key(|answer: &&str| counts[*answer])
}

/// Columns with the given names and values.
pub(super) fn columns<const N: usize>(columns: [(&str, Value); N]) -> Fields {
    columns.into_iter().map(|(name, value)| (name.to_owned(), value)).collect()
}
