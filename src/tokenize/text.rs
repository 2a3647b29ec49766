//! Text to ids and back, by the rules of a `tokenizer.json` (Hugging Face `tokenizers`).
//!
//! Splitting rules, merges and post-processor are those of the file; none is fixed here. One thing
//! is added: [`TextTokenizer::encode_plain`] takes names of control tokens in user text literally, so
//! that no text can open an image or end a turn.

mod roles;

use std::ops::Range;
use std::path::{Path, PathBuf};

use serde::de::IgnoredAny;
use tokenizers::{
    AddedVocabulary, DecoderWrapper, Encoding, Model, OffsetType, PreTokenizer, Token, Tokenizer,
};

use super::byte_level::byte_values;
use super::token::{TokenClass, code_of, token_code};
use super::vocabulary::SpecialIds;
use crate::error::{Error, Result};
use crate::files::refuse_lfs_pointer;
use crate::guard::guarded;

pub use roles::RoleNames;

/// A text tokenizer as a `tokenizer.json` describes it.
///
/// ```
/// use calumma::tokenize::{BpeConfig, train_bpe};
///
/// let config = BpeConfig { num_codes: 16, vocab_size: 300, ..BpeConfig::default() };
/// let tokenizer = train_bpe(&config, ["a red square", "a red circle"])?;
/// let ids = tokenizer.encode_plain("a red circle <s>")?;
/// assert_eq!(tokenizer.decode(&ids)?, "a red circle <s>");
/// # Ok::<(), calumma::Error>(())
/// ```
#[derive(Clone, Debug)]
pub struct TextTokenizer {
    inner: Tokenizer,
    /// The added tokens that are text; they are cut out of plain text as the file says.
    plain: AddedVocabulary,
    /// By id: whether it is a control or image token, which plain text never becomes and which
    /// decodes to nothing.
    hidden: Vec<bool>,
    /// Byte values by character, if the file's decoder is the byte-level one.
    bytes: Option<Vec<Option<u8>>>,
    /// The file that it was read from, for messages.
    file: Option<PathBuf>,
    /// Whether it has names of codes of images.
    has_images: bool,
    /// Whether they are Chameleon's, so that names tell all roles.
    names_tell_roles: bool,
    /// Ids of a tokenizer whose names do not.
    roles: Option<SpecialIds>,
}

/// How serde begins an error about a value of several forms, before the name of a type.
const UNTAGGED: &str = "data did not match any variant of untagged enum ";

impl TextTokenizer {
    /// Reads a `tokenizer.json`.
    ///
    /// # Errors
    /// If the file cannot be read or is no tokenizer.
    pub fn load(path: &Path) -> Result<Self> {
        let content = std::fs::read(path).map_err(Error::io(path))?;
        refuse_lfs_pointer(path, &content)?;
        let read = Self::from_bytes(&content).map_err(Error::in_file(path))?;
        Ok(Self { file: Some(path.to_owned()), ..read })
    }

    /// Reads the content of a `tokenizer.json`.
    ///
    /// Truncation and padding settings of the file are dropped: text must never be cut or padded
    /// silently.
    ///
    /// # Errors
    /// If the content is no tokenizer.
    pub fn from_bytes(content: &[u8]) -> Result<Self> {
        // The library panics on some files that are not JSON, and on some wrong values.
        serde_json::from_slice::<IgnoredAny>(content).map_err(Error::because("not a tokenizer"))?;
        let read = guarded(|| Tokenizer::from_bytes(content))
            .ok_or_else(|| Error::invalid("not a tokenizer: a value has no known form"))?;
        let read = read.map_err(|error| {
            // The library names its own types where a value has none of the forms that it knows.
            let message = error.to_string();
            let message = message.replace(UNTAGGED, "no known form of ");
            Error::invalid(format!("not a tokenizer: {message}"))
        })?;
        Self::new(read)
    }

