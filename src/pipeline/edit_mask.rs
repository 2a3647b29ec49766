//! Which pixels of an image are marked, and which cells of its grid of codes are drawn anew.

use image::DynamicImage;
use vq_tokenizer::preprocess::Placement;

use crate::error::{Error, Result};

/// The marked pixels of an image.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PixelMask {
    width: u32,
    height: u32,
    /// Row by row.
    marked: Vec<bool>,
}

impl PixelMask {
    /// A mask of `marked` pixels, row by row.
    ///
    /// # Errors
    /// If there are not `width * height` of them.
    pub fn new(width: u32, height: u32, marked: Vec<bool>) -> Result<Self> {
        let found = marked.len();
        match found == width as usize * height as usize {
            true => Ok(Self { width, height, marked }),
            false => Err(Error::invalid(format!("{found} pixels for a mask of {width}x{height}"))),
        }
    }

    /// The mask in an image file. If any pixel is transparent, the pixels that are not quite transparent are
    /// marked, whatever their colour; otherwise those lighter than middle grey (luma above 127 of 255).
    ///
    /// ```
    /// use calumma::pipeline::PixelMask;
    /// let picture = image::GrayImage::from_fn(3, 1, |x, _| image::Luma([[0, 90, 255][x as usize]]));
    /// let mask = PixelMask::from_image(&picture.into());
    /// assert_eq!(mask, PixelMask::new(3, 1, vec![false, false, true])?);
    /// # Ok::<(), calumma::Error>(())
    /// ```
    pub fn from_image(image: &DynamicImage) -> Self {
        let (width, height) = (image.width(), image.height());
        let mut marked = Vec::new();
        if image.color().has_alpha() {
            let image = image.to_rgba8();
            if image.pixels().any(|pixel| pixel.0[3] < 255) {
                marked = image.pixels().map(|pixel| pixel.0[3] > 0).collect();
            }
        }
        if marked.is_empty() {
            marked = image.to_luma8().pixels().map(|pixel| pixel.0[0] > 127).collect();
        }
        Self { width, height, marked }
    }

    /// Checks that an image of `size`, width and height, has as many pixels.
    ///
    /// # Errors
    /// Names both sizes.
    pub fn check_size(&self, (width, height): (u32, u32)) -> Result<()> {
        let (found_width, found_height) = (self.width, self.height);
        match (found_width, found_height) == (width, height) {
            true => Ok(()),
            false => Err(Error::invalid(format!(
                "the mask has {found_width}x{found_height} pixels; allowed: {width}x{height}, the \
                 size of the image"
            ))),
        }
    }

    /// Whether no pixel is marked.
    pub fn is_empty(&self) -> bool {
        !self.marked.contains(&true)
    }

    /// The cells of `side` pixels of the preprocessed image that a marked pixel overlaps.
    ///
    /// # Errors
    /// If pixels are marked, but all of them are cropped away.
    pub fn cells(&self, placement: &Placement, side: usize) -> Result<CellMask> {
        let (width, height) = placement.size;
        let mut cells = CellMask::none(height / side, width / side);
        let columns: Vec<_> =
            (0..self.width as usize).map(|x| placement.squares_across(x, side)).collect();
        let rows = self.marked.chunks_exact((self.width as usize).max(1));
        for (y, row) in rows.enumerate() {
            let down = placement.squares_down(y, side);
            for (columns, _) in columns.iter().zip(row).filter(|(_, marked)| **marked) {
                for row in down.clone() {
                    columns.clone().for_each(|column| cells.mark(row, column));
                }
            }
        }
        if cells.is_empty() && !self.is_empty() {
            let ((x, y), (full_x, full_y)) = (placement.size, placement.full);
            return Err(Error::invalid(format!(
                "all marked pixels of the mask are cropped away: the image is resized to \
                 {full_x}x{full_y} pixels, of which the middle {x}x{y} are used"
            )));
        }
        Ok(cells)
    }
}

/// The cells of an image's grid of codes that are drawn anew.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CellMask {
    rows: usize,
    columns: usize,
    /// Row by row.
    marked: Vec<bool>,
}

