//! Counting of what a data set does not use, by the reason.

use std::collections::BTreeMap;

use super::dataset::Unused;

/// Counts by reason.
#[derive(Default)]
pub(super) struct Tally(BTreeMap<String, Unused>);

impl Tally {
    /// Counts one thing; of each reason, `what` is kept of the first.
    pub(super) fn add(&mut self, what: impl FnOnce() -> String, reason: impl Into<String>) {
        let unused = |reason: &String| Unused { what: what(), count: 0, reason: reason.clone() };
        self.entry(reason.into(), unused).count += 1;
    }

    /// Adds the counts of another data set.
    pub(super) fn merge(&mut self, all: Vec<Unused>) {
        for Unused { what, count, reason } in all {
            let unused = |reason: &String| Unused { what, count: 0, reason: reason.clone() };
            self.entry(reason, unused).count += count;
        }
    }

    fn entry(&mut self, reason: String, new: impl FnOnce(&String) -> Unused) -> &mut Unused {
        self.0.entry(reason).or_insert_with_key(new)
    }

    /// The counts, ordered by reason.
    pub(super) fn into_vec(self) -> Vec<Unused> {
        self.0.into_values().collect()
    }
}
