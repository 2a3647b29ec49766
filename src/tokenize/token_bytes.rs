//! The bytes that each id of a vocabulary stands for.

use super::text::TextTokenizer;
use crate::error::Result;

/// The bytes of every text id; control tokens and codes of images have none.
///
/// Under a byte-level decoder the bytes of ids, one after another, are the bytes of their text; an id may hold
/// a part of a character. Other decoders are asked for the text of each id: they may write it differently at
/// the start of a text, such as without its space.
///
/// ```
/// use calumma::tokenize::{BpeConfig, TokenBytes, train_bpe};
///
/// let config = BpeConfig { num_codes: 16, vocab_size: 300, ..BpeConfig::default() };
/// let tokenizer = train_bpe(&config, ["a red square"])?;
/// let bytes = TokenBytes::new(&tokenizer)?;
/// let ids = tokenizer.encode_plain("é a red")?;
/// let text: Vec<u8> = ids.iter().flat_map(|id| bytes.get(*id).unwrap()).copied().collect();
/// assert_eq!(text, "é a red".as_bytes());
/// # Ok::<(), calumma::Error>(())
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TokenBytes {
    inside: Table,
    /// Where it differs: the bytes of each id at the start of a text.
    first: Option<Table>,
    begin_image: Option<u32>,
}

impl TokenBytes {
    /// The bytes of the ids of `text`.
    ///
    /// # Errors
    /// If the tokenizer's decoder refuses an id.
    pub fn new(text: &TextTokenizer) -> Result<Self> {
        let ids = 0..text.vocab_size() as u32;
        let begin_image = text.begin_image();
        let (mut inside, mut first) = (Table::default(), Table::default());
        for id in ids {
            if text.is_hidden(id) {
                inside.push(None);
                first.push(None);
                continue;
            }
            if let Some(bytes) = text.token_bytes(id) {
                inside.push(Some(&bytes));
                continue;
            }
            let alone = text.decode(&[id])?;
            let twice = text.decode(&[id, id])?;
            inside.push(Some(twice.strip_prefix(&alone).unwrap_or(&alone).as_bytes()));
            first.push(Some(alone.as_bytes()));
        }
        let differs = first.ends.len() == inside.ends.len() && first != inside;
        Ok(Self { inside, first: differs.then_some(first), begin_image })
    }

    /// The bytes `pieces`, by id, with `None` for control tokens and codes of images, one of which begins
    /// images.
    pub fn from_pieces<P: AsRef<[u8]>>(
        pieces: impl IntoIterator<Item = Option<P>>,
        begin_image: Option<u32>,
    ) -> Self {
        let mut inside = Table::default();
        for piece in pieces {
            inside.push(piece.as_ref().map(AsRef::as_ref));
        }
        Self { inside, first: None, begin_image }
    }

    /// The bytes of `id` inside a text; `None` if it is no text id of the vocabulary.
    pub fn get(&self, id: u32) -> Option<&[u8]> {
        self.inside.get(id)
    }

    /// The bytes of `id` at the start of a text; `None` if it is no text id of the vocabulary.
    pub fn first(&self, id: u32) -> Option<&[u8]> {
        self.first.as_ref().unwrap_or(&self.inside).get(id)
    }

    /// The number of ids.
    pub fn len(&self) -> usize {
        self.inside.ends.len()
    }

    /// Whether there are no ids.
    pub fn is_empty(&self) -> bool {
        self.inside.ends.is_empty()
    }

    /// Whether `id` is begin-image, after which a new text starts.
    pub fn begins_image(&self, id: u32) -> bool {
        self.begin_image == Some(id)
    }
}

/// Pieces of bytes, one after another.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Table {
    bytes: Vec<u8>,
    /// For each id where its bytes end, and whether it has any.
    ends: Vec<(usize, bool)>,
}

impl Table {
    fn push(&mut self, piece: Option<&[u8]>) {
        self.bytes.extend_from_slice(piece.unwrap_or_default());
        self.ends.push((self.bytes.len(), piece.is_some()));
    }

