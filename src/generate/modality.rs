//! Which id may follow: a state machine over text and image blocks, without tensors.
//!
//! An image is `begin-image`, one image id per code, `end-image`; in layouts with sizes the height and
//! width come first and an id ends every row (see [`ImageBlocks`]). Where the prompt says the sizes, a model draws one
//! image, and end-of-text follows it. In text, text ids and stop ids are allowed
//! and, if a whole block still fits, begin-image: padding, begin-of-text, placeholders and reserved
//! names are never drawn. Rules and names are the original release's
//! (`chameleon/inference/chameleon.py`); it requires room for one id after the block, whereas here
//! a row may end with the image.

use std::collections::HashMap;
use std::ops::Range;
use std::sync::{Arc, Mutex, PoisonError};

use serde::{Deserialize, Serialize};

use crate::error::{Error, Result};
use crate::tokenize::{ImageBlocks, PartialSize, SizeStep, TokenClass, Vocabulary};

/// What a request may generate.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum GenerationMode {
    /// Text and images, as the model decides.
    #[default]
    Auto,
    /// Text only: no image is begun.
    #[serde(rename = "text")]
    TextOnly,
    /// Exactly one image, begun at once.
    #[serde(rename = "image")]
    ImageOnly,
}

/// State of a row: what may follow its last id.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum ModalityState {
    /// Between images.
    Text,
    /// Inside an image block, in its size.
    Size(PartialSize),
    /// Inside an image block of known size.
    Image {
        /// Ids still to come, codes and marks among them; with none left, end-image follows.
        remaining: usize,
        /// Rows and columns of codes.
        grid: (usize, usize),
    },
    /// After an image that ends the text: end-of-text follows.
    LastImage,
    /// Nothing follows.
    Done,
}

/// What a set of ids depends on: the state as far as it matters, whether a whole image fits, and the columns.
type SetKey = (SetOf, bool, Range<usize>);

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum SetOf {
    Text,
    Codes,
}

/// The ids that a vocabulary and a request allow in each [`ModalityState`].
#[derive(Debug)]
pub struct ModalityRules {
    text: Vec<bool>,
    image: Vec<bool>,
    stop: Vec<bool>,
    image_columns: Range<usize>,
    /// The bits of the ids that may follow, kept because they are asked for in every pass.
    sets: Mutex<HashMap<SetKey, Arc<[u32]>>>,
    bos: Option<u32>,
    eos: u32,
    begin_image: Option<u32>,
    end_image: Option<u32>,
    blocks: ImageBlocks,
    mode: GenerationMode,
}

impl ModalityRules {
    /// The rules of `vocabulary` for image blocks in the layout `blocks`. `stop_ids` end a request,
    /// as the vocabulary's end-of-text does.
    ///
    /// # Errors
    /// If only images are wanted of a text model; if a stop id is outside the vocabulary or belongs to images or to padding.
    pub fn new(
        vocabulary: &Vocabulary,
        blocks: ImageBlocks,
        mode: GenerationMode,
        stop_ids: &[u32],
    ) -> Result<Self> {
        let special = vocabulary.special();
        if mode == GenerationMode::ImageOnly && !vocabulary.has_images() {
            return Err(Error::NoImageTokenizer);
        }
        let ids = 0..vocabulary.len() as u32;
        let table = |class: fn(&TokenClass) -> bool| -> Vec<bool> {
            ids.clone().map(|id| class(&vocabulary.class(id))).collect()
        };
        let text = table(|class| matches!(class, TokenClass::Text));
        let image = table(|class| matches!(class, TokenClass::Image));
        let other = table(|class| matches!(class, TokenClass::Special));
        let mut stop = vec![false; text.len()];
        for &id in stop_ids.iter().chain([&special.eos]) {
            let at = id as usize;
            let usable =
                text.get(at).zip(other.get(at)).is_some_and(|(text, other)| *text || *other);
            // Text models and their extensions end with any token, also with what fills their rows.
            let ends = special.sep.is_none() || Some(id) != special.bos && id != special.pad;
            if !usable || !ends {
                return Err(Error::invalid(format!(
                    "stop id {id} is no text, end-of-text or separator id of the vocabulary"
                )));
            }
            stop[at] = true;
        }
        let in_blocks = |id: &usize| image[*id] || blocks.is_row_mark(*id as u32);
        let start = (0..image.len()).find(in_blocks).unwrap_or(0);
        let end = (start..image.len()).rfind(in_blocks).map_or(start, |last| last + 1);
        Ok(Self {
            text,
            image,
            stop,
            image_columns: start..end,
            sets: Mutex::default(),
            bos: special.bos,
            eos: special.eos,
            begin_image: special.begin_image,
            end_image: special.end_image,
            blocks,
            mode,
        })
    }

