//! A caption with its references, the input of the caption metrics.

use std::collections::BTreeMap;

use super::{PtbTokenizer, words};
use crate::error::{Error, Result};

/// Length of the longest n-grams counted.
pub(super) const MAX_N: usize = 4;

/// The count of each n-gram of 1 to [`MAX_N`] words; ordered, so that sums over it are reproducible
/// to the last digit.
pub(super) type Ngrams<'a> = BTreeMap<&'a [&'a str], usize>;

/// A hypothesis and the references of its image, as tokens joined by single blanks.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Segment {
    hypothesis: String,
    references: Vec<String>,
}

impl Segment {
    /// A segment of tokenised texts.
    ///
    /// # Errors
    /// If there is no reference.
    pub fn new(hypothesis: impl Into<String>, references: Vec<String>) -> Result<Self> {
        let hypothesis = hypothesis.into();
        if references.is_empty() {
            let message = format!("the caption {hypothesis:?} has no reference");
            return Err(Error::invalid(message));
        }
        Ok(Self { hypothesis, references })
    }

    /// Segments of texts, tokenised as by the public scorers: all hypotheses as one file, all
    /// references as another.
    ///
    /// # Errors
    /// If the numbers differ or a hypothesis has no reference.
    pub fn tokenized<H: AsRef<str>, R: AsRef<str>>(
        tokenizer: &PtbTokenizer,
        hypotheses: &[H],
        references: &[Vec<R>],
    ) -> Result<Vec<Self>> {
        if hypotheses.len() != references.len() {
            return Err(Error::invalid(format!(
                "{} captions for {} lists of references",
                hypotheses.len(),
                references.len()
            )));
        }
        let all: Vec<&R> = references.iter().flatten().collect();
        let mut tokens = tokenizer.tokenize_lines(&all).into_iter();
        let hypotheses = tokenizer.tokenize_lines(hypotheses).into_iter();
        let segment = |(hypothesis, references): (Vec<String>, &Vec<R>)| {
            let references = tokens.by_ref().take(references.len());
            Self::new(hypothesis.join(" "), references.map(|tokens| tokens.join(" ")).collect())
        };
        hypotheses.zip(references).map(segment).collect()
    }

    /// The caption to be scored.
    pub fn hypothesis(&self) -> &str {
        &self.hypothesis
    }

    /// The references; at least one.
    pub fn references(&self) -> &[String] {
        &self.references
    }

    /// The words of the hypothesis and of every reference.
    pub(super) fn words(&self) -> SegmentWords<'_> {
        let references = self.references.iter().map(|text| words(text).collect());
        SegmentWords {
            hypothesis: words(&self.hypothesis).collect(),
            references: references.collect(),
        }
    }
}

/// The words of a [`Segment`].
pub(super) struct SegmentWords<'a> {
    /// Words of the hypothesis.
    pub hypothesis: Vec<&'a str>,
    /// Words of each reference.
    pub references: Vec<Vec<&'a str>>,
}

/// The n-grams of `words`.
pub(super) fn ngrams<'a>(words: &'a [&'a str]) -> Ngrams<'a> {
    let mut counts = Ngrams::new();
    for ngram in (1..=MAX_N).flat_map(|n| words.windows(n)) {
        *counts.entry(ngram).or_default() += 1;
    }
    counts
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;

    #[test]
    fn captions_without_references_are_refused() {
        let refused = Segment::new("a dog", vec![]).unwrap_err().to_string();
        assert!(refused.contains("\"a dog\" has no reference"), "{refused}");
        let tokenizer = PtbTokenizer::new();
        let refused = Segment::tokenized(&tokenizer, &["a"], &[vec!["b"], vec!["c"]]).unwrap_err();
        assert!(refused.to_string().contains("1 captions for 2 lists"), "{refused}");
    }

    #[test]
    fn each_caption_keeps_its_own_references() {
        let references = [vec!["A dog.", "It's a dog"], vec!["Cats!"]];
        let segments = Segment::tokenized(&PtbTokenizer::new(), &["Dog.", ""], &references);
        let segments = segments.unwrap();
        assert_eq!(segments[0].references(), ["a dog", "it 's a dog"]);
        assert_eq!((segments[1].hypothesis(), &segments[1].references()[0][..]), ("", "cats"));
    }
}
