//! What the caption metrics compare.

use std::collections::BTreeMap;

use super::{PtbTokenizer, words};
use crate::error::{Error, Result};

/// The longest n-grams that caption metrics count.
pub(super) const MAX_N: usize = 4;

/// How often each n-gram of 1 to [`MAX_N`] words occurs. Ordered, so that sums over it repeat to the
/// last digit.
pub(super) type Ngrams<'a> = BTreeMap<&'a [&'a str], usize>;

/// A hypothesis with the references of the same image, as tokens joined by single blanks.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Segment {
    hypothesis: String,
    references: Vec<String>,
}

impl Segment {
    /// A segment of texts that are tokenised already.
    ///
    /// # Errors
    /// When there is no reference.
    pub fn new(hypothesis: impl Into<String>, references: Vec<String>) -> Result<Self> {
        let hypothesis = hypothesis.into();
        if references.is_empty() {
            let message = format!("the caption {hypothesis:?} has no reference to be held against");
            return Err(Error::invalid(message));
        }
        Ok(Self { hypothesis, references })
    }

    /// Tokenises hypotheses with their references as the public scorers do: all hypotheses in one
    /// go, all references in another.
    ///
    /// # Errors
    /// When the numbers differ or a hypothesis has no reference.
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

    /// The caption that is scored.
    pub fn hypothesis(&self) -> &str {
        &self.hypothesis
    }

    /// What it is held against; at least one.
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
    /// Of the hypothesis.
    pub hypothesis: Vec<&'a str>,
    /// Of each reference.
    pub references: Vec<Vec<&'a str>>,
}

/// Counts the n-grams of `words`.
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
