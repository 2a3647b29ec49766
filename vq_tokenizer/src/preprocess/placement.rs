//! Where the pixels of an image lie in its preprocessed image.

use std::ops::Range;

/// The place of an image in its preprocessed image: stretched to `full`, moved by `offset`, cut to `size`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Placement {
    /// Width and height of the image, in pixels.
    pub source: (usize, usize),
    /// Width and height of the whole image after resizing.
    pub full: (usize, usize),
    /// Column and row of the resized image at which the preprocessed image begins; below 0 where the
    /// resized image is smaller and lies in black.
    pub offset: (i64, i64),
    /// Width and height of the preprocessed image.
    pub size: (usize, usize),
}

impl Placement {
    /// The squares of `side` pixels across the preprocessed image that column `x` of the image overlaps;
    /// none if the column is cropped away.
    pub fn squares_across(&self, x: usize, side: usize) -> Range<usize> {
        squares(x, self.source.0, self.full.0, self.offset.0, (self.size.0, side))
    }

    /// The squares of `side` pixels down the preprocessed image that row `y` of the image overlaps; none if
    /// the row is cropped away.
    pub fn squares_down(&self, y: usize, side: usize) -> Range<usize> {
        squares(y, self.source.1, self.full.1, self.offset.1, (self.size.1, side))
    }
}

/// The squares that pixel `at` of `source` pixels overlaps along one axis, computed in units of one pixel
/// after resizing divided by `source`, so without rounding.
fn squares(
    at: usize,
    source: usize,
    full: usize,
    offset: i64,
    (size, side): (usize, usize),
) -> Range<usize> {
    let unit = (side * source) as i64;
    let start = (at * full) as i64 - offset * source as i64;
    let end = start + full as i64;
    let last = size.div_ceil(side) as i64;
    let first = start.div_euclid(unit).clamp(0, last);
    let past = -(-end).div_euclid(unit); // rounded up
    first as usize..past.clamp(first, last) as usize
}

#[cfg(test)]
mod tests {
    use image::{Rgb, RgbImage};

    use super::super::PreprocessorConfig;
    use super::*;

    fn configs() -> [PreprocessorConfig; 5] {
        let padded = PreprocessorConfig { crop_width: 40, ..PreprocessorConfig::original(32) };
        [
            PreprocessorConfig::original(32),
            PreprocessorConfig::hugging_face(32),
            PreprocessorConfig::flexible(32),
            PreprocessorConfig::flexible_original(64, 8),
            padded,
        ]
    }

    #[test]
    fn an_edge_in_the_image_is_where_the_placement_says() {
        for config in configs() {
            for (width, height) in [(32, 32), (40, 32), (31, 57), (200, 90), (9, 9), (300, 300)] {
                let edge = width / 2;
                let image = RgbImage::from_fn(width, height, |x, _| {
                    Rgb(if x < edge { [0; 3] } else { [255; 3] })
                });
                let placement = config.placement(width as usize, height as usize);
                let resized = config.resize(&image);
                let (across, down) = resized.dimensions();
                assert_eq!(placement.size, (across as usize, down as usize));
                let scale = placement.full.0 as f64 / f64::from(width);
                let expected = f64::from(edge) * scale - placement.offset.0 as f64;
                let end = placement.full.0 as f64 - placement.offset.0 as f64;
                for x in 0..across {
                    let centre = f64::from(x) + 0.5;
                    // Filters blur the edge over a pixel of the coarser image; padding is black.
                    if (centre - expected).abs() > 1.0_f64.max(scale) && centre < end {
                        let bright = resized.get_pixel(x, down / 2).0[0] > 127;
                        assert_eq!(bright, centre > expected, "{config:?} {width}x{height} {x}");
                    }
                }
            }
        }
    }

    #[test]
    fn the_squares_of_all_columns_cover_the_preprocessed_image_in_order() {
        for config in &configs()[..4] {
            for (width, height) in [(32, 32), (40, 32), (31, 57), (200, 90), (9, 9), (300, 300)] {
                let placement = config.placement(width, height);
                let mut covered = 0;
                for x in 0..width {
                    let found = placement.squares_across(x, 8);
                    if !found.is_empty() {
                        assert!(found.start <= covered && found.end >= covered, "{x}: {found:?}");
                        covered = found.end;
                    }
                }
                assert_eq!(covered, placement.size.0.div_ceil(8), "{config:?} {width}x{height}");
            }
        }
    }

    #[test]
    fn a_pixel_on_two_squares_overlaps_both_and_a_cropped_one_none() {
        // 3 pixels become 16: the middle one lies from 5.33 to 10.67.
        let wide = Placement { source: (3, 3), full: (16, 16), offset: (0, 0), size: (16, 16) };
        let found: Vec<_> = (0..3).map(|x| wide.squares_across(x, 8)).collect();
        assert_eq!(found, [0..1, 0..2, 1..2]);
        let cropped =
            Placement { source: (32, 16), full: (32, 16), offset: (8, 0), size: (16, 16) };
        assert!(cropped.squares_across(7, 8).is_empty());
        assert_eq!(cropped.squares_across(8, 8), 0..1);
        assert_eq!(cropped.squares_across(23, 8), 1..2);
        assert!(cropped.squares_across(24, 8).is_empty());
        assert_eq!(cropped.squares_down(15, 8), 1..2);
    }
}
