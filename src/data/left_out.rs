//! What is left out of a source, from its reader to the report: one account for all of it.
//!
//! ```text
//! reader    Counted: samples that cannot be read --+
//! renderer  samples that no document fits ---------+--> LeftOut --> Omission: what the verb says last,
//! reader    unused(): what belongs to no sample ---+                metrics.jsonl, report.html, results.json
//! packer    documents longer than a row -----------+
//! ```

use serde::{Deserialize, Serialize};

use super::dataset::{Dataset, Unused};
use crate::error::{Error, Result};
use crate::report::Omission;

/// Examples kept of each kind.
const LISTED: usize = 5;

/// Bad sample, which cannot be read or used.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct BadSample {
    /// Its index in the data set.
    pub index: usize,
    /// The reason, with file and member, row or line.
    pub reason: String,
}

/// Document that does not fit a row.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Misfit {
    /// File and line, row or member of its sample; may be empty.
    pub place: String,
    /// Its length in tokens.
    pub tokens: usize,
}

/// What is left out of a source; the counts are exact, of each kind only the first ones are listed.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct LeftOut {
    /// The source's name.
    pub source: String,
    /// Samples in the source, good and bad.
    pub samples: usize,
    /// Samples that cannot be read or rendered.
    #[serde(rename = "unreadable")]
    pub bad: u64,
    /// The first ones.
    pub bad_samples: Vec<BadSample>,
    /// Documents made so far, whether they fit a row or not.
    pub documents: u64,
    /// Tokens in a row.
    pub seq_len: usize,
    /// Documents longer than a row.
    pub too_long: u64,
    /// Documents of fewer than two tokens, so without anything to predict.
    pub too_short: u64,
    /// Documents whose end was cut off to fit a row.
    #[serde(skip_serializing_if = "is_zero")]
    pub cut: u64,
    /// Documents that hold nothing to learn once they are cut.
    #[serde(skip_serializing_if = "is_zero")]
    pub unlearnt: u64,
    /// The first documents that are too long or too short, or are not learnt once they are cut.
    pub misfits: Vec<Misfit>,
    /// What belongs to no sample.
    pub unused: Vec<Unused>,
}

fn is_zero(count: &u64) -> bool {
    *count == 0
}

impl LeftOut {
    /// Nothing left out of the `samples` samples of `source`.
    pub fn new(source: &str, samples: usize) -> Self {
        Self { source: source.to_owned(), samples, ..Self::default() }
    }

