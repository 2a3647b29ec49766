//! Which id may follow: a state machine over text and image blocks, without tensors.
//!
//! A picture is `begin-image`, exactly as many image ids as a picture has codes, `end-image`.
//! Text steps allow text ids, the stop ids and, where a whole block still fits, begin-image; so
//! padding, begin-of-text, placeholders and reserved names are never drawn. Rules and names are
//! the original release's (`chameleon/inference/chameleon.py`); it asks for one place more than
//! the block, where we let a row end with the picture.

use super::config::{GenerationConfig, GenerationMode};
use crate::error::{Error, Result};
use crate::tokenize::{TokenClass, Vocabulary};

/// Where a row is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum ModalityState {
    /// Between pictures.
    Text,
    /// Inside an image block.
    Image {
        /// Image ids still to come; with none left, end-image follows.
        remaining: usize,
    },
    /// Nothing follows.
    Done,
}

/// What the vocabulary and a request allow in each [`ModalityState`].
#[derive(Clone, Debug)]
pub struct ModalityRules {
    text: Vec<bool>,
    image: Vec<bool>,
    stop: Vec<bool>,
    bos: u32,
    begin_image: u32,
    end_image: u32,
    codes_per_image: usize,
    mode: GenerationMode,
}

impl ModalityRules {
    /// The rules of `vocabulary` for pictures of `codes_per_image` codes and `config`'s mode and
    /// stop ids.
    ///
    /// # Errors
    /// When a stop id is outside the vocabulary or belongs to pictures or to padding.
    pub fn new(
        vocabulary: &Vocabulary,
        codes_per_image: usize,
        config: &GenerationConfig,
    ) -> Result<Self> {
        let special = vocabulary.special();
        let ids = 0..vocabulary.len() as u32;
        let table = |class: fn(&TokenClass) -> bool| -> Vec<bool> {
            ids.clone().map(|id| class(&vocabulary.class(id))).collect()
        };
        let text = table(|class| matches!(class, TokenClass::Text));
        let image = table(|class| matches!(class, TokenClass::Image));
        let other = table(|class| matches!(class, TokenClass::Special));
        let mut stop = vec![false; text.len()];
        for &id in config.stop_ids.iter().chain([&special.eos]) {
            let at = id as usize;
            let meant =
                text.get(at).zip(other.get(at)).is_some_and(|(text, other)| *text || *other);
            if !meant || [special.bos, special.pad].contains(&id) {
                return Err(Error::Invalid(format!(
                    "stop id {id} is no text, end-of-text or separator id of the vocabulary"
                )));
            }
            stop[at] = true;
        }
        Ok(Self {
            text,
            image,
            stop,
            bos: special.bos,
            begin_image: special.begin_image,
            end_image: special.end_image,
            codes_per_image,
            mode: config.mode,
        })
    }

    /// The state after `row`, which may end inside an image block.
    ///
    /// # Errors
    /// When the row is empty, holds an id that the vocabulary lacks, or its open image block is
    /// too long or holds anything but image ids.
    pub fn state_after(&self, row: &[u32]) -> Result<ModalityState> {
        let len = self.text.len();
        if let Some(id) = row.iter().find(|&&id| id as usize >= len) {
            return Err(Error::Invalid(format!("prompt id {id} is outside the {len} known ids")));
        }
        if row.is_empty() {
            return Err(Error::Invalid("the prompt has no ids; begin-of-text is the least".into()));
        }
        let bracket = |&id: &u32| id == self.begin_image || id == self.end_image;
        let block = match row.iter().rposition(bracket) {
            Some(at) if row[at] == self.begin_image => &row[at + 1..],
            _ => return Ok(ModalityState::Text),
        };
        if let Some(id) = block.iter().find(|&&id| !self.image[id as usize]) {
            return Err(Error::Invalid(format!("the prompt has id {id} in an open image block")));
        }
        // In image-only mode there must be something left to draw.
        let most = self.codes_per_image - usize::from(self.mode == GenerationMode::ImageOnly);
        if block.len() > most {
            return Err(Error::Invalid(format!(
                "the prompt's open image block has {} codes; allowed: at most {most}",
                block.len()
            )));
        }
        Ok(ModalityState::Image { remaining: self.codes_per_image - block.len() })
    }

    /// Whether `id` may follow in `state` when `room` more ids fit the row.
    pub fn allows(&self, state: ModalityState, id: u32, room: usize) -> bool {
        let of = |table: &[bool]| table.get(id as usize).copied().unwrap_or(false);
        match state {
            ModalityState::Text if id == self.begin_image => {
                self.mode != GenerationMode::TextOnly && room >= self.block_len()
            }
            ModalityState::Text => room > 0 && (of(&self.text) || of(&self.stop)),
            ModalityState::Image { remaining: 0 } => id == self.end_image,
            ModalityState::Image { .. } => of(&self.image),
            ModalityState::Done => false,
        }
    }

    /// The state after `id`, which [`allows`](Self::allows) should have allowed.
    pub fn advance(&self, state: ModalityState, id: u32) -> ModalityState {
        match state {
            ModalityState::Text if id == self.begin_image => {
                ModalityState::Image { remaining: self.codes_per_image }
            }
            ModalityState::Text if self.is_stop(id) => ModalityState::Done,
            ModalityState::Image { remaining: 1 } if self.mode == GenerationMode::ImageOnly => {
                ModalityState::Done
            }
            ModalityState::Image { remaining } if remaining > 0 => {
                ModalityState::Image { remaining: remaining - 1 }
            }
            ModalityState::Done => ModalityState::Done,
            _ => ModalityState::Text,
        }
    }

    /// The id that must follow, if there is only one: it needs no model.
    pub fn forced(&self, state: ModalityState) -> Option<u32> {
        match state {
            ModalityState::Image { remaining: 0 } => Some(self.end_image),
            ModalityState::Text if self.mode == GenerationMode::ImageOnly => Some(self.begin_image),
            _ => None,
        }
    }

    /// Whether `id` ends a request.
    pub fn is_stop(&self, id: u32) -> bool {
        self.stop.get(id as usize).copied().unwrap_or(false)
    }

    /// Whether `id` stays in a row that is stripped of its text.
    pub fn is_pictorial(&self, id: u32) -> bool {
        self.image.get(id as usize).copied().unwrap_or(false)
            || [self.bos, self.begin_image, self.end_image].contains(&id)
    }

    /// The begin-of-text id.
    pub fn bos(&self) -> u32 {
        self.bos
    }

    /// The begin-image id.
    pub fn begin_image(&self) -> u32 {
        self.begin_image
    }

    /// Codes of one picture.
    pub fn codes_per_image(&self) -> usize {
        self.codes_per_image
    }

    /// Ids of a whole image block: its codes and the two ids around them.
    pub fn block_len(&self) -> usize {
        self.codes_per_image + 2
    }

    /// What a request may produce.
    pub fn mode(&self) -> GenerationMode {
        self.mode
    }
}