    pub(crate) fn new(mut inner: Tokenizer) -> Result<Self> {
        inner.with_padding(None);
        inner.with_truncation(None).map_err(Error::because("tokenizer"))?;
        let names = inner.get_vocab(true);
        let size = names.values().max().map_or(0, |id| *id as usize + 1);
        if size > 2 * names.len() + 1024 {
            let found = names.len();
            let message = format!("tokenizer has {found} names but ids up to {}", size - 1);
            return Err(Error::invalid(message));
        }
        let mut hidden = vec![false; size];
        // Names tell control tokens only where Chameleon's of codes are: others have bytes as `<0x0A>`.
        let names_tell_roles = names.keys().any(|name| token_code(name).is_some());
        let mut has_images = names_tell_roles;
        for (name, id) in &names {
            let is_code = code_of(name).is_some();
            has_images |= is_code;
            let is_control = names_tell_roles && TokenClass::of_name(name) != TokenClass::Text;
            hidden[*id as usize] = is_code || is_control;
        }
        let added = inner.get_added_tokens_decoder();
        for (id, token) in &added {
            hidden[*id as usize] |= token.special;
        }
        let mut text: Vec<_> = added.into_iter().filter(|(id, _)| !hidden[*id as usize]).collect();
        text.sort_by_key(|(id, _)| *id);
        let mut plain = AddedVocabulary::new();
        let text = text.into_iter().map(|(_, token)| token);
        plain
            .add_tokens(text, inner.get_model(), inner.get_normalizer())
            .map_err(Error::because("tokenizer"))?;
        let byte_level = matches!(inner.get_decoder(), Some(DecoderWrapper::ByteLevel(_)));
        Ok(Self {
            inner,
            plain,
            hidden,
            bytes: byte_level.then(byte_values),
            file: None,
            has_images,
            names_tell_roles,
            roles: None,
        })
    }

    /// The content of a `tokenizer.json` that reads back as this tokenizer.
    ///
    /// # Errors
    /// If a part of the tokenizer cannot be written as JSON.
    pub fn to_bytes(&self) -> Result<Vec<u8>> {
        let text = self.inner.to_string(true).map_err(Error::because("tokenizer"))?;
        Ok(text.into_bytes())
    }

    /// Writes a `tokenizer.json`.
    ///
    /// # Errors
    /// If the file cannot be written.
    pub fn save(&self, path: &Path) -> Result<()> {
        std::fs::write(path, self.to_bytes()?).map_err(Error::io(path))
    }

    /// The number of ids, control and image tokens included.
    pub fn vocab_size(&self) -> usize {
        self.hidden.len()
    }

    /// The ids of `text`, without begin-of-text. Names of control and image tokens in `text`
    /// become those tokens, as in Hugging Face; use [`TextTokenizer::encode_plain`] for anything a
    /// user wrote.
    ///
    /// # Errors
    /// If the file's rules cannot encode `text`.
    pub fn encode(&self, text: &str) -> Result<Vec<u32>> {
        self.encode_by_file(text, false)
    }

    /// As [`TextTokenizer::encode`], with the additions of the file's post-processor: begin-of-text
    /// in the Hugging Face layout, nothing in the original release's.
    ///
    /// # Errors
    /// If the file's rules cannot encode `text`.
    pub fn encode_with_specials(&self, text: &str) -> Result<Vec<u32>> {
        self.encode_by_file(text, true)
    }

    fn encode_by_file(&self, text: &str, specials: bool) -> Result<Vec<u32>> {
        let encoding = self.inner.encode_fast(text, specials);
        Ok(encoding.map_err(Error::because("text"))?.get_ids().to_vec())
    }

