//! The layout of the block of ids that an image becomes, in one of three forms.
//!
//! Chameleon's block is begin-image, the codes row by row, end-image, for images of one size.
//! Lumina-mGPT's (`lumina_mgpt/data/item_processor.py` of its repository) begins with the size, height
//! before width in units of two codes, and ends every row with a new-line id, so images may have any
//! size. Emu3's (`processing_emu3.py` of transformers) begins with the size in digits, as `90*60` for 90 rows of 60
//! codes, and an id that opens the rows; each row ends with an id of its own, and one more follows the last row.

use vq_tokenizer::Codes;

use super::token::{END_ROW_TOKEN, END_ROWS_TOKEN, ROWS_TOKEN};
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
/// Maximum number of codes of a side in digits: of the longest that is decoded, 8192 pixels.
const MOST_CODES: usize = 1024;

/// The layout of image blocks.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ImageBlocks {
    grid: (usize, usize),
    layout: Layout,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Layout {
    /// Chameleon's: codes alone.
    Fixed,
    /// Lumina-mGPT's.
    Units {
        new_line: u32,
        /// The ids of a side of 1, 2, ... units.
        sides: Vec<u32>,
    },
    /// Emu3's.
    Digits(DigitIds),
}

/// The ids of Emu3's layout besides the codes.
#[derive(Clone, Debug, PartialEq, Eq)]
struct DigitIds {
    digits: [u32; 10],
    /// Between height and width.
    times: u32,
    /// Before the rows.
    open: u32,
    new_line: u32,
    /// After the rows.
    close: u32,
}

/// What a row has said of an image's size so far.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct PartialSize {
    /// Rows of codes, as far as they are said.
    rows: usize,
    /// Codes of a row, as far as they are said.
    columns: usize,
    /// Whether the rows are said.
    in_columns: bool,
}

/// What follows a part of a size.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SizeStep {
    /// More of the size.
    More(PartialSize),
    /// An image of this many rows and columns.
    Grid((usize, usize)),
}

impl From<(usize, usize)> for ImageBlocks {
    /// Chameleon's layout, for images of `grid` codes (rows, columns).
    fn from(grid: (usize, usize)) -> Self {
        Self { grid, layout: Layout::Fixed }
    }
}

impl DigitIds {
    /// The ids by the names of Emu3's releases.
    fn of(vocabulary: &Vocabulary) -> Result<Self> {
        let id = |name: &str| {
            let message = || format!("images with sizes in digits need {name} in the vocabulary");
            vocabulary.id(name).ok_or_else(|| Error::invalid(message()))
        };
        let mut digits = [0; 10];
        for (digit, place) in digits.iter_mut().enumerate() {
            *place = id(&digit.to_string())?;
        }
        Ok(Self {
            digits,
            times: id("*")?,
            open: id(ROWS_TOKEN)?,
            new_line: id(END_ROW_TOKEN)?,
            close: id(END_ROWS_TOKEN)?,
        })
    }
}

