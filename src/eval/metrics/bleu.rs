//! BLEU of captions: Papineni et al. 2002 as in pycocoevalcap (`bleu/bleu_scorer.py` with the
//! option `closest`, as its `Bleu` uses it).

use super::segment::{MAX_N, Segment, ngrams};

/// Added to counts of matches, so that the geometric mean exists without matches.
const TINY: f64 = 1e-15;
/// Added to counts of n-grams and to the length of the references, against division by zero.
const SMALL: f64 = 1e-9;

/// BLEU-1 to BLEU-4 in `[0, 1]`; papers report them times 100.
#[derive(Clone, Debug, PartialEq)]
pub struct Bleu {
    /// The whole corpus: from sums of counts, not the mean of [`Bleu::segments`].
    pub corpus: [f64; MAX_N],
    /// Each segment alone.
    pub segments: Vec<[f64; MAX_N]>,
}

/// The counts of a segment; their sums are those of the corpus.
#[derive(Clone, Copy, Default)]
struct Counts {
    matches: [usize; MAX_N],
    total: [usize; MAX_N],
    hypothesis_len: usize,
    reference_len: usize,
}

/// BLEU-1 to BLEU-4 of `segments`.
///
/// BLEU-n is the geometric mean of the precisions of 1- to n-grams, each n-gram counted at most as
/// often as in the reference that has it most often, times the brevity penalty `exp(1 - r / h)` if
/// h < r: h is the total length of the hypotheses, r that of the references closest in length (the
/// shorter one of a tie). 1e-15 is added to matches and to h, 1e-9 to the numbers they are divided
/// by.
pub fn bleu(segments: &[Segment]) -> Bleu {
    let mut sum = Counts::default();
    let scores = segments.iter().map(|segment| {
        let counts = count(segment);
        sum.add(&counts);
        counts.scores()
    });
    let segments = scores.collect();
    Bleu { corpus: sum.scores(), segments }
}

fn count(segment: &Segment) -> Counts {
    let words = segment.words();
    let hypothesis_len = words.hypothesis.len();
    let lens = words.references.iter().map(Vec::len);
    let closest = lens.min_by_key(|len| (len.abs_diff(hypothesis_len), *len));
    let mut counts =
        Counts { hypothesis_len, reference_len: closest.unwrap_or(0), ..Counts::default() };
    let references: Vec<_> = words.references.iter().map(|words| ngrams(words)).collect();
    for (ngram, count) in ngrams(&words.hypothesis) {
        let allowed = references.iter().filter_map(|counts| counts.get(ngram)).max();
        counts.matches[ngram.len() - 1] += count.min(*allowed.unwrap_or(&0));
        counts.total[ngram.len() - 1] += count;
    }
    counts
}

impl Counts {
    fn add(&mut self, other: &Self) {
        for n in 0..MAX_N {
            self.matches[n] += other.matches[n];
            self.total[n] += other.total[n];
        }
        self.hypothesis_len += other.hypothesis_len;
        self.reference_len += other.reference_len;
    }

    fn scores(&self) -> [f64; MAX_N] {
        let ratio = (self.hypothesis_len as f64 + TINY) / (self.reference_len as f64 + SMALL);
        let brevity = if ratio < 1.0 { (1.0 - 1.0 / ratio).exp() } else { 1.0 };
        let mut product = 1.0;
        std::array::from_fn(|n| {
            product *= (self.matches[n] as f64 + TINY) / (self.total[n] as f64 + SMALL);
            product.powf(1.0 / (n + 1) as f64) * brevity
        })
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
    fn a_copy_of_a_reference_scores_one() {
        let copy = bleu(&[segment("a b c d e", &["x y", "a b c d e"])]);
        assert!(copy.corpus.iter().all(|score| (score - 1.0).abs() < 1e-8), "{copy:?}");
    }

    /// The example of Papineni et al. 2002, section 2.1: 2/7 for seven times "the".
    #[test]
    fn repeated_words_match_as_often_as_in_one_reference() {
        let references = ["the cat is on the mat", "there is a cat on the mat"];
        let score = bleu(&[segment("the the the the the the the", &references)]).corpus[0];
        assert!((score - 2.0 / 7.0).abs() < 1e-9, "{score}");
    }

    #[test]
    fn the_shorter_of_two_equally_close_references_counts() {
        // References of 2 and 4 words against 3: the 2 count, so there is no penalty.
        let score = bleu(&[segment("a b c", &["a b", "a b c d"])]).corpus[0];
        assert!((score - 1.0).abs() < 1e-8, "{score}");
    }

    #[test]
    fn empty_captions_and_empty_sets_score_zero() {
        assert_eq!(bleu(&[segment("", &["a"])]).corpus, [0.0; 4]);
        assert_eq!(bleu(&[]).corpus, [0.0; 4]);
    }
}
