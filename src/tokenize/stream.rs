//! Text from ids that arrive one by one, in whole characters.

use super::text::TextTokenizer;
use crate::error::Result;

/// Text from ids that arrive one by one; together it equals [`TextTokenizer::decode`] of all ids. A
/// character whose bytes are spread over several tokens is returned with its last byte.
#[derive(Clone, Debug)]
pub struct StreamDecoder<'a> {
    tokenizer: &'a TextTokenizer,
    bytes: Utf8Stream,
    /// For decoders that are not byte-level: all ids so far.
    ids: Vec<u32>,
    /// Bytes of the text of `ids` that were returned.
    written: usize,
}

impl TextTokenizer {
    /// A decoder for ids that arrive one by one.
    pub fn stream(&self) -> StreamDecoder<'_> {
        StreamDecoder { tokenizer: self, bytes: Utf8Stream::default(), ids: Vec::new(), written: 0 }
    }
}

impl StreamDecoder<'_> {
    /// The text that `id` completes; often empty for control tokens and parts of characters.
    ///
    /// # Errors
    /// If `id` is beyond the vocabulary.
    pub fn push(&mut self, id: u32) -> Result<String> {
        self.tokenizer.check_ids(&[id])?;
        if self.tokenizer.is_hidden(id) {
            return Ok(String::new());
        }
        match self.tokenizer.token_bytes(id) {
            Some(bytes) => Ok(self.bytes.push(&bytes)),
            None => {
                self.ids.push(id);
                self.new_text(false)
            }
        }
    }

    /// The text held back so far, with U+FFFD for an incomplete character; resets the decoder.
    ///
    /// # Errors
    /// If the tokenizer's decoder refuses the ids so far.
    pub fn finish(&mut self) -> Result<String> {
        let rest = self.new_text(true)?;
        self.ids.clear();
        self.written = 0;
        Ok(rest + &self.bytes.finish())
    }

    /// The new part of the text of all ids so far, without a trailing U+FFFD unless `all`.
    fn new_text(&mut self, all: bool) -> Result<String> {
        let text = self.tokenizer.decode(&self.ids)?;
        let open = if all { text.as_str() } else { text.trim_end_matches('\u{FFFD}') };
        let new = open.get(self.written..).unwrap_or_default().to_owned();
        self.written += new.len();
        Ok(new)
    }
}

/// Text from bytes that arrive piece by piece, in whole characters; invalid UTF-8 becomes U+FFFD.
#[derive(Clone, Debug, Default)]
pub struct Utf8Stream {
    /// Bytes of an incomplete character.
    pending: Vec<u8>,
}

impl Utf8Stream {
    /// The characters that `bytes` complete.
    pub fn push(&mut self, bytes: &[u8]) -> String {
        self.pending.extend_from_slice(bytes);
        let mut text = String::new();
        let mut used = 0;
        for chunk in self.pending.utf8_chunks() {
            text.push_str(chunk.valid());
            used += chunk.valid().len();
            let invalid = chunk.invalid();
            let at_end = used + invalid.len() == self.pending.len();
            if at_end && is_incomplete(invalid) {
                break;
            }
            if !invalid.is_empty() {
                text.push(char::REPLACEMENT_CHARACTER);
                used += invalid.len();
            }
        }
        self.pending.drain(..used);
        text
    }

    /// U+FFFD if a character is incomplete; starts anew.
    pub fn finish(&mut self) -> String {
        String::from_utf8_lossy(&std::mem::take(&mut self.pending)).into_owned()
    }
}

/// Whether `bytes` are the beginning of a character.
fn is_incomplete(bytes: &[u8]) -> bool {
    std::str::from_utf8(bytes).is_err_and(|error| error.error_len().is_none())
}
