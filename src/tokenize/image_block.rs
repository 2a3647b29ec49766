//! The layout of the block of ids that an image becomes.
//!
//! Chameleon's block is begin-image, the codes row by row, end-image, for images of one size.
//! Lumina-mGPT's (`lumina_mgpt/data/item_processor.py` of its repository) begins with the size, height
//! before width in units of two codes, and ends every row with a new-line id, so images may have any
//! size.

use vq_tokenizer::Codes;

use super::train_bpe::FIRST_RESERVED;
use super::vocabulary::Vocabulary;
use crate::error::{Error, Result};

/// Codes along a side per unit of a size id.
pub const CODES_PER_UNIT: usize = 2;
/// The number in the name of the id that ends a row of codes, `<reserved08799>`; a side of `n` units is
/// `<reserved(8800 + n)>`.
const NEW_LINE: usize = 8799;
/// Maximum number of units of a side.
const MOST_UNITS: usize = 128;

/// The layout of image blocks.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ImageBlocks {
    grid: (usize, usize),
    sizes: Option<SizeIds>,
}

/// The ids of Lumina-mGPT's layout.
#[derive(Clone, Debug, PartialEq, Eq)]
struct SizeIds {
    new_line: u32,
    /// The ids of a side of 1, 2, ... units.
    sides: Vec<u32>,
}

impl From<(usize, usize)> for ImageBlocks {
    /// Chameleon's layout, for images of `grid` codes (rows, columns).
    fn from(grid: (usize, usize)) -> Self {
        Self { grid, sizes: None }
    }
}

impl ImageBlocks {
    /// Lumina-mGPT's layout with the ids of `vocabulary`; `grid` is the usual size.
    ///
    /// # Errors
    /// If the vocabulary lacks the ids.
    pub fn sized(vocabulary: &Vocabulary, grid: (usize, usize)) -> Result<Self> {
        let id = |number: usize| vocabulary.control_id(&format!("<reserved{number:05}>"));
        let sides: Vec<u32> =
            (1..=MOST_UNITS).map_while(|units| id(NEW_LINE + 1 + units)).collect();
        match id(NEW_LINE) {
            Some(new_line) if !sides.is_empty() => {
                Ok(Self { grid, sizes: Some(SizeIds { new_line, sides }) })
            }
            _ => Err(Error::invalid(
                "images of any size need <reserved08799>, <reserved08801> and so on in the vocabulary",
            )),
        }
    }

    /// Rows and columns of codes; the usual ones if images may have any size.
    pub fn grid(&self) -> (usize, usize) {
        self.grid
    }

    /// Whether blocks begin with their size.
    pub fn are_sized(&self) -> bool {
        self.sizes.is_some()
    }

    /// The number of codes along the side that `id` stands for; `None` if it is no size id.
    pub fn side(&self, id: u32) -> Option<usize> {
        let at = self.sizes.as_ref()?.sides.iter().position(|side| *side == id)?;
        Some((at + 1) * CODES_PER_UNIT)
    }

    /// Maximum number of codes along a side.
    pub fn longest_side(&self) -> usize {
        match &self.sizes {
            Some(sizes) => CODES_PER_UNIT * sizes.sides.len(),
            None => self.grid.0.max(self.grid.1),
        }
    }

    /// The number of reserved names that a trained vocabulary needs for sides of up to `codes`.
    pub fn reserved_for(codes: usize) -> usize {
        NEW_LINE + 2 + codes.div_ceil(CODES_PER_UNIT) - FIRST_RESERVED
    }

    /// The id that ends a row of codes, if there is one.
    pub fn new_line(&self) -> Option<u32> {
        self.sizes.as_ref().map(|sizes| sizes.new_line)
    }

    /// The number of ids of a row of `columns` codes.
    pub fn line_len(&self, columns: usize) -> usize {
        columns + usize::from(self.are_sized())
    }

    /// The number of ids of the block of an image of `rows` and `columns` codes, begin-image and
    /// end-image included.
    pub fn block_len(&self, (rows, columns): (usize, usize)) -> usize {
        let size = if self.are_sized() { 2 } else { 0 };
        2 + size + rows * self.line_len(columns)
    }

    /// Rows and columns of the smallest possible image.
    pub fn smallest(&self) -> (usize, usize) {
        if self.are_sized() { (CODES_PER_UNIT, CODES_PER_UNIT) } else { self.grid }
    }

    /// The ids between begin-image and end-image of `codes`, whose ids are `image_ids`.
    ///
    /// # Errors
    /// If the layout has no images of this grid.
    pub(super) fn write(&self, codes: &Codes, image_ids: &[u32]) -> Result<Vec<u32>> {
        let (rows, columns) = (codes.height, codes.width);
        let whole = image_ids.len() == rows * columns && !image_ids.is_empty();
        let Some(sizes) = &self.sizes else {
            if (rows, columns) == self.grid && whole {
                return Ok(image_ids.to_vec());
            }
            let ((height, width), found) = (self.grid, image_ids.len());
            return Err(Error::invalid(format!(
                "image has {found} codes in {rows} rows and {columns} columns, this vocabulary's \
                 images have {height} rows and {width} columns"
            )));
        };
        let side = |codes: usize| {
            let units = codes.is_multiple_of(CODES_PER_UNIT).then_some(codes / CODES_PER_UNIT)?;
            sizes.sides.get(units.checked_sub(1)?).copied()
        };
        let (Some(height), Some(width), true) = (side(rows), side(columns), whole) else {
            let most = self.longest_side();
            return Err(Error::invalid(format!(
                "image has {} codes in {rows} rows and {columns} columns; allowed: even numbers to {most}",
                image_ids.len()
            )));
        };
        let mut ids = vec![height, width];
        for row in image_ids.chunks_exact(columns) {
            ids.extend(row);
            ids.push(sizes.new_line);
        }
        Ok(ids)
    }

    /// Rows and columns of the image whose block continues with `ids` after begin-image, and the number
    /// of ids that say so; `None` if a size is missing.
    pub(super) fn read_size(&self, ids: &[u32]) -> Option<((usize, usize), usize)> {
        if !self.are_sized() {
            return Some((self.grid, 0));
        }
        let &[rows, columns] = ids.get(..2)? else { return None };
        Some(((self.side(rows)?, self.side(columns)?), 2))
    }
}