impl CellMask {
    /// No cell of a grid.
    pub fn none(rows: usize, columns: usize) -> Self {
        Self { rows, columns, marked: vec![false; rows * columns] }
    }

    /// All cells of a grid from row `first` on.
    pub fn from_row(rows: usize, columns: usize, first: usize) -> Self {
        let marked = (0..rows * columns).map(|at| at >= first * columns).collect();
        Self { rows, columns, marked }
    }

    /// Marks a cell; those outside the grid are ignored.
    fn mark(&mut self, row: usize, column: usize) {
        if row < self.rows && column < self.columns {
            self.marked[row * self.columns + column] = true;
        }
    }

    /// These cells and all that are at most `cells` rows and columns from one of them.
    #[must_use]
    pub fn dilated(&self, cells: usize) -> Self {
        let near = |at: usize, len: usize| {
            at.saturating_sub(cells)..at.saturating_add(cells).saturating_add(1).min(len)
        };
        let mut wider = self.clone();
        for (at, _) in self.marked.iter().enumerate().filter(|(_, marked)| **marked) {
            let (row, column) = (at / self.columns, at % self.columns);
            for row in near(row, self.rows) {
                near(column, self.columns).for_each(|column| wider.mark(row, column));
            }
        }
        wider
    }

    /// Rows and columns of the grid.
    pub fn grid(&self) -> (usize, usize) {
        (self.rows, self.columns)
    }

    /// Whether each cell is marked, row by row.
    pub fn marked(&self) -> &[bool] {
        &self.marked
    }

    /// The number of marked cells.
    pub fn count(&self) -> usize {
        self.marked.iter().filter(|marked| **marked).count()
    }

    /// Whether no cell is marked.
    pub fn is_empty(&self) -> bool {
        !self.marked.contains(&true)
    }

    /// Whether the pixel in column `x` and row `y` lies in a marked cell, for cells of `side` pixels.
    pub fn covers(&self, x: usize, y: usize, side: usize) -> bool {
        let (row, column) = (y / side, x / side);
        row < self.rows && column < self.columns && self.marked[row * self.columns + column]
    }

