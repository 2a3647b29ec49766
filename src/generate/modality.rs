//! Which id may follow: a state machine over text and image blocks, without tensors.
//!
//! An image is `begin-image`, exactly as many image ids as an image has codes, `end-image`; in
//! Lumina-mGPT's form its height and width come first, and an id ends every row. Text steps allow text ids, the stop ids and, where a whole block still fits, begin-image; so
//! padding, begin-of-text, placeholders and reserved names are never drawn. Rules and names are
//! the original release's (`chameleon/inference/chameleon.py`); it asks for one place more than
//! the block, where we let a row end with the image.

use super::config::{GenerationConfig, GenerationMode};
use crate::error::{Error, Result};
use crate::tokenize::{ImageBlocks, TokenClass, Vocabulary};

/// Where a row is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum ModalityState {
    /// Between images.
    Text,
    /// Inside an image block that has not said its height yet.
    Height,
    /// Inside an image block that has not said its width yet.
    Width {
        /// Rows of codes.
        rows: usize,
    },
    /// Inside an image block of known size.
    Image {
        /// Ids still to come, codes and ends of rows; with none left, end-image follows.
        remaining: usize,
        /// Rows and columns of codes.
        grid: (usize, usize),
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
    blocks: ImageBlocks,
    mode: GenerationMode,
}

impl ModalityRules {
    /// The rules of `vocabulary` for images in the form `blocks` and `config`'s mode and stop ids.
    ///
    /// # Errors
    /// When a stop id is outside the vocabulary or belongs to images or to padding.
    pub fn new(
        vocabulary: &Vocabulary,
        blocks: ImageBlocks,
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
                return Err(Error::invalid(format!(
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
            blocks,
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
            return Err(Error::invalid(format!("prompt id {id} is outside the {len} known ids")));
        }
        if row.is_empty() {
            return Err(Error::invalid("the prompt has no ids; begin-of-text is the least"));
        }
        let bracket = |&id: &u32| id == self.begin_image || id == self.end_image;
        let block = match row.iter().rposition(bracket) {
            Some(at) if row[at] == self.begin_image => &row[at + 1..],
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
        // In image-only mode there must be something left to draw.
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
        if self.blocks.are_sized() { ModalityState::Height } else { self.sized(self.blocks.grid()) }
    }

    /// The state before the first code of an image of `grid`.
    fn sized(&self, (rows, columns): (usize, usize)) -> ModalityState {
        let remaining = rows * self.blocks.line(columns);
        ModalityState::Image { remaining, grid: (rows, columns) }
    }

    /// Whether the next id ends a row.
    fn at_line_end(&self, remaining: usize, (_, columns): (usize, usize)) -> bool {
        self.blocks.are_sized() && remaining % self.blocks.line(columns) == 1
    }

    /// Codes among the `remaining` ids of an image of `grid`.
    pub fn codes_left(&self, remaining: usize, (_, columns): (usize, usize)) -> usize {
        let line = self.blocks.line(columns);
        remaining - if line > columns { remaining.div_ceil(line) } else { 0 }
    }

    /// The fewest ids that complete the open or next image after `state`.
    pub fn least_to_complete(&self, state: ModalityState) -> usize {
        let end = usize::from(self.mode != GenerationMode::ImageOnly);
        let (smallest_rows, smallest_columns) = self.blocks.smallest();
        let rest = |rows: usize, columns: usize| rows * self.blocks.line(columns) + end;
        match state {
            ModalityState::Text if self.blocks.are_sized() => {
                3 + rest(smallest_rows, smallest_columns)
            }
            ModalityState::Text => 1 + rest(smallest_rows, smallest_columns),
            ModalityState::Height => 2 + rest(smallest_rows, smallest_columns),
            ModalityState::Width { rows } => 1 + rest(rows, smallest_columns),
            ModalityState::Image { remaining, .. } => remaining + end,
            ModalityState::Done => 0,
        }
    }

    /// Whether `id` may follow in `state` when `room` more ids fit the row.
    pub fn allows(&self, state: ModalityState, id: u32, room: usize) -> bool {
        let of = |table: &[bool]| table.get(id as usize).copied().unwrap_or(false);
        match state {
            ModalityState::Text if id == self.begin_image => {
                self.mode != GenerationMode::TextOnly && room >= self.least_to_complete(state)
            }
            ModalityState::Text => room > 0 && (of(&self.text) || of(&self.stop)),
            // A size whose image still fits.
            ModalityState::Height | ModalityState::Width { .. } => {
                let next = self.blocks.side(id).is_some().then(|| self.advance(state, id));
                next.is_some_and(|next| room > self.least_to_complete(next))
            }
            ModalityState::Image { remaining: 0, .. } => id == self.end_image,
            ModalityState::Image { remaining, grid } if self.at_line_end(remaining, grid) => {
                Some(id) == self.blocks.new_line()
            }
            ModalityState::Image { .. } => of(&self.image),
            ModalityState::Done => false,
        }
    }

    /// The state after `id`, which [`allows`](Self::allows) should have allowed.
    pub fn advance(&self, state: ModalityState, id: u32) -> ModalityState {
        let side = || self.blocks.side(id).unwrap_or_default();
        match state {
            ModalityState::Text if id == self.begin_image => self.opened(),
            ModalityState::Text if self.is_stop(id) => ModalityState::Done,
            ModalityState::Height => ModalityState::Width { rows: side() },
            ModalityState::Width { rows } => self.sized((rows, side())),
            ModalityState::Image { remaining: 1, .. } if self.mode == GenerationMode::ImageOnly => {
                ModalityState::Done
            }
            ModalityState::Image { remaining, grid } if remaining > 0 => {
                ModalityState::Image { remaining: remaining - 1, grid }
            }
            ModalityState::Done => ModalityState::Done,
            _ => ModalityState::Text,
        }
    }

    /// The id that must follow, if there is only one: it needs no model.
    pub fn forced(&self, state: ModalityState) -> Option<u32> {
        match state {
            ModalityState::Image { remaining: 0, .. } => Some(self.end_image),
            ModalityState::Image { remaining, grid } if self.at_line_end(remaining, grid) => {
                self.blocks.new_line()
            }
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
            || Some(id) == self.blocks.new_line()
            || self.blocks.side(id).is_some()
    }

    /// The begin-of-text id.
    pub fn bos(&self) -> u32 {
        self.bos
    }

    /// The begin-image id.
    pub fn begin_image(&self) -> u32 {
        self.begin_image
    }

    /// The form of images.
    pub fn blocks(&self) -> &ImageBlocks {
        &self.blocks
    }

    /// What a request may produce.
    pub fn mode(&self) -> GenerationMode {
        self.mode
    }
}