    /// What was left out of the first `samples` samples of `dataset`: those in `bad`, and its unused parts.
    pub fn of<'a>(
        dataset: &dyn Dataset,
        samples: usize,
        bad: impl IntoIterator<Item = &'a BadSample>,
    ) -> Self {
        let mut left_out = Self::new(dataset.name(), samples);
        left_out.unused = dataset.unused();
        bad.into_iter().for_each(|bad| left_out.add_bad(bad.clone()));
        left_out
    }

    /// Fails if more than a share of `tolerance` of the samples is bad; lists the first ones.
    ///
    /// # Errors
    /// [`Error::Invalid`] then.
    pub fn check(&self, tolerance: f64) -> Result<()> {
        let first = self.bad_samples.iter().map(|bad| bad.reason.as_str());
        let allowed = (tolerance * self.samples as f64, tolerance);
        refuse_too_many((&self.source, self.samples), (self.bad as usize, first), allowed)
    }

    /// Counts a bad sample.
    pub fn add_bad(&mut self, bad: BadSample) {
        self.bad += 1;
        if self.bad_samples.len() < LISTED {
            self.bad_samples.push(bad);
        }
    }

    /// Counts a document of `tokens` tokens; whether it fits a row of `seq_len`.
    pub(crate) fn fits(&mut self, place: &str, tokens: usize, seq_len: usize) -> bool {
        self.documents += 1;
        self.seq_len = seq_len;
        match tokens {
            0 | 1 => self.too_short += 1,
            _ if tokens > seq_len => self.too_long += 1,
            _ => return true,
        }
        self.list(place, tokens);
        false
    }

    /// Counts a document whose end was cut off; whether it stays, because something in it `is_learnt`.
    pub(super) fn cut(&mut self, place: &str, tokens: usize, is_learnt: bool) -> bool {
        match is_learnt {
            true => self.cut += 1,
            false => {
                self.unlearnt += 1;
                self.list(place, tokens);
            }
        }
        is_learnt
    }

    /// Lists a document that is left out, if it is among the first.
    fn list(&mut self, place: &str, tokens: usize) {
        let is_known = |known: &Misfit| known.place == place && known.tokens == tokens;
        if self.misfits.len() < LISTED && !self.misfits.iter().any(is_known) {
            self.misfits.push(Misfit { place: place.to_owned(), tokens });
        }
    }

    /// Adds the counts of `other`, which is of the same source.
    pub(super) fn add(&mut self, other: Self) {
        self.samples = self.samples.max(other.samples);
        self.bad += other.bad;
        self.documents += other.documents;
        self.seq_len = self.seq_len.max(other.seq_len);
        self.too_long += other.too_long;
        self.too_short += other.too_short;
        self.cut += other.cut;
        self.unlearnt += other.unlearnt;
        self.bad_samples.extend(other.bad_samples);
        self.bad_samples.truncate(LISTED);
        self.misfits.extend(other.misfits);
        self.misfits.truncate(LISTED);
        self.unused.extend(other.unused);
    }

    /// A line for each kind of what was left out; none if nothing was.
    pub fn omissions(&self) -> Vec<Omission> {
        let mut found = Vec::new();
        let mut put = |kind: &str, count: u64, of: u64, what: &str, fault: &str, examples| {
            if count > 0 {
                let is = if count == 1 { "is" } else { "are" };
                let among = if of > 0 { format!("{count} of {of}") } else { count.to_string() };
                found.push(Omission {
                    source: self.source.clone(),
                    kind: kind.to_owned(),
                    count,
                    of: (of > 0).then_some(of),
                    text: format!("{among} {what} {is} {fault}"),
                    examples,
                });
            }
        };
        let reasons = self.bad_samples.iter().map(|bad| bad.reason.clone()).collect();
        put("bad samples", self.bad, self.samples as u64, "samples", "bad", reasons);
        let row = self.seq_len;
        let fault = format!("longer than {row} tokens");
        let long = self.examples(|tokens| tokens > row);
        put("long documents", self.too_long, self.documents, "documents", &fault, long.clone());
        let fault = format!("not learnt, as nothing in the first {row} tokens counts for the loss");
        put("unlearnt documents", self.unlearnt, self.documents, "documents", &fault, long);
        let fault = format!("cut to {row} tokens");
        put("cut documents", self.cut, self.documents, "documents", &fault, Vec::new());
        let short = self.examples(|tokens| tokens < 2);
        let fault = "shorter than 2 tokens";
        put("short documents", self.too_short, self.documents, "documents", fault, short);
        found.extend(self.unused.iter().map(|unused| self.unused_part(unused)));
        found
    }

    /// The documents listed whose number of tokens is `wrong`.
    fn examples(&self, wrong: impl Fn(usize) -> bool) -> Vec<String> {
        let misfits = self.misfits.iter().filter(|misfit| wrong(misfit.tokens));
        misfits.map(ToString::to_string).collect()
    }

    fn unused_part(&self, Unused { what, count, reason }: &Unused) -> Omission {
        let text = match count {
            0 | 1 => format!("{what} is not used: {reason}"),
            _ => format!("{what} and {} more are not used: {reason}", count - 1),
        };
        Omission {
            source: self.source.clone(),
            kind: "unused parts".to_owned(),
            count: *count as u64,
            of: None,
            text,
            examples: Vec::new(),
        }
    }
}

impl std::fmt::Display for Misfit {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let place = if self.place.is_empty() { "a document" } else { &self.place };
        let s = if self.tokens == 1 { "" } else { "s" };
        write!(f, "{place} ({} token{s})", self.tokens)
    }
}

