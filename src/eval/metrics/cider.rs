//! CIDEr of captions: CIDEr-D of Vedantam et al. 2015 (section 5 and its appendix) as in
//! pycocoevalcap (`cider/cider_scorer.py`), which calls it CIDEr.

use std::collections::BTreeMap;

use super::mean;
use super::segment::{MAX_N, Ngrams, Segment, SegmentWords, ngrams};

/// Standard deviation of the penalty on differences in length, in bigrams.
const SIGMA: f64 = 6.0;
/// Factor of all scores.
const SCALE: f64 = 10.0;

/// CIDEr-D in `[0, 10]`; papers report it times 100 (a CIDEr of 120 is 1.2).
#[derive(Clone, Debug, PartialEq)]
pub struct Cider {
    /// The mean over segments; 0 without segments.
    pub corpus: f64,
    /// Each segment.
    pub segments: Vec<f64>,
}

/// CIDEr-D of `segments`, one per image.
///
/// A text is a vector of its n-grams for each n from 1 to 4, weighted by count times `ln N - ln
/// max(1, df)`, where N is the number of segments and df the number of segments with the n-gram in
/// a reference. So scores depend on the set, and are 0 for a single image: always state N. For each
/// n and reference r, the hypothesis h scores `Σ min(h, r) r / (|h| |r|)` times `exp(-(difference
/// in bigrams)² / (2 · 6²))`; the segment's score is the mean over n and references, times 10.
pub fn cider(segments: &[Segment]) -> Cider {
    let words: Vec<SegmentWords<'_>> = segments.iter().map(Segment::words).collect();
    let counted: Vec<(Ngrams<'_>, Vec<Ngrams<'_>>)> = words
        .iter()
        .map(|words| {
            let references = words.references.iter().map(|words| ngrams(words)).collect();
            (ngrams(&words.hypothesis), references)
        })
        .collect();
    let weights = Weights::new(counted.iter().map(|(_, references)| references));
    let scores = counted.iter().map(|(hypothesis, references)| {
        let hypothesis = weights.vector(hypothesis);
        let similarities =
            references.iter().map(|reference| hypothesis.similarity(&weights.vector(reference)));
        similarities.sum::<f64>() / references.len() as f64 * SCALE
    });
    let segments: Vec<f64> = scores.collect();
    Cider { corpus: mean(&segments), segments }
}

/// Inverse document frequencies over the references of a set.
struct Weights<'a> {
    log_len: f64,
    document_frequency: BTreeMap<&'a [&'a str], usize>,
}

/// A text's weighted n-grams.
struct Vector<'a> {
    weights: BTreeMap<&'a [&'a str], f64>,
    /// Euclidean norm for each n.
    norms: [f64; MAX_N],
    bigrams: usize,
}

impl<'a> Weights<'a> {
    fn new(references: impl ExactSizeIterator<Item = &'a Vec<Ngrams<'a>>>) -> Self {
        let log_len = (references.len().max(1) as f64).ln();
        let mut document_frequency = BTreeMap::new();
        for references in references {
            let mut all: Vec<&[&str]> = references.iter().flat_map(|r| r.keys().copied()).collect();
            all.sort_unstable();
            all.dedup();
            for ngram in all {
                *document_frequency.entry(ngram).or_default() += 1;
            }
        }
        Self { log_len, document_frequency }
    }

    fn vector(&self, counts: &Ngrams<'a>) -> Vector<'a> {
        let weight = |ngram: &[&str], count: usize| {
            let documents = self.document_frequency.get(ngram).copied().unwrap_or(1);
            count as f64 * (self.log_len - (documents as f64).ln())
        };
        let weights: BTreeMap<_, _> =
            counts.iter().map(|(ngram, count)| (*ngram, weight(ngram, *count))).collect();
        let mut squares = [0.0; MAX_N];
        for (ngram, weight) in &weights {
            squares[ngram.len() - 1] += weight * weight;
        }
        let bigrams = counts.iter().filter(|(ngram, _)| ngram.len() == 2).map(|(_, n)| n).sum();
        Vector { weights, norms: squares.map(f64::sqrt), bigrams }
    }
}

impl Vector<'_> {
    /// The clipped cosine similarity to a reference with the length penalty, averaged over n.
    fn similarity(&self, reference: &Vector<'_>) -> f64 {
        let mut sums = [0.0; MAX_N];
        for (ngram, weight) in &self.weights {
            if let Some(other) = reference.weights.get(ngram) {
                sums[ngram.len() - 1] += weight.min(*other) * other;
            }
        }
        let difference = self.bigrams as f64 - reference.bigrams as f64;
        let penalty = (-difference * difference / (2.0 * SIGMA * SIGMA)).exp();
        let norms = self.norms.iter().zip(reference.norms).map(|(a, b)| a * b);
        // N-grams of every image have weight 0, so a norm can be 0.
        let cosines =
            sums.iter().zip(norms).map(|(s, norm)| if norm == 0.0 { *s } else { s / norm });
        cosines.sum::<f64>() * penalty / MAX_N as f64
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;

    fn segment(hypothesis: &str, references: &[&str]) -> Segment {
        let references = references.iter().map(|text| (*text).to_owned()).collect();
        Segment::new(hypothesis, references).unwrap()
    }

    #[test]
    fn a_copy_scores_ten_if_no_ngram_is_shared_by_all_images() {
        let scores = cider(&[segment("a b c d", &["a b c d"]), segment("e", &["f"])]);
        assert!((scores.segments[0] - 10.0).abs() < 1e-12, "{scores:?}");
        assert_eq!(scores.segments[1], 0.0);
        assert_eq!(scores.corpus, scores.segments[0] / 2.0);
    }

    #[test]
    fn a_single_image_scores_zero() {
        assert_eq!(cider(&[segment("a b c d", &["a b c d"])]).corpus, 0.0);
        assert_eq!(cider(&[]).corpus, 0.0);
    }

    #[test]
    fn words_of_every_image_have_no_weight() {
        let scores = cider(&[segment("a", &["a"]), segment("a", &["a b"])]);
        assert_eq!(scores.segments, [0.0, 0.0]);
    }

    #[test]
    fn differences_in_length_are_penalised_by_bigrams() {
        let other = segment("y", &["z"]);
        let short = cider(&[segment("a b", &["a b"]), other.clone()]).segments[0];
        let long = cider(&[segment("a b", &["a b x x x x x x"]), other]).segments[0];
        assert!((short - 5.0).abs() < 1e-12, "{short}");
        assert!(long < short / 2.0, "{long}");
    }
}