    /// The state after `row`, which may end inside an image block.
    ///
    /// # Errors
    /// If the row is empty, has an id outside the vocabulary, or its open image block is too long
    /// or has anything but image ids.
    pub fn state_after(&self, row: &[u32]) -> Result<ModalityState> {
        let len = self.text.len();
        if let Some(id) = row.iter().find(|&&id| id as usize >= len) {
            return Err(Error::invalid(format!("prompt id {id} is outside the {len} known ids")));
        }
        if row.is_empty() {
            return Err(Error::invalid("the prompt has no ids; begin-of-text is the least"));
        }
        let bracket = |&id: &u32| [self.begin_image, self.end_image].contains(&Some(id));
        let block = match row.iter().rposition(bracket) {
            Some(at) if Some(row[at]) == self.begin_image => &row[at + 1..],
            _ => return Ok(ModalityState::Text),
        };
        let mut state = self.opened();
        for &id in block {
            let fits = match state {
                ModalityState::Image { remaining: 0, .. } | ModalityState::Done => {
                    return Err(Error::invalid(format!(
                        "the prompt's open image block has {} ids; its image is complete before",
                        block.len()
                    )));
                }
                _ => self.allows(state, id, usize::MAX),
            };
            if !fits {
                let message = format!("the prompt has id {id} in an open image block");
                return Err(Error::invalid(message));
            }
            state = self.advance(state, id);
        }
        // In image-only mode something must be left to draw.
        if state == ModalityState::Done {
            let len = block.len();
            return Err(Error::invalid(format!(
                "the prompt's open image block of {len} ids is a whole image already"
            )));
        }
        Ok(state)
    }

    /// The state after begin-image.
    fn opened(&self) -> ModalityState {
        self.after_step(self.blocks.first_step())
    }

    fn after_step(&self, step: SizeStep) -> ModalityState {
        match step {
            SizeStep::More(said) => ModalityState::Size(said),
            SizeStep::Grid(grid) => {
                ModalityState::Image { remaining: self.blocks.rows_len(grid), grid }
            }
        }
    }

    /// Minimum number of ids that complete the open image or, in text, the next one.
    pub fn least_to_complete(&self, state: ModalityState) -> usize {
        let end = match self.mode {
            GenerationMode::ImageOnly => 0,
            _ => 1 + usize::from(self.blocks.are_sized_by_prompt()),
        };
        match state {
            ModalityState::Text => 1 + self.least_to_complete(self.opened()),
            ModalityState::Size(said) => self.blocks.least_after(said) + end,
            ModalityState::Image { remaining, .. } => remaining + end,
            ModalityState::LastImage => 1,
            ModalityState::Done => 0,
        }
    }

    /// Whether `id` may follow in `state` if the row may have `available` more ids.
    pub fn allows(&self, state: ModalityState, id: u32, available: usize) -> bool {
        let of = |table: &[bool]| table.get(id as usize).copied().unwrap_or(false);
        match state {
            ModalityState::Text if Some(id) == self.begin_image => {
                self.mode != GenerationMode::TextOnly && available >= self.least_to_complete(state)
            }
            ModalityState::Text => available > 0 && (of(&self.text) || of(&self.stop)),
            // Only sizes whose image still fits.
            ModalityState::Size(said) => {
                let next = self.blocks.size_step(said, id).map(|step| self.after_step(step));
                next.is_some_and(|next| available > self.least_to_complete(next))
            }
            ModalityState::Image { remaining: 0, .. } => Some(id) == self.end_image,
            ModalityState::Image { remaining, grid } => {
                match self.blocks.mark_at(remaining, grid) {
                    Some(mark) => id == mark,
                    None => of(&self.image),
                }
            }
            ModalityState::LastImage => id == self.eos,
            ModalityState::Done => false,
        }
    }

