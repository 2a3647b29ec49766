//! A vocabulary as llguidance sees it.

use std::sync::Arc;

use llguidance::toktrie::{TokRxInfo, TokTrie, TokenId, TokenizerEnv};

use crate::error::Result;
use crate::tokenize::{Processor, TextTokenizer, TokenBytes};

/// Longer ids are never allowed: llguidance's table has room for about 1,000 bytes.
const LONGEST: usize = 512;

/// The text ids of a vocabulary by their bytes, and the tokenizer that spells forced bytes.
///
/// Control tokens and codes of images are not in the table, so that no grammar can name or allow them; nor is an
/// id of the byte 0xFF, which no text has and which marks control tokens. End-of-text alone is there, under a
/// name that no grammar can write, because llguidance needs one.
pub(super) struct Environment {
    trie: TokTrie,
    text: TextTokenizer,
    tokens: TokenBytes,
    /// Whether the tokenizer's own spelling of bytes is known.
    is_canonical: bool,
}

impl Environment {
    /// The environment of `processor`, and for each id whether it may be allowed.
    ///
    /// # Errors
    /// As [`TokenBytes::new`].
    pub(super) fn new(processor: &Processor) -> Result<(Self, Arc<[bool]>)> {
        let text = processor.text().clone();
        let tokens = TokenBytes::new(&text)?;
        let eos = processor.vocabulary().special().eos;
        let usable = |bytes: &&[u8]| {
            bytes.len() <= LONGEST && bytes.first() != Some(&TokTrie::SPECIAL_TOKEN_MARKER)
        };
        let word = |id| tokens.get(id).filter(usable).unwrap_or_default().to_vec();
        let mut words: Vec<Vec<u8>> = (0..tokens.len() as u32).map(word).collect();
        words[eos as usize].clear();
        let allowed = words.iter().map(|word| !word.is_empty()).collect();
        words[eos as usize] = vec![TokTrie::SPECIAL_TOKEN_MARKER, b'e', b'n', b'd'];
        let trie = TokTrie::from(&TokRxInfo::new(words.len() as u32, eos), &words);
        // Elsewhere the start of a text is spelt in a way of its own.
        let is_canonical = (0..tokens.len() as u32).all(|id| tokens.first(id) == tokens.get(id));
        Ok((Self { trie, text, tokens, is_canonical }, allowed))
    }

    /// The ids of `text` by the tokenizer's rules; the longest ids that fit where these change the text.
    fn spell(&self, text: &str) -> Vec<TokenId> {
        let ids = self.text.encode_plain(text).unwrap_or_default();
        let bytes = ids.iter().flat_map(|id| self.tokens.get(*id).unwrap_or_default());
        let is_spelt = bytes.copied().eq(text.bytes());
        if is_spelt { ids } else { self.trie.greedy_tokenize(text.as_bytes()) }
    }
}

impl TokenizerEnv for Environment {
    fn tok_trie(&self) -> &TokTrie {
        &self.trie
    }

    fn tokenize_bytes(&self, bytes: &[u8]) -> Vec<TokenId> {
        self.trie.tokenize_with_greedy_fallback(bytes, |text| self.spell(text))
    }

    fn tokenize_is_canonical(&self) -> bool {
        self.is_canonical
    }
}