/// Fails if more than `allowed` of the `samples` samples of `name` are bad; lists the first ones of the
/// `count` reasons. `tolerance` is the share of them in the message.
pub(crate) fn refuse_too_many<'a>(
    (name, samples): (&str, usize),
    (count, reasons): (usize, impl Iterator<Item = &'a str>),
    (allowed, tolerance): (f64, f64),
) -> Result<()> {
    if count as f64 <= allowed {
        return Ok(());
    }
    let first: Vec<&str> = reasons.take(LISTED).collect();
    let percent = tolerance * 100.0;
    let are = if count == 1 { "is" } else { "are" };
    Err(Error::invalid(format!(
        "{name}: {count} of {samples} samples {are} bad, more than the allowed {percent} %; the first:\n  {}",
        first.join("\n  ")
    )))
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;

    fn lines(left_out: &LeftOut) -> Vec<String> {
        left_out.omissions().iter().map(ToString::to_string).collect()
    }

    #[test]
    fn every_kind_has_its_sentence_and_nothing_has_none() {
        let mut left_out = LeftOut::new("d.jsonl", 100);
        assert!(left_out.fits("d.jsonl: line 2", 5, 9) && lines(&left_out).is_empty());
        left_out.add_bad(BadSample { index: 4, reason: "d.jsonl: line 5: broken".into() });
        assert!(!left_out.fits("d.jsonl: line 1", 812, 9) && !left_out.fits("", 1, 9));
        left_out.unused = vec![Unused {
            what: "d.jsonl: d.npy".into(),
            count: 3,
            reason: "of unknown kind".into(),
        }];
        assert_eq!(
            lines(&left_out),
            [
                "d.jsonl: 1 of 100 samples is bad: d.jsonl: line 5: broken",
                "d.jsonl: 1 of 3 documents is longer than 9 tokens: d.jsonl: line 1 (812 tokens)",
                "d.jsonl: 1 of 3 documents is shorter than 2 tokens: a document (1 token)",
                "d.jsonl: d.npy and 2 more are not used: of unknown kind",
            ]
        );
        let saved = serde_json::to_string(&left_out).unwrap();
        assert_eq!(serde_json::from_str::<LeftOut>(&saved).unwrap(), left_out);
        assert_eq!(serde_json::from_str::<LeftOut>("{}").unwrap(), LeftOut::default());
    }

    #[test]
    fn documents_that_are_cut_are_counted_apart_from_those_with_nothing_left() {
        let mut left_out = LeftOut::new("d", 0);
        for number in 0..3 {
            assert!(left_out.fits("d: line 1", 9, 9));
            assert_eq!(left_out.cut("d: line 2", 12, number > 0), number > 0);
        }
        assert_eq!(
            lines(&left_out),
            [
                "d: 1 of 3 documents is not learnt, as nothing in the first 9 tokens counts for the loss: \
                 d: line 2 (12 tokens)",
                "d: 2 of 3 documents are cut to 9 tokens",
            ]
        );
        let before = serde_json::to_string(&LeftOut::default()).unwrap();
        assert!(!before.contains("cut") && !before.contains("unlearnt"), "{before}");
    }

    #[test]
    fn counts_are_exact_where_only_the_first_ones_are_listed() {
        let mut left_out = LeftOut::new("d", 0);
        for index in 0..20 {
            left_out.add_bad(BadSample { index, reason: index.to_string() });
            left_out.fits(&index.to_string(), 10 + index, 12);
        }
        left_out.add(left_out.clone());
        assert_eq!((left_out.bad, left_out.too_long, left_out.documents), (40, 34, 40));
        let [bad, long] = &lines(&left_out)[..] else { panic!("two lines") };
        assert_eq!(bad, "d: 40 samples are bad:\n  0\n  1\n  2\n  3\n  4");
        assert!(long.starts_with("d: 34 of 40 documents are longer than 12 tokens, e.g. 3 (13 "));
    }

    #[test]
    fn too_many_bad_samples_are_refused_with_the_first_ones_listed() {
        let bad = ["one", "two", "three", "four", "five", "six"];
        let refused = |allowed| refuse_too_many(("d", 9), (6, bad.into_iter()), (allowed, 0.5));
        refused(6.0).unwrap();
        let message = refused(5.0).unwrap_err().to_string();
        assert!(message.starts_with("d: 6 of 9 samples are bad, more than the allowed 50 %"));
        assert!(message.contains("\n  one\n") && message.ends_with("\n  five"), "{message}");
    }
}
