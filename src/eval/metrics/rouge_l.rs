//! ROUGE-L of captions: Lin 2004 as in pycocoevalcap (`rouge/rouge.py`).

use super::mean;
use super::segment::Segment;

/// The weight of recall against precision.
const BETA: f64 = 1.2;

/// ROUGE-L in `[0, 1]`.
#[derive(Clone, Debug, PartialEq)]
pub struct RougeL {
    /// The mean over segments; 0 without segments.
    pub corpus: f64,
    /// Each segment.
    pub segments: Vec<f64>,
}

/// ROUGE-L of `segments`.
///
/// The length of the longest common subsequence with each reference gives a precision P (over the
/// hypothesis' length) and a recall R (over the reference's length); the score is `(1 + b²) P R /
/// (R + b² P)` with b = 1.2 for the best P and the best R, possibly of two references. Unlike the
/// other metrics, this one splits at every single blank, so an empty text is one empty word.
pub fn rouge_l(segments: &[Segment]) -> RougeL {
    let segments: Vec<f64> = segments.iter().map(score).collect();
    RougeL { corpus: mean(&segments), segments }
}

fn score(segment: &Segment) -> f64 {
    let hypothesis: Vec<&str> = segment.hypothesis().split(' ').collect();
    let (mut precision, mut recall) = (0.0_f64, 0.0_f64);
    for reference in segment.references() {
        let reference: Vec<&str> = reference.split(' ').collect();
        let common = longest_common_subsequence(&hypothesis, &reference) as f64;
        precision = precision.max(common / hypothesis.len() as f64);
        recall = recall.max(common / reference.len() as f64);
    }
    if precision == 0.0 || recall == 0.0 {
        return 0.0;
    }
    let beta = BETA * BETA;
    (1.0 + beta) * precision * recall / (recall + beta * precision)
}

/// The length of the longest common subsequence.
fn longest_common_subsequence(a: &[&str], b: &[&str]) -> usize {
    // lens[j]: for the words of `a` so far and the first j words of `b`.
    let mut lens = vec![0; b.len() + 1];
    for word in a {
        let mut diagonal = 0;
        for (j, other) in b.iter().enumerate() {
            let above = lens[j + 1];
            lens[j + 1] = if word == other { diagonal + 1 } else { above.max(lens[j]) };
            diagonal = above;
        }
    }
    lens[b.len()]
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;

    #[test]
    fn subsequences_need_not_be_adjacent() {
        let words = |text: &'static str| text.split(' ').collect::<Vec<_>>();
        let lcs = |a, b| longest_common_subsequence(&words(a), &words(b));
        assert_eq!(lcs("a b c d", "a x c y d"), 3);
        assert_eq!(lcs("a b", "b a"), 1);
        assert_eq!(lcs("a", "b"), 0);
    }

    #[test]
    fn precision_and_recall_may_come_from_two_references() {
        let references = vec!["a".to_owned(), "a b c d".to_owned()];
        let score = rouge_l(&[Segment::new("a b", references).unwrap()]).corpus;
        // P = 2/2 from the second, R = 1/1 from the first.
        assert_eq!(score, 1.0);
    }

    #[test]
    fn two_empty_texts_are_equal() {
        assert_eq!(rouge_l(&[Segment::new("", vec![String::new()]).unwrap()]).corpus, 1.0);
        assert_eq!(rouge_l(&[]).corpus, 0.0);
    }
}