    fn get(&self, id: u32) -> Option<&[u8]> {
        let at = id as usize;
        let (end, is_text) = *self.ends.get(at)?;
        let start = at.checked_sub(1).map_or(0, |before| self.ends[before].0);
        is_text.then(|| &self.bytes[start..end])
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests")]
mod tests {
    use std::path::Path;

    use proptest::prelude::*;

    use super::*;
    use crate::tokenize::TokenClass;

    fn shipped() -> TextTokenizer {
        let dir = Path::new(env!("CARGO_MANIFEST_DIR"));
        TextTokenizer::load(&dir.join("checkpoints/demo/tokenizer.json")).unwrap()
    }

    #[test]
    fn only_text_ids_have_bytes_and_together_they_spell_every_byte() {
        let text = shipped();
        let (bytes, vocabulary) = (TokenBytes::new(&text).unwrap(), text.vocabulary().unwrap());
        assert_eq!(bytes.len(), vocabulary.len());
        let mut single = [false; 256];
        for id in 0..vocabulary.len() as u32 {
            let is_text = vocabulary.class(id) == TokenClass::Text;
            assert_eq!(bytes.get(id).is_some(), is_text, "{:?}", vocabulary.name(id));
            if let Some([byte]) = bytes.get(id) {
                single[usize::from(*byte)] = true;
            }
        }
        assert!(single.iter().all(|found| *found), "a byte is no token");
        assert_eq!(bytes.get(vocabulary.len() as u32), None);
        assert!(bytes.begins_image(vocabulary.special().begin_image.unwrap()));
        assert!(!bytes.begins_image(vocabulary.special().end_image.unwrap()));
    }

    /// A decoder that is not byte-level, and drops the space before the first word.
    fn metaspace() -> TextTokenizer {
        let json = r#"{"version": "1.0", "truncation": null, "padding": null, "added_tokens": [],
            "normalizer": null, "post_processor": null,
            "pre_tokenizer": {"type": "Metaspace", "replacement": "▁", "prepend_scheme": "first", "split": true},
            "decoder": {"type": "Metaspace", "replacement": "▁", "prepend_scheme": "first", "split": true},
            "model": {"type": "WordLevel", "unk_token": "?",
                "vocab": {"?": 0, "<s>": 1, "▁red": 2, "▁ball": 3, "s": 4, "IMGIMGAZ": 5}}}"#;
        TextTokenizer::from_bytes(json.as_bytes()).unwrap()
    }

    #[test]
    fn other_decoders_tell_the_start_of_a_text_from_its_inside() {
        let text = metaspace();
        let bytes = TokenBytes::new(&text).unwrap();
        assert_eq!((bytes.first(2), bytes.get(2)), (Some(&b"red"[..]), Some(&b" red"[..])));
        assert_eq!((bytes.first(4), bytes.get(4)), (Some(&b"s"[..]), Some(&b"s"[..])));
        assert_eq!((bytes.get(1), bytes.get(5), bytes.first(5)), (None, None, None));
        assert_eq!(text.decode(&[2, 3, 4]).unwrap(), "red balls");
    }

    proptest! {
        #[test]
        fn bytes_of_ids_one_after_another_are_the_decoded_text(
            raw in prop::collection::vec(any::<u16>(), 0..30),
            spaced in any::<bool>(),
        ) {
            let text = if spaced { metaspace() } else { shipped() };
            let bytes = TokenBytes::new(&text).unwrap();
            let all = (0..text.vocab_size() as u32).filter(|id| bytes.get(*id).is_some());
            let all: Vec<u32> = all.collect();
            let ids: Vec<u32> = raw.iter().map(|raw| all[usize::from(*raw) % all.len()]).collect();
            let piece = |(at, id): (usize, &u32)| {
                if at == 0 { bytes.first(*id) } else { bytes.get(*id) }.unwrap().to_vec()
            };
            let joined: Vec<u8> = ids.iter().enumerate().flat_map(piece).collect();
            prop_assert_eq!(String::from_utf8_lossy(&joined), text.decode(&ids).unwrap());
        }
    }
}