    /// The ids of `text` taken literally: `<racm3:break>` in it is thirteen characters. All are text
    /// ids, the same as from [`TextTokenizer::encode`] if `text` names no control or image token.
    ///
    /// # Errors
    /// If the file's rules cannot encode `text`.
    pub fn encode_plain(&self, text: &str) -> Result<Vec<u32>> {
        let found = self.plain_ids(text).map_err(Error::because("text"))?;
        let mut ids = Vec::with_capacity(found.len());
        for id in found {
            if self.is_hidden(id) {
                self.spell(id, &mut ids)?;
            } else {
                ids.push(id);
            }
        }
        Ok(ids)
    }

    /// As [`encode`](Self::encode), without `guard`, which breaks the names that are to stay text.
    ///
    /// # Errors
    /// As [`encode`](Self::encode).
    pub(super) fn encode_guarded(&self, text: &str, guard: char) -> Result<Vec<u32>> {
        if !text.contains(guard) {
            return self.encode(text);
        }
        let encoding = self.inner.encode(text, false).map_err(Error::because("text"))?;
        let plain = |from: usize, to: usize| {
            self.encode_plain(&text.get(from..to).unwrap_or_default().replace(guard, ""))
        };
        let (mut ids, mut end) = (Vec::new(), 0);
        for (&id, &(from, to)) in encoding.get_ids().iter().zip(encoding.get_offsets()) {
            if self.is_hidden(id) {
                ids.extend(plain(end, from)?);
                ids.push(id);
                end = to;
            }
        }
        ids.extend(plain(end, text.len())?);
        Ok(ids)
    }

    /// As [`encode_guarded`](Self::encode_guarded), with the bytes of `text` that each id stands for.
    ///
    /// # Errors
    /// As [`encode`](Self::encode).
    pub(super) fn encode_guarded_with_places(
        &self,
        text: &str,
        guard: char,
    ) -> Result<Vec<(u32, Range<usize>)>> {
        let encoding = self.inner.encode(text, false).map_err(Error::because("text"))?;
        let places = encoding.get_offsets().iter().map(|&(from, to)| from..to);
        let all = encoding.get_ids().iter().copied().zip(places);
        if !text.contains(guard) {
            return Ok(all.collect());
        }
        let (mut found, mut end) = (Vec::new(), 0);
        for (id, place) in all.filter(|(id, _)| self.is_hidden(*id)) {
            self.plain_with_places(text, end..place.start, guard, &mut found)?;
            end = place.end;
            found.push((id, place));
        }
        self.plain_with_places(text, end..text.len(), guard, &mut found)?;
        Ok(found)
    }

    /// Appends the ids of the bytes `part` of `text`, taken literally and without `guard`, to `found`.
    fn plain_with_places(
        &self,
        text: &str,
        part: Range<usize>,
        guard: char,
        found: &mut Vec<(u32, Range<usize>)>,
    ) -> Result<()> {
        let mut plain = String::new();
        // Where each byte of `plain`, and its end, lies in `text`.
        let mut places = Vec::new();
        for (at, character) in text.get(part.clone()).unwrap_or_default().char_indices() {
            if character != guard {
                plain.push(character);
                places.extend((0..character.len_utf8()).map(|byte| part.start + at + byte));
            }
        }
        places.push(part.end);
        let encoding = self.plain_encoding(&plain, OffsetType::Byte);
        let encoding = encoding.map_err(Error::because("text"))?;
        for (&id, &(from, to)) in encoding.get_ids().iter().zip(encoding.get_offsets()) {
            let place = places[from]..places[to];
            let mut ids = vec![id];
            if self.is_hidden(id) {
                ids.clear();
                self.spell(id, &mut ids)?;
            }
            found.extend(ids.into_iter().map(|id| (id, place.clone())));
        }
        Ok(())
    }

    /// Ids by the file's rules, without looking for control tokens.
    fn plain_ids(&self, text: &str) -> tokenizers::Result<Vec<u32>> {
        Ok(self.plain_encoding(text, OffsetType::None)?.get_ids().to_vec())
    }

