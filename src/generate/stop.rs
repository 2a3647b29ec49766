//! Texts that end a request, wherever they begin in an id.

use std::sync::Arc;

use crate::error::{Error, Result};
use crate::tokenize::TokenBytes;

/// Maximum number of stop strings of a request.
pub const MAX_STOP_STRINGS: usize = 16;

/// Maximum length of a stop string, in bytes.
pub const MAX_STOP_STRING_LEN: usize = 256;

/// The stop strings of a request, and how far the text has matched them.
///
/// They are looked for in the bytes of the new text, wherever one id ends and the next begins; the prompt does
/// not count, and begin-image starts a new text. The first byte that completes a stop string decides: of
/// several that it completes, the one that begins first and so is the longest. The text ends before it.
///
/// ```
/// use std::sync::Arc;
/// use calumma::generate::StopStrings;
/// use calumma::tokenize::TokenBytes;
///
/// let bytes = TokenBytes::from_pieces([Some("a E"), Some("N"), Some("D."), None], None);
/// let mut stop = StopStrings::new(&["END".to_owned()], Arc::new(bytes))?;
/// let mut text = Vec::new();
/// assert_eq!(stop.push_into(0, &mut text), None);
/// assert_eq!(text, b"a "); // the E may begin the stop string
/// assert_eq!(stop.push_into(1, &mut text), None);
/// assert_eq!(stop.push_into(2, &mut text), Some(0));
/// assert_eq!(text, b"a ");
/// # Ok::<(), calumma::Error>(())
/// ```
#[derive(Clone, Debug)]
pub struct StopStrings {
    strings: Arc<[Pattern]>,
    tokens: Arc<TokenBytes>,
    /// For each string, how many of its bytes the text ends with.
    matched: Vec<usize>,
    /// The end of the text that may be the beginning of a stop string.
    held: Vec<u8>,
    /// Whether the text has begun.
    begun: bool,
    /// The string that ended the text.
    found: Option<usize>,
}

/// A string to search for, with the failure function of Knuth, Morris and Pratt.
#[derive(Debug)]
struct Pattern {
    bytes: Vec<u8>,
    /// For each length, the length of the longest proper prefix that is also a suffix.
    borders: Vec<usize>,
}

impl StopStrings {
    /// The stop strings `strings` over ids whose bytes are `tokens`.
    ///
    /// # Errors
    /// As [`check`].
    pub fn new(strings: &[String], tokens: Arc<TokenBytes>) -> Result<Self> {
        if strings.is_empty() {
            return Err(Error::invalid("no stop string; allowed: 1 to 16"));
        }
        check(strings)?;
        let strings: Arc<[Pattern]> = strings.iter().map(|text| Pattern::new(text)).collect();
        let matched = vec![0; strings.len()];
        Ok(Self { strings, tokens, matched, held: Vec::new(), begun: false, found: None })
    }

    /// Moves on by `id`; returns the number of the stop string that it completes. After that nothing changes.
    pub fn push(&mut self, id: u32) -> Option<usize> {
        self.push_into(id, &mut Vec::new())
    }

    /// As [`push`](Self::push), and appends to `released` the bytes that no stop string can begin in any more.
    pub fn push_into(&mut self, id: u32, released: &mut Vec<u8>) -> Option<usize> {
        if self.tokens.begins_image(id) {
            released.extend(self.flush());
            return self.found;
        }
        let tokens = self.tokens.clone();
        let bytes = if self.begun { tokens.get(id) } else { tokens.first(id) };
        self.begun |= bytes.is_some();
        for &byte in bytes.unwrap_or_default() {
            if self.found.is_some() {
                break;
            }
            self.advance(byte, released);
        }
        self.found
    }

    /// The number of the stop string that ended the text.
    pub fn found(&self) -> Option<usize> {
        self.found
    }

    /// What is held back, at the end of a text: nothing if a stop string ended it. Unless one did, a new text
    /// starts.
    pub fn flush(&mut self) -> Vec<u8> {
        if self.found.is_none() {
            self.begun = false;
            self.matched.fill(0);
        }
        std::mem::take(&mut self.held)
    }