    /// Whether each pixel lies in a marked cell, row by row, for cells of `side` pixels.
    pub fn pixels(&self, side: usize) -> Vec<bool> {
        let (width, height) = (self.columns * side, self.rows * side);
        (0..width * height).map(|at| self.covers(at % width, at / width, side)).collect()
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests")]
mod tests {
    use image::{GrayImage, Luma, Rgba, RgbaImage};
    use vq_tokenizer::preprocess::PreprocessorConfig;

    use super::*;

    const SIDE: usize = 8;

    /// The cells, `(row, column)`, that the pixels in `area` mask in an image of `size` made 64x64.
    fn cells(
        (width, height): (u32, u32),
        area: impl Fn(u32, u32) -> bool,
    ) -> Result<Vec<(usize, usize)>> {
        let marked = (0..width * height).map(|at| area(at % width, at / width)).collect();
        let mask = PixelMask::new(width, height, marked)?;
        let placement = PreprocessorConfig::original(64).placement(width as usize, height as usize);
        let cells = mask.cells(&placement, SIDE)?;
        assert_eq!(cells.grid(), (8, 8));
        let found = cells.marked().iter().enumerate().filter(|(_, marked)| **marked);
        Ok(found.map(|(at, _)| (at / 8, at % 8)).collect())
    }

    #[test]
    fn a_cell_is_masked_if_a_marked_pixel_overlaps_it() {
        let pixel = |size, x, y| cells(size, move |px, py| (px, py) == (x, y)).unwrap();
        for (size, (x, y), expected) in [
            ((64, 64), (0, 0), vec![(0, 0)]),
            ((64, 64), (63, 0), vec![(0, 7)]),
            ((64, 64), (0, 63), vec![(7, 0)]),
            ((64, 64), (63, 63), vec![(7, 7)]),
            ((64, 64), (32, 31), vec![(3, 4)]),
            // Shrunk to a quarter: a pixel of 0.25.
            ((256, 256), (255, 255), vec![(7, 7)]),
            ((256, 256), (31, 32), vec![(1, 0)]),
            // Twice as wide as high: the outer quarters are cropped away.
            ((128, 64), (32, 0), vec![(0, 0)]),
            ((128, 64), (95, 63), vec![(7, 7)]),
            // Enlarged: a pixel is two cells wide.
            ((4, 4), (3, 0), vec![(0, 6), (0, 7), (1, 6), (1, 7)]),
            // A pixel of 64/3: the middle one reaches into four cells.
            ((3, 3), (1, 0), [0, 1, 2].map(|r| [2, 3, 4, 5].map(|c| (r, c))).concat()),
        ] {
            assert_eq!(pixel(size, x, y), expected, "{size:?} {x} {y}");
        }
    }

    #[test]
    fn a_row_of_pixels_masks_a_row_of_cells_and_all_pixels_all_cells() {
        let row = cells((64, 64), |_, y| y == 40).unwrap();
        assert_eq!(row, (0..8).map(|column| (5, column)).collect::<Vec<_>>());
        let column = cells((64, 64), |x, _| x == 7).unwrap();
        assert_eq!(column, (0..8).map(|row| (row, 0)).collect::<Vec<_>>());
        for size in [(64, 64), (200, 90), (5, 7), (63, 65)] {
            assert_eq!(cells(size, |_, _| true).unwrap().len(), 64);
            assert_eq!(cells(size, |_, _| false).unwrap(), []);
        }
    }

    #[test]
    fn marks_that_are_cropped_away_are_an_error() {
        let error = cells((128, 64), |x, _| x < 32).unwrap_err().to_string();
        assert!(error.contains("resized to 128x64 pixels, of which the middle 64x64"), "{error}");
    }

    #[test]
    fn dilation_adds_the_neighbours_within_the_grid() {
        let mut corner = CellMask::none(4, 5);
        corner.mark(0, 4);
        assert_eq!(corner.dilated(0), corner);
        assert_eq!(corner.dilated(1).count(), 4);
        let mut middle = CellMask::none(4, 5);
        middle.mark(2, 2);
        assert_eq!(middle.dilated(1).count(), 9);
        assert!(middle.dilated(1).covers(8 + 7, 8, SIDE) && !middle.dilated(1).covers(7, 8, SIDE));
        assert_eq!(middle.dilated(2).count(), 20);
        assert_eq!(middle.dilated(usize::MAX).count(), 20);
        assert!(CellMask::none(4, 5).dilated(3).is_empty());
    }

    #[test]
    fn transparent_files_are_marked_by_opacity_others_by_brightness() {
        let of = |image: DynamicImage| PixelMask::from_image(&image).marked;
        let grey = GrayImage::from_fn(4, 1, |x, _| Luma([[0, 127, 128, 255][x as usize]]));
        assert_eq!(of(grey.into()), [false, false, true, true]);
        let strokes = [[0, 0, 0, 255], [255, 255, 255, 0], [9, 9, 9, 1]];
        let painted = RgbaImage::from_fn(3, 1, |x, _| Rgba(strokes[x as usize]));
        assert_eq!(of(painted.into()), [true, false, true]);
        let opaque = [[0, 0, 0, 255], [255, 255, 255, 255]];
        let opaque = RgbaImage::from_fn(2, 1, |x, _| Rgba(opaque[x as usize]));
        assert_eq!(of(opaque.into()), [false, true]);
        assert_eq!(of(DynamicImage::new_rgba8(2, 1)), [false, false]);
    }

    #[test]
    fn a_mask_of_another_size_is_refused_with_both_sizes() {
        let mask = PixelMask::from_image(&DynamicImage::new_luma8(4, 3));
        assert!(mask.check_size((4, 3)).is_ok() && mask.is_empty());
        let error = mask.check_size((3, 4)).unwrap_err().to_string();
        assert!(error.contains("4x3") && error.contains("3x4"), "{error}");
        assert!(PixelMask::new(4, 3, vec![true; 11]).is_err());
    }
}
