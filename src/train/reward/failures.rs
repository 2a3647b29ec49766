//! What goes wrong with rewards: named kinds, counted.

use std::collections::BTreeMap;
use std::fmt;

use serde::{Deserialize, Serialize};

use crate::report::Omission;

/// Kinds of failures of rewards.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum FailureKind {
    /// The program could not be started again.
    NotStarted,
    /// The program ended with an error.
    Crashed,
    /// The program ended, without an error, while it was still needed.
    EndedEarly,
    /// The program closed its output but did not end.
    ClosedOutput,
    /// The program did not answer in time.
    TimedOut,
    /// A line of the program was not an answer.
    NotANumber,
    /// An answer was infinite or not a number.
    NotFinite,
    /// The program wrote more lines than there were roll-outs.
    SurplusLine,
    /// An answer was for a roll-out that is not of the batch or was answered before.
    WrongId,
    /// A line of the program was far too long.
    LongLine,
    /// The program wrote much to stderr in one batch; no reward is lost by that.
    Noisy,
    /// A column of the sample has a value that the reward cannot use.
    BadField,
    /// Prompt and answer are longer than the reward model's context.
    TooLong,
    /// The answer ends within an image, which a reward model cannot rate.
    Incomplete,
}

impl fmt::Display for FailureKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::NotStarted => "not started",
            Self::Crashed => "crashed",
            Self::EndedEarly => "ended early",
            Self::ClosedOutput => "closed its output",
            Self::TimedOut => "timed out",
            Self::NotANumber => "not a number",
            Self::NotFinite => "not finite",
            Self::SurplusLine => "too many lines",
            Self::WrongId => "wrong id",
            Self::LongLine => "line too long",
            Self::Noisy => "much on stderr",
            Self::BadField => "unusable column",
            Self::TooLong => "too long",
            Self::Incomplete => "incomplete answer",
        })
    }
}

/// How often a kind of failure occurred.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct FailureCount {
    /// Failures.
    pub count: u64,
    /// Roll-outs that have no reward because of them.
    pub rollouts: u64,
    /// The last one in words.
    pub last: String,
}

/// The failures of one reward, by kind.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Failures(BTreeMap<FailureKind, FailureCount>);

impl Failures {
    /// Counts a failure that left `rollouts` roll-outs without a reward.
    pub fn add(&mut self, kind: FailureKind, rollouts: u64, message: impl Into<String>) {
        let entry = self.0.entry(kind).or_default();
        entry.count += 1;
        entry.rollouts += rollouts;
        entry.last = message.into();
    }

    /// Adds those that came after these.
    pub fn extend(&mut self, later: &Self) {
        for (kind, entry) in &later.0 {
            let sum = self.0.entry(*kind).or_default();
            sum.count += entry.count;
            sum.rollouts += entry.rollouts;
            sum.last.clone_from(&entry.last);
        }
    }

    /// Whether nothing has failed.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// How often this kind occurred.
    pub fn count(&self, kind: FailureKind) -> u64 {
        self.0.get(&kind).map_or(0, |entry| entry.count)
    }

    /// Failures of all kinds.
    pub fn total(&self) -> u64 {
        self.0.values().map(|entry| entry.count).sum()
    }

    /// The kinds that occurred.
    pub fn iter(&self) -> impl Iterator<Item = (FailureKind, &FailureCount)> {
        self.0.iter().map(|(kind, entry)| (*kind, entry))
    }

    /// A line for each kind that occurred, for the report of the run; `name` is the reward's.
    pub fn omissions(&self, name: &str) -> Vec<Omission> {
        let line = |(kind, entry): (FailureKind, &FailureCount)| {
            let times = if entry.count == 1 { "failure" } else { "failures" };
            let without = match entry.rollouts {
                0 => "no reward was lost".to_owned(),
                1 => "1 roll-out has no reward".to_owned(),
                several => format!("{several} roll-outs have no reward"),
            };
            Omission {
                source: format!("reward {name}"),
                kind: "reward failures".to_owned(),
                count: entry.count,
                of: None,
                text: format!("{} {times} ({kind}); {without}", entry.count),
                examples: vec![entry.last.clone()],
            }
        };
        self.iter().map(line).collect()
    }
}

/// A failure of a program, before its reward has counted it.
#[derive(Debug, PartialEq)]
pub(super) struct Fault {
    pub(super) kind: FailureKind,
    /// What happened, as a sentence about the program: `did not answer`.
    pub(super) message: String,
}

impl Fault {
    pub(super) fn new(kind: FailureKind, message: impl Into<String>) -> Self {
        Self { kind, message: message.into() }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;

    #[test]
    fn failures_are_counted_by_kind_and_reported_in_words() {
        let mut failures = Failures::default();
        failures.add(FailureKind::Crashed, 3, "first");
        failures.add(FailureKind::Crashed, 5, "second");
        failures.add(FailureKind::Noisy, 0, "loud");
        assert_eq!((failures.total(), failures.count(FailureKind::Crashed)), (3, 2));
        let mut earlier = Failures::default();
        earlier.add(FailureKind::Crashed, 3, "first");
        let mut later = Failures::default();
        later.add(FailureKind::Crashed, 5, "second");
        later.add(FailureKind::Noisy, 0, "loud");
        earlier.extend(&later);
        assert_eq!(earlier, failures);
        let lines: Vec<String> =
            failures.omissions("judge").iter().map(ToString::to_string).collect();
        assert_eq!(
            lines,
            [
                "reward judge: 2 failures (crashed); 8 roll-outs have no reward, e.g. second",
                "reward judge: 1 failure (much on stderr); no reward was lost: loud",
            ]
        );
        let saved = serde_json::to_string(&failures).unwrap();
        assert!(saved.starts_with(r#"{"crashed":{"count":2,"rollouts":8"#), "{saved}");
        assert_eq!(serde_json::from_str::<Failures>(&saved).unwrap(), failures);
    }
}