    fn advance(&mut self, byte: u8, released: &mut Vec<u8>) {
        self.held.push(byte);
        let mut longest = 0;
        for (pattern, matched) in self.strings.iter().zip(&mut self.matched) {
            *matched = pattern.advance(*matched, byte);
            longest = longest.max(*matched);
        }
        let completed = |number: &usize| self.matched[*number] == self.strings[*number].bytes.len();
        let numbers = (0..self.strings.len()).rev().filter(completed);
        self.found = numbers.max_by_key(|number| self.matched[*number]);
        let kept = self.found.map_or(longest, |number| self.matched[number]);
        released.extend(self.held.drain(..self.held.len() - kept));
        if self.found.is_some() {
            self.held.clear();
        }
    }
}

impl Pattern {
    fn new(text: &str) -> Self {
        let bytes = text.as_bytes().to_vec();
        let mut pattern = Self { bytes, borders: vec![0; 2] };
        for len in 1..pattern.bytes.len() {
            let border = pattern.advance(pattern.borders[len], pattern.bytes[len]);
            pattern.borders.push(border);
        }
        pattern
    }

    /// How many bytes of the pattern a text ends with that ended with `matched` of them before `byte`.
    fn advance(&self, mut matched: usize, byte: u8) -> usize {
        loop {
            if self.bytes.get(matched) == Some(&byte) {
                return matched + 1;
            }
            if matched == 0 {
                return 0;
            }
            matched = self.borders[matched];
        }
    }
}