    /// The ids among `columns` that may follow in `state` if the row may have `available` more: bit `i % 32` of word
    /// `i / 32` stands for column `i`.
    pub fn allowed(
        &self,
        state: ModalityState,
        available: usize,
        columns: &Range<usize>,
    ) -> Arc<[u32]> {
        let build = || bits(columns, |id| self.allows(state, id, available));
        let key = match state {
            ModalityState::Text if available > 0 => {
                (SetOf::Text, available >= self.least_to_complete(state), columns.clone())
            }
            ModalityState::Image { remaining, grid }
                if remaining > 0 && self.blocks.mark_at(remaining, grid).is_none() =>
            {
                return self.codes(columns);
            }
            _ => return build(),
        };
        let mut sets = self.sets.lock().unwrap_or_else(PoisonError::into_inner);
        sets.entry(key).or_insert_with(build).clone()
    }

    /// The codes of images among `columns`, as [`allowed`](Self::allowed) gives ids.
    pub fn codes(&self, columns: &Range<usize>) -> Arc<[u32]> {
        let mut sets = self.sets.lock().unwrap_or_else(PoisonError::into_inner);
        let key = (SetOf::Codes, true, columns.clone());
        sets.entry(key).or_insert_with(|| bits(columns, |id| self.is_image(id))).clone()
    }

    /// The state after `id`, which must be one that [`allows`](Self::allows).
    pub fn advance(&self, state: ModalityState, id: u32) -> ModalityState {
        match state {
            ModalityState::Text if Some(id) == self.begin_image => self.opened(),
            ModalityState::Text if self.is_stop(id) => ModalityState::Done,
            ModalityState::Size(said) => {
                self.blocks.size_step(said, id).map_or(state, |step| self.after_step(step))
            }
            ModalityState::Image { remaining: 1, .. } if self.mode == GenerationMode::ImageOnly => {
                ModalityState::Done
            }
            ModalityState::Image { remaining, grid } if remaining > 0 => {
                ModalityState::Image { remaining: remaining - 1, grid }
            }
            ModalityState::Image { .. } if self.blocks.are_sized_by_prompt() => {
                ModalityState::LastImage
            }
            ModalityState::LastImage | ModalityState::Done => ModalityState::Done,
            _ => ModalityState::Text,
        }
    }

    /// The only id that may follow, if there is just one: it needs no model.
    pub fn forced(&self, state: ModalityState) -> Option<u32> {
        match state {
            ModalityState::Image { remaining: 0, .. } => self.end_image,
            ModalityState::Image { remaining, grid } => self.blocks.mark_at(remaining, grid),
            ModalityState::LastImage => Some(self.eos),
            ModalityState::Text if self.mode == GenerationMode::ImageOnly => self.begin_image,
            _ => None,
        }
    }

    /// Whether `id` ends a request.
    pub fn is_stop(&self, id: u32) -> bool {
        self.stop.get(id as usize).copied().unwrap_or(false)
    }

    /// Whether `id` is a code of images.
    pub fn is_image(&self, id: u32) -> bool {
        self.image.get(id as usize).copied().unwrap_or(false)
    }

    /// Whether `id` is text.
    pub fn is_text(&self, id: u32) -> bool {
        self.text.get(id as usize).copied().unwrap_or(false)
    }

    /// The smallest range with all ids that may follow in an image block after its size.
    pub fn image_columns(&self) -> Range<usize> {
        self.image_columns.clone()
    }

    /// The begin-of-text id, if there is one.
    pub fn bos(&self) -> Option<u32> {
        self.bos
    }

    /// The begin-image id; `None` for a text model.
    pub fn begin_image(&self) -> Option<u32> {
        self.begin_image
    }

    /// The end-image id; `None` for a text model.
    pub fn end_image(&self) -> Option<u32> {
        self.end_image
    }

    /// The layout of image blocks.
    pub fn blocks(&self) -> &ImageBlocks {
        &self.blocks
    }

    /// What a request may generate.
    pub fn mode(&self) -> GenerationMode {
        self.mode
    }
}

/// The ids among `columns` that `has` is true for: bit `i % 32` of word `i / 32` stands for column `i`.
fn bits(columns: &Range<usize>, has: impl Fn(u32) -> bool) -> Arc<[u32]> {
    let mut bits = vec![0; columns.len().div_ceil(32)];
    for (at, id) in columns.clone().enumerate() {
        bits[at / 32] |= u32::from(has(id as u32)) << (at % 32);
    }
    bits.into()
}
