//! Guesses of text without a model: what followed the last ids where they occurred before.
//!
//! The prompt look-up of apoorvumang/prompt-lookup-decoding: text that repeats its prompt, such as an answer in the
//! words of its question, is found in the row itself. A guess that is wrong costs a row of a pass, and nothing else.

/// Maximum number of guesses.
const DRAFTS: usize = 10;
/// How many of the last ids must have occurred before, at least and at most.
const MATCH: std::ops::RangeInclusive<usize> = 2..=4;

/// The ids that may follow `ids`, up to 10: those that followed its last four ids, or three, or two, where they
/// occurred most recently before. Ids for which `is_text` is false are neither compared nor guessed, nor is
/// anything across them.
pub fn lookup(ids: &[u32], is_text: impl Fn(u32) -> bool) -> Vec<u32> {
    // Only what follows the last image can be a text without one in it.
    let mut best = (0, 0);
    for end in (1..ids.len()).rev() {
        let pairs = ids[..end].iter().rev().zip(ids.iter().rev());
        let same = pairs.take(*MATCH.end()).take_while(|(a, b)| a == b && is_text(**a)).count();
        if same > best.0 {
            best = (same, end);
        }
        if same == *MATCH.end() {
            break;
        }
    }
    let (same, start) = best;
    if same < *MATCH.start() {
        return Vec::new();
    }
    let mut drafts: Vec<u32> = Vec::with_capacity(DRAFTS);
    for at in start..start + DRAFTS {
        // A row that ends in a repetition is taken to go on with it.
        let id = ids.get(at).or_else(|| drafts.get(at - ids.len())).copied();
        match id {
            Some(id) if is_text(id) => drafts.push(id),
            _ => break,
        }
    }
    drafts
}

/// The look-up of one row, which rests where it finds nothing of use.
#[derive(Clone, Copy, Debug, Default)]
pub struct PromptLookup {
    /// Look-ups in succession of which no guess was true.
    misses: usize,
    /// Ids to come before the next look-up.
    rest: usize,
}

impl PromptLookup {
    /// Misses in succession before a rest.
    const MISSES: usize = 2;
    /// Length of a rest in ids.
    const REST: usize = 16;

    /// Guesses of the ids after `ids`, as by [`lookup`]; none while it rests.
    pub fn drafts(&self, ids: &[u32], is_text: impl Fn(u32) -> bool) -> Vec<u32> {
        if self.rest > 0 { Vec::new() } else { lookup(ids, is_text) }
    }

    /// Takes note that, of `guessed` ids, the first `kept` were true, so that the row has `kept + 1` ids more. To be
    /// called after each pass of the row, also without guesses.
    pub fn record(&mut self, guessed: usize, kept: usize) {
        self.rest = self.rest.saturating_sub(kept + 1);
        if guessed == 0 {
            return;
        }
        self.misses = if kept == 0 { self.misses + 1 } else { 0 };
        if self.misses == Self::MISSES {
            *self = Self { misses: 0, rest: Self::REST };
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text(ids: &[u32]) -> Vec<u32> {
        lookup(ids, |id| id < 100)
    }

    #[test]
    fn the_ids_after_the_longest_and_latest_match_are_guessed() {
        // Two ids match at 1, three at 5.
        assert_eq!(text(&[2, 3, 50, 9, 1, 2, 3, 60, 61, 8, 1, 2, 3])[..2], [60, 61]);
        // The later one of two equal matches.
        assert_eq!(text(&[1, 2, 50, 1, 2, 60, 7, 1, 2])[0], 60);
        // One id is no match.
        assert_eq!(text(&[1, 2, 3, 4, 5, 3]), [0; 0]);
        assert_eq!(text(&[]), [0; 0]);
        assert_eq!(text(&[1]), [0; 0]);
    }

    #[test]
    fn a_repetition_is_continued_and_ten_ids_are_the_most() {
        assert_eq!(text(&[1, 2, 3, 1, 2, 3]), [1, 2, 3, 1, 2, 3, 1, 2, 3, 1]);
        assert_eq!(text(&[7, 7, 7]), [7; 10]);
        let mut long: Vec<u32> = (0..40).collect();
        long.extend([3, 4, 5]);
        assert_eq!(text(&long), (6..16).collect::<Vec<_>>());
    }

    #[test]
    fn no_image_is_compared_guessed_or_crossed() {
        // The row ends in an image, or begins after one.
        assert_eq!(text(&[200, 201, 5, 200, 201]), [0; 0]);
        assert_eq!(text(&[5, 200, 6, 9, 5, 200, 6]), [0; 0]);
        // An image follows the match.
        assert_eq!(text(&[1, 2, 3, 200, 4, 1, 2]), [3]);
        assert_eq!(text(&[1, 2, 200, 3, 4, 1, 2]), [0; 0]);
        // Matches before an image are found.
        assert_eq!(text(&[1, 2, 3, 4, 200, 300, 8, 1, 2])[..2], [3, 4]);
    }

    #[test]
    fn it_rests_for_16_ids_after_two_misses() {
        let row = [1, 2, 3, 1, 2];
        let mut lookup = PromptLookup::default();
        let finds = |lookup: &PromptLookup| !lookup.drafts(&row, |_| true).is_empty();
        lookup.record(10, 0);
        lookup.record(10, 1);
        lookup.record(10, 0);
        assert!(finds(&lookup), "the two misses were not in succession");
        lookup.record(10, 0);
        for _ in 0..16 {
            assert!(!finds(&lookup));
            lookup.record(0, 0);
        }
        assert!(finds(&lookup));
        lookup.record(10, 0);
        assert!(finds(&lookup), "misses before the rest do not count");
    }
}
