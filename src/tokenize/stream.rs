//! Text from ids that arrive one by one, never half a character.

use super::text::TextTokenizer;
use crate::error::Result;

/// Text from ids that arrive one by one; all of it together equals [`TextTokenizer::decode`] of
/// all ids. A character whose bytes are spread over tokens appears with its last byte.
#[derive(Clone, Debug)]
pub struct StreamDecoder<'a> {
    tokenizer: &'a TextTokenizer,
    /// Bytes of a character that is not complete yet.
    pending: Vec<u8>,
    /// For decoders that are not byte-level: all ids so far, and how much of their text is out.
    ids: Vec<u32>,
    written: usize,
}

impl<'a> StreamDecoder<'a> {
    pub(super) fn new(tokenizer: &'a TextTokenizer) -> Self {
        Self { tokenizer, pending: Vec::new(), ids: Vec::new(), written: 0 }
    }

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
            Some(bytes) => {
                self.pending.extend(bytes);
                Ok(self.complete())
            }
            None => {
                self.ids.push(id);
                self.whole(false)
            }
        }
    }

    /// The text still held back, with U+FFFD for a character that stayed incomplete; afterwards
    /// the decoder starts anew.
    ///
    /// # Errors
    /// If the tokenizer's decoder refuses the ids so far.
    pub fn finish(&mut self) -> Result<String> {
        let rest = self.whole(true)?;
        self.ids.clear();
        self.written = 0;
        let pending = std::mem::take(&mut self.pending);
        Ok(rest + &String::from_utf8_lossy(&pending))
    }

    /// Takes all complete characters out of `pending`.
    fn complete(&mut self) -> String {
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

    /// Decodes all ids so far and returns what is new, up to a trailing U+FFFD unless `all`.
    fn whole(&mut self, all: bool) -> Result<String> {
        let text = self.tokenizer.decode(&self.ids)?;
        let open = if all { text.as_str() } else { text.trim_end_matches('\u{FFFD}') };
        let new = open.get(self.written..).unwrap_or_default().to_owned();
        self.written += new.len();
        Ok(new)
    }
}

/// Whether more bytes can make a character of `bytes`.
fn is_incomplete(bytes: &[u8]) -> bool {
    std::str::from_utf8(bytes).is_err_and(|error| error.error_len().is_none())
}

/// Byte values by the character that stands for them in byte-level names (GPT-2's table).
pub(super) fn byte_values() -> Vec<Option<u8>> {
    let mut values = vec![None; 512];
    let mut next = 256;
    for byte in 0..=u8::MAX {
        let printable = matches!(byte, b'!'..=b'~' | 0xA1..=0xAC | 0xAE..=0xFF);
        let character = if printable { usize::from(byte) } else { next };
        next += usize::from(!printable);
        values[character] = Some(byte);
    }
    values
}

#[cfg(test)]
mod tests {
    use tokenizers::pre_tokenizers::byte_level::ByteLevel;

    use super::*;

    #[test]
    fn byte_table_is_the_one_of_the_tokenizer_library() {
        let values = byte_values();
        let characters = ByteLevel::alphabet();
        assert_eq!(characters.len(), 256);
        for character in characters {
            assert!(values[character as usize].is_some(), "{character}");
        }
        assert_eq!(values['Ġ' as usize], Some(b' '));
        assert_eq!(values['Ċ' as usize], Some(b'\n'));
        assert_eq!(values.iter().flatten().count(), 256);
    }
}