/// Checks the number of stop strings and their lengths.
///
/// # Errors
/// If there are more than [`MAX_STOP_STRINGS`], or one is empty or longer than [`MAX_STOP_STRING_LEN`] bytes.
pub fn check(strings: &[String]) -> Result<()> {
    if strings.len() > MAX_STOP_STRINGS {
        return Err(Error::invalid(format!(
            "{} stop strings; allowed: at most {MAX_STOP_STRINGS}",
            strings.len()
        )));
    }
    let wrong = |text: &&String| text.is_empty() || text.len() > MAX_STOP_STRING_LEN;
    match strings.iter().find(wrong) {
        Some(text) => Err(Error::invalid(format!(
            "a stop string has {} bytes; allowed: 1 to {MAX_STOP_STRING_LEN}",
            text.len()
        ))),
        None => Ok(()),
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests")]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const BEGIN_IMAGE: u32 = 1000;

    fn strings(list: &[&str]) -> Vec<String> {
        list.iter().map(|text| (*text).to_owned()).collect()
    }

    /// Stop strings over ids `0..` that stand for `pieces`.
    fn over(list: &[&str], pieces: &[Vec<u8>]) -> StopStrings {
        let tokens = TokenBytes::from_pieces(pieces.iter().map(Some), Some(BEGIN_IMAGE));
        StopStrings::new(&strings(list), Arc::new(tokens)).unwrap()
    }

    /// The text of `pieces` after each of them, the rest at the end, and the number found.
    fn run(list: &[&str], pieces: &[Vec<u8>]) -> (Vec<Vec<u8>>, Vec<u8>, Option<usize>) {
        let mut stop = over(list, pieces);
        let (mut text, mut after) = (Vec::new(), Vec::new());
        for id in 0..pieces.len() as u32 {
            let found = stop.push_into(id, &mut text);
            after.push(text.clone());
            if found.is_some() {
                break;
            }
        }
        text.extend(stop.flush());
        (after, text, stop.found())
    }

    /// The definition: the first end of a stop string in `text`, the longest string there.
    fn defined(list: &[&str], text: &[u8]) -> Option<(usize, usize)> {
        (1..=text.len()).find_map(|end| {
            let ends = |number: &usize| text[..end].ends_with(list[*number].as_bytes());
            let number = (0..list.len()).rev().filter(ends).max_by_key(|n| list[*n].len())?;
            Some((end - list[number].len(), number))
        })
    }

    /// `text` cut after the bytes whose bit is set in `cuts`.
    fn split(text: &[u8], cuts: u64) -> Vec<Vec<u8>> {
        let mut pieces = vec![Vec::new()];
        for (at, byte) in text.iter().enumerate() {
            pieces.last_mut().unwrap().push(*byte);
            if at + 1 < text.len() && cuts >> at & 1 == 1 {
                pieces.push(Vec::new());
            }
        }
        pieces
    }

    #[test]
    fn every_split_over_ids_ends_the_text_at_the_same_byte() {
        for (list, text, before, number) in [
            (&["</s>"][..], "a red</s> ball", "a red", 0),
            (&["é."], "caféé. no", "café", 0),
            (&["🦎"], "x🦎y", "x", 0),
            (&["aab"], "aaaab", "aa", 0),
            (&["abab", "b"], "abab", "a", 1),
            (&["ab", "abc"], "xabc", "x", 0),
            (&["bc", "abc"], "xabc", "x", 1),
            (&["abcd", "bc"], "abcd", "a", 1),
            (&["\n\n", "\n"], "a\n\n", "a", 1),
        ] {
            for cuts in 0..1u64 << (text.len() - 1) {
                let pieces = split(text.as_bytes(), cuts);
                let (after, all, found) = run(list, &pieces);
                assert_eq!(found, Some(number), "{text:?} {cuts:b}");
                assert_eq!(all, before.as_bytes(), "{text:?} {cuts:b}");
                for streamed in after {
                    assert!(before.as_bytes().starts_with(&streamed), "{text:?} {cuts:b}");
                }
            }
        }
    }

    #[test]
    fn a_proper_prefix_at_the_end_is_released() {
        for (text, streamed) in [("a EN", "a "), ("E", ""), ("EEN", "E"), ("EN", "")] {
            for cuts in 0..1u64 << (text.len() - 1) {
                let (after, all, found) = run(&["END", "ENX"], &split(text.as_bytes(), cuts));
                assert_eq!((all.as_slice(), found), (text.as_bytes(), None));
                assert_eq!(after.last().unwrap(), streamed.as_bytes());
            }
        }
    }

    #[test]
    fn an_image_separates_texts() {
        let pieces = ["EN", "D", "END"].map(|piece| piece.as_bytes().to_vec());
        let mut stop = over(&["END"], &pieces);
        let mut text = Vec::new();
        assert_eq!(stop.push_into(0, &mut text), None);
        assert_eq!(text, b"");
        assert_eq!(stop.push_into(BEGIN_IMAGE, &mut text), None);
        assert_eq!(text, b"EN");
        assert_eq!(stop.push(1), None);
        assert_eq!(stop.push(2), Some(0));
        assert_eq!(stop.push(BEGIN_IMAGE), Some(0));
        assert_eq!(stop.flush(), b"");
    }

    #[test]
    fn nothing_changes_after_a_match_and_a_clone_goes_its_own_way() {
        let pieces = ["E", "ND", "x"].map(|piece| piece.as_bytes().to_vec());
        let mut stop = over(&["END", "x"], &pieces);
        assert_eq!(stop.push(0), None);
        let mut other = stop.clone();
        assert_eq!((stop.push(1), stop.push(2)), (Some(0), Some(0)));
        let mut text = Vec::new();
        assert_eq!(other.push_into(2, &mut text), Some(1));
        assert_eq!(text, b"E");
        // Ids without bytes are no text.
        assert_eq!(stop.clone().push(77), Some(0));
        assert_eq!(over(&["END"], &pieces).push(77), None);
    }

    #[test]
    fn numbers_and_lengths_out_of_range_are_refused() {
        let tokens = Arc::new(TokenBytes::from_pieces([Some("a")], None));
        let refused = |list: Vec<String>| StopStrings::new(&list, tokens.clone()).unwrap_err();
        assert!(refused(vec![]).to_string().contains("allowed: 1 to 16"));
        let many: Vec<String> = (0..17).map(|number| number.to_string()).collect();
        assert!(refused(many.clone()).to_string().starts_with("17 stop strings; allowed"));
        assert!(StopStrings::new(&many[..16], tokens.clone()).is_ok());
        assert!(
            refused(strings(&["a", ""])).to_string().contains("has 0 bytes; allowed: 1 to 256")
        );
        assert!(refused(vec!["é".repeat(129)]).to_string().contains("has 258 bytes"));
        assert!(StopStrings::new(&["é".repeat(128)], tokens.clone()).is_ok());
    }

    proptest! {
        #[test]
        fn streamed_text_never_holds_what_the_definition_cuts(
            list in prop::collection::vec("[abé]{1,4}", 1..5),
            text in "[abéc]{0,24}",
            cuts in any::<u64>(),
        ) {
            let list: Vec<&str> = list.iter().map(String::as_str).collect();
            let (after, all, found) = run(&list, &split(text.as_bytes(), cuts));
            let cut = defined(&list, text.as_bytes());
            prop_assert_eq!(found, cut.map(|(_, number)| number));
            let expected = &text.as_bytes()[..cut.map_or(text.len(), |(start, _)| start)];
            prop_assert_eq!(&all[..], expected);
            for streamed in after {
                prop_assert!(expected.starts_with(&streamed));
            }
        }
    }
}