impl ImageBlocks {
    /// The layout for images of any size whose ids `vocabulary` has: Emu3's, else Lumina-mGPT's; `grid` is the usual
    /// size.
    ///
    /// # Errors
    /// If the vocabulary lacks an id.
    pub fn sized(vocabulary: &Vocabulary, grid: (usize, usize)) -> Result<Self> {
        if vocabulary.id(ROWS_TOKEN).is_some() {
            let layout = Layout::Digits(DigitIds::of(vocabulary)?);
            return Ok(Self { grid, layout });
        }
        let id = |number: usize| vocabulary.control_id(&format!("<reserved{number:05}>"));
        let sides: Vec<u32> =
            (1..=MOST_UNITS).map_while(|units| id(NEW_LINE + 1 + units)).collect();
        match id(NEW_LINE) {
            Some(new_line) if !sides.is_empty() => {
                Ok(Self { grid, layout: Layout::Units { new_line, sides } })
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

    /// Rows and columns of an image of `width` to `height`, with about as many codes as the usual one has. Source:
    /// `calculate_generate_size` of `processing_emu3.py`, for 518,400 pixels and 8 of them to a code.
    ///
    /// # Errors
    /// If images have one size, or none of this shape.
    pub fn grid_of_aspect(&self, [width, height]: [usize; 2]) -> Result<(usize, usize)> {
        let (rows, columns) = self.grid;
        let scale = ((rows * columns) as f64 / (width * height) as f64).sqrt();
        let unit = if matches!(self.layout, Layout::Units { .. }) { CODES_PER_UNIT } else { 1 };
        let side =
            |part: usize| (part as f64 * scale / unit as f64).round_ties_even() as usize * unit;
        let grid = (side(height), side(width));
        match self.opening(grid) {
            Ok(_) => Ok(grid),
            Err(error) => Err(Error::because(format_args!("aspect {width}:{height}"))(error)),
        }
    }

    /// Whether blocks begin with their size.
    pub fn are_sized(&self) -> bool {
        self.layout != Layout::Fixed
    }

    /// Whether blocks begin with a size that the prompt of a drawing says.
    pub fn are_sized_by_prompt(&self) -> bool {
        matches!(self.layout, Layout::Digits(_))
    }

    /// Whether blocks begin with a size that the model draws.
    pub fn are_sized_by_model(&self) -> bool {
        matches!(self.layout, Layout::Units { .. })
    }

    /// The number of codes along the side that `id` stands for; `None` if no id stands for a whole side, or this one
    /// for none.
    pub fn side(&self, id: u32) -> Option<usize> {
        let Layout::Units { sides, .. } = &self.layout else { return None };
        Some((sides.iter().position(|side| *side == id)? + 1) * CODES_PER_UNIT)
    }

    /// Maximum number of codes along a side.
    pub fn longest_side(&self) -> usize {
        match &self.layout {
            Layout::Fixed => self.grid.0.max(self.grid.1),
            Layout::Units { sides, .. } => CODES_PER_UNIT * sides.len(),
            Layout::Digits(_) => MOST_CODES,
        }
    }

    /// The number of reserved names that a trained vocabulary needs for sides of up to `codes`.
    pub fn reserved_for(codes: usize) -> usize {
        NEW_LINE + 2 + codes.div_ceil(CODES_PER_UNIT) - FIRST_RESERVED
    }

    /// The id that ends a row of codes, if there is one.
    pub fn new_line(&self) -> Option<u32> {
        match &self.layout {
            Layout::Fixed => None,
            Layout::Units { new_line, .. } => Some(*new_line),
            Layout::Digits(ids) => Some(ids.new_line),
        }
    }

    /// Whether `id` stands among or after the codes of images.
    pub fn is_row_mark(&self, id: u32) -> bool {
        let close = match &self.layout {
            Layout::Digits(ids) => Some(ids.close),
            _ => None,
        };
        [self.new_line(), close].contains(&Some(id))
    }

    /// The number of ids of a row of `columns` codes.
    fn line_len(&self, columns: usize) -> usize {
        columns + usize::from(self.are_sized())
    }

    /// The number of ids after the last row and before end-image.
    fn tail_len(&self) -> usize {
        usize::from(matches!(self.layout, Layout::Digits(_)))
    }

    /// The number of ids of the codes of an image and of the marks among and after them.
    pub fn rows_len(&self, (rows, columns): (usize, usize)) -> usize {
        rows * self.line_len(columns) + self.tail_len()
    }

    /// The number of ids of the block of an image of `rows` and `columns` codes, begin-image and
    /// end-image included.
    pub fn block_len(&self, grid: (usize, usize)) -> usize {
        let digits = |side: usize| side.checked_ilog10().map_or(1, |digits| digits as usize + 1);
        let size = match self.layout {
            Layout::Fixed => 0,
            Layout::Units { .. } => 2,
            Layout::Digits(_) => digits(grid.0) + digits(grid.1) + 2,
        };
        2 + size + self.rows_len(grid)
    }

    /// The mark that comes where `remaining` of the [`rows_len`](Self::rows_len) ids of an image are left; `None` where
    /// a code does.
    pub fn mark_at(&self, remaining: usize, (_, columns): (usize, usize)) -> Option<u32> {
        match &self.layout {
            Layout::Digits(ids) if remaining == 1 => Some(ids.close),
            _ => self
                .new_line()
                .filter(|_| (remaining - self.tail_len()) % self.line_len(columns) == 1),
        }
    }

    /// The number of codes among the last `remaining` of the [`rows_len`](Self::rows_len) ids of an image.
    pub fn codes_left(&self, remaining: usize, (_, columns): (usize, usize)) -> usize {
        let (remaining, line) = (remaining.saturating_sub(self.tail_len()), self.line_len(columns));
        remaining - if line > columns { remaining.div_ceil(line) } else { 0 }
    }

    /// What begins a block after begin-image.
    pub fn first_step(&self) -> SizeStep {
        match self.are_sized() {
            true => SizeStep::More(PartialSize::default()),
            false => SizeStep::Grid(self.grid),
        }
    }

    /// What follows `said` with `id`; `None` if `id` cannot follow.
    pub fn size_step(&self, said: PartialSize, id: u32) -> Option<SizeStep> {
        let PartialSize { rows, columns, in_columns } = said;
        let Layout::Digits(ids) = &self.layout else {
            let side = self.side(id)?;
            return Some(match in_columns {
                true => SizeStep::Grid((rows, side)),
                false => SizeStep::More(PartialSize { rows: side, in_columns: true, ..said }),
            });
        };
        if let Some(digit) = ids.digits.iter().position(|known| *known == id) {
            let with = |side: usize| {
                let side = 10 * side + digit;
                (1..=MOST_CODES).contains(&side).then_some(side)
            };
            return Some(SizeStep::More(match in_columns {
                true => PartialSize { columns: with(columns)?, ..said },
                false => PartialSize { rows: with(rows)?, ..said },
            }));
        }
        if id == ids.times && !in_columns && rows > 0 {
            return Some(SizeStep::More(PartialSize { in_columns: true, ..said }));
        }
        (id == ids.open && columns > 0).then_some(SizeStep::Grid((rows, columns)))
    }

    /// The least number of ids that complete a size of which `said` is said, and the image, up to before end-image.
    pub fn least_after(&self, said: PartialSize) -> usize {
        let (least_rows, least_columns) = self.smallest();
        let grid = (said.rows.max(least_rows), said.columns.max(least_columns));
        let missing = |side: usize| usize::from(side == 0);
        let size = match (&self.layout, said.in_columns) {
            (Layout::Digits(_), false) => missing(said.rows) + 3,
            (Layout::Digits(_), true) => missing(said.columns) + 1,
            (_, false) => 2,
            (_, true) => 1,
        };
        size + self.rows_len(grid)
    }

    /// Rows and columns of the smallest possible image.
    pub fn smallest(&self) -> (usize, usize) {
        match self.layout {
            Layout::Fixed => self.grid,
            Layout::Units { .. } => (CODES_PER_UNIT, CODES_PER_UNIT),
            Layout::Digits(_) => (1, 1),
        }
    }

    /// The ids between begin-image and the first code of an image of `rows` and `columns` codes.
    ///
    /// # Errors
    /// If the layout has no images of this grid.
    pub fn opening(&self, (rows, columns): (usize, usize)) -> Result<Vec<u32>> {
        let found = match &self.layout {
            Layout::Fixed => ((rows, columns) == self.grid).then(Vec::new),
            Layout::Units { sides, .. } => {
                let side = |codes: usize| {
                    let units =
                        codes.is_multiple_of(CODES_PER_UNIT).then_some(codes / CODES_PER_UNIT)?;
                    sides.get(units.checked_sub(1)?).copied()
                };
                side(rows).zip(side(columns)).map(|(rows, columns)| vec![rows, columns])
            }
            Layout::Digits(ids) => {
                let side = |codes: usize| {
                    let digits = codes.to_string().into_bytes();
                    digits.into_iter().map(|digit| ids.digits[usize::from(digit - b'0')])
                };
                let fits = [rows, columns].iter().all(|side| (1..=MOST_CODES).contains(side));
                fits.then(|| {
                    side(rows).chain([ids.times]).chain(side(columns)).chain([ids.open]).collect()
                })
            }
        };
        let allowed = || match self.layout {
            Layout::Fixed => {
                let (height, width) = self.grid;
                format!("this vocabulary's images have {height} rows and {width} columns")
            }
            Layout::Units { .. } => format!("allowed: even numbers to {}", self.longest_side()),
            Layout::Digits(_) => format!("allowed: 1 to {MOST_CODES}"),
        };
        found.ok_or_else(|| {
            Error::invalid(format!(
                "image has {rows} rows and {columns} columns of codes; {}",
                allowed()
            ))
        })
    }

    /// The ids between begin-image and end-image of `codes`, whose ids are `image_ids`.
    ///
    /// # Errors
    /// If the layout has no images of this grid, or there are not as many codes.
    pub(super) fn write(&self, codes: &Codes, image_ids: &[u32]) -> Result<Vec<u32>> {
        let grid = (codes.height, codes.width);
        let mut ids = self.opening(grid)?;
        if image_ids.len() != grid.0 * grid.1 {
            let (found, (rows, columns)) = (image_ids.len(), grid);
            return Err(Error::invalid(format!(
                "image has {found} codes in {rows} rows and {columns} columns"
            )));
        }
        let mut codes = image_ids.iter().copied();
        let rest = (1..=self.rows_len(grid)).rev();
        ids.extend(rest.filter_map(|left| self.mark_at(left, grid).or_else(|| codes.next())));
        Ok(ids)
    }

    /// Rows and columns of the image whose block continues with `ids` after begin-image, and the number
    /// of ids that say so; `None` if a size is missing.
    pub(super) fn read_size(&self, ids: &[u32]) -> Option<((usize, usize), usize)> {
        let (mut step, mut len) = (self.first_step(), 0);
        while let SizeStep::More(said) = step {
            step = self.size_step(said, *ids.get(len)?)?;
            len += 1;
        }
        match step {
            SizeStep::Grid(grid) => Some((grid, len)),
            SizeStep::More(_) => None,
        }
    }
}