    fn plain_encoding(&self, text: &str, offsets: OffsetType) -> tokenizers::Result<Encoding> {
        let mut pieces = self.plain.extract_and_normalize(self.inner.get_normalizer(), text);
        if let Some(pre_tokenizer) = self.inner.get_pre_tokenizer() {
            pre_tokenizer.pre_tokenize(&mut pieces)?;
        }
        let model = self.inner.get_model();
        pieces
            .tokenize(|piece| -> tokenizers::Result<Vec<Token>> { model.tokenize(piece.get()) })?;
        pieces.into_encoding(None, 0, offsets)
    }

    /// Appends the ids of the single characters of the token `hidden`, for text from which a file's
    /// merges, or a model that looks up whole words first, would make a control token.
    fn spell(&self, hidden: u32, ids: &mut Vec<u32>) -> Result<()> {
        let name = self.inner.id_to_token(hidden).unwrap_or_default();
        for character in name.chars() {
            let id = self.inner.get_model().token_to_id(character.encode_utf8(&mut [0; 4]));
            let id = id.filter(|id| !self.is_hidden(*id)).ok_or_else(|| {
                Error::invalid(format!("text holds {name}, which the tokenizer cannot spell out"))
            })?;
            ids.push(id);
        }
        Ok(())
    }

    pub(super) fn is_hidden(&self, id: u32) -> bool {
        self.hidden.get(id as usize).copied().unwrap_or(true)
    }

    /// The text of `ids`; control and image tokens are omitted, and invalid UTF-8 becomes U+FFFD.
    ///
    /// # Errors
    /// If an id is beyond the vocabulary.
    pub fn decode(&self, ids: &[u32]) -> Result<String> {
        self.check_ids(ids)?;
        let ids: Vec<u32> = ids.iter().copied().filter(|id| !self.is_hidden(*id)).collect();
        self.inner.decode(&ids, false).map_err(Error::because("ids"))
    }

    /// As [`TextTokenizer::decode`], with control and image tokens by their names.
    ///
    /// # Errors
    /// If an id is beyond the vocabulary.
    pub fn decode_with_specials(&self, ids: &[u32]) -> Result<String> {
        self.check_ids(ids)?;
        self.inner.decode(ids, false).map_err(Error::because("ids"))
    }

    /// The name of `id` in the file (byte-level names are not text: see [`TextTokenizer::decode`]).
    pub fn token(&self, id: u32) -> Option<String> {
        self.inner.id_to_token(id)
    }

    pub(super) fn check_ids(&self, ids: &[u32]) -> Result<()> {
        match ids.iter().find(|id| **id as usize >= self.hidden.len()) {
            Some(id) => Err(Error::invalid(format!(
                "id {id} is beyond the vocabulary of {} tokens",
                self.hidden.len()
            ))),
            None => Ok(()),
        }
    }

    /// The bytes of `id`, if the file's decoder is the byte-level one.
    pub(super) fn token_bytes(&self, id: u32) -> Option<Vec<u8>> {
        let values = self.bytes.as_ref()?;
        let name = self.inner.id_to_token(id).unwrap_or_default();
        let value = |character: char| values.get(character as usize).copied().flatten();
        let bytes: Option<Vec<u8>> = name.chars().map(value).collect();
        Some(bytes.unwrap_or_else(|| name.into_bytes()))
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;

    #[test]
    fn malformed_files_are_errors() {
        assert!(TextTokenizer::from_bytes(b"{").is_err());
        assert!(TextTokenizer::from_bytes(b"{}").is_err());
        // Found by fuzzing: the library panics on a decoder that is not JSON.
        let cut = br#"{"version": "1.0", "decoder": {"type" "ByteLevel"}, "model": {}}"#;
        assert!(TextTokenizer::from_bytes(cut).unwrap_err().to_string().contains("expected `:`"));
        let error = TextTokenizer::load(Path::new("no/such/tokenizer.json")).unwrap_err();
        assert!(error.to_string().contains("no/such/tokenizer.json"));
    }
}
