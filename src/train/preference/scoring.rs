//! Which tokens of an answer are scored, and under which distribution.

use super::config::ImageLogProbs;
use crate::error::{Error, Result};
use crate::tokenize::{TokenClass, TokenSequence, Vocabulary};
use crate::train::answers::{Answers, Scored};
use crate::train::distributions::{Distributions, Support};

/// The number of the distribution over all ids.
const ALL: usize = 0;
/// The number of that over image codes.
const CODES: usize = 1;

/// Which targets are scored under which distribution.
#[derive(Clone, Debug)]
pub(super) struct Scoring {
    /// Over all ids and, if codes are scored among themselves, over codes.
    distributions: Distributions,
    classes: Vec<TokenClass>,
}

impl Scoring {
    /// The scoring that `of_images` asks for.
    ///
    /// # Errors
    /// [`Error::Invalid`] if the ids of the image codes have gaps.
    pub(super) fn new(vocabulary: &Vocabulary, of_images: ImageLogProbs) -> Result<Self> {
        let ids = vocabulary.image_ids();
        let mut supports = vec![Support::All];
        if let (ImageLogProbs::Allowed, Some(first), Some(last)) =
            (of_images, ids.iter().min(), ids.iter().max())
        {
            let range = *first as usize..*last as usize + 1;
            if range.len() != ids.len() {
                return Err(Error::invalid(
                    "reference.image_log_probs is allowed, but the ids of the image codes have gaps; \
                     allowed here: full",
                ));
            }
            supports.push(Support::Range(range));
        }
        let classes = (0..vocabulary.len() as u32).map(|id| vocabulary.class(id)).collect();
        let pad = vocabulary.special().pad;
        Ok(Self { distributions: Distributions { supports, temperature: 1.0, pad }, classes })
    }

    /// Whether a learnt token of an answer is scored.
    pub(super) fn scores(&self, id: u32) -> bool {
        let class = self.classes[id as usize];
        let forced = matches!(class, TokenClass::BeginImage | TokenClass::EndImage);
        !self.has_codes() || !forced
    }

    fn has_codes(&self) -> bool {
        self.distributions.supports.len() > CODES
    }

    /// Packs `documents` into rows of at most `seq_len` tokens, which none exceeds.
    pub(super) fn pack(&self, documents: &[&TokenSequence], seq_len: usize) -> Answers<'_> {
        let scored: Vec<Scored<'_>> =
            documents.iter().map(|document| self.scored(document)).collect();
        Answers::pack(&scored, seq_len, &self.distributions)
    }

    /// Packs `documents` for the values at their last tokens, in rows of at most `seq_len` tokens.
    pub(super) fn pack_last(&self, documents: &[&TokenSequence], seq_len: usize) -> Answers<'_> {
        let ids: Vec<&[u32]> = documents.iter().map(|document| &document.ids[..]).collect();
        Answers::of_last_tokens(&ids, seq_len, &self.distributions)
    }

    fn scored<'a>(&self, document: &'a TokenSequence) -> Scored<'a> {
        let number = |id: &u32| match self.classes[*id as usize] {
            TokenClass::Image if self.has_codes() => CODES,
            _ => ALL,
        };
        let tokens = document.ids.iter().zip(&document.loss_mask);
        let scored = tokens.map(|(id, learnt)| (*learnt && self.scores(*id)).then(|| number(id)));
        Scored { ids: &document.ids, distributions: scored.collect() }
    }
}
