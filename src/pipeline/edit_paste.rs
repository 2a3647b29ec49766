//! Original pixels pasted around what was drawn.

use image::RgbImage;

use super::edit_mask::CellMask;

/// `drawn` with the pixels of `original` outside the cells of `hole`, which are squares of `side` pixels.
/// Within half a cell of the hole the two are mixed, the original's share growing with the distance. Both
/// images have the size of the hole's grid.
pub(super) fn paste(
    drawn: &RgbImage,
    original: &RgbImage,
    hole: &CellMask,
    side: usize,
) -> RgbImage {
    let band = side / 2;
    RgbImage::from_fn(drawn.width(), drawn.height(), |x, y| {
        let distance = distance(hole, (x as usize, y as usize), side, band);
        let share = distance as f32 / (band + 1) as f32;
        let (new, old) = (drawn.get_pixel(x, y).0, original.get_pixel(x, y).0);
        let mixed = |at: usize| {
            let (new, old) = (f32::from(new[at]), f32::from(old[at]));
            (new + share * (old - new)).round() as u8
        };
        image::Rgb([mixed(0), mixed(1), mixed(2)])
    })
}

/// Pixels from `(x, y)` to the nearest pixel of the hole, the larger of columns and rows; 0 inside, at most
/// `band + 1`.
fn distance(hole: &CellMask, (x, y): (usize, usize), side: usize, band: usize) -> usize {
    let covered =
        |x: Option<usize>, y: Option<usize>| x.zip(y).is_some_and(|(x, y)| hole.covers(x, y, side));
    let at = |d: usize| {
        // The band is narrower than a cell, so corners and middles of the ring find every cell.
        let (xs, ys) =
            ([x.checked_sub(d), Some(x), Some(x + d)], [y.checked_sub(d), Some(y), Some(y + d)]);
        xs.into_iter().any(|x| ys.into_iter().any(|y| covered(x, y)))
    };
    (0..=band).find(|d| at(*d)).unwrap_or(band + 1)
}

#[cfg(test)]
mod tests {
    use image::Rgb;

    use super::*;

    fn hole() -> CellMask {
        CellMask::from_row(4, 2, 3)
    }

    #[test]
    fn the_hole_is_kept_and_far_pixels_are_the_originals() {
        let drawn = RgbImage::from_pixel(16, 32, Rgb([200, 0, 10]));
        let original = RgbImage::from_pixel(16, 32, Rgb([0, 100, 10]));
        let pasted = paste(&drawn, &original, &hole(), 8);
        for (x, y, pixel) in pasted.enumerate_pixels() {
            match y {
                0..20 => assert_eq!(*pixel, Rgb([0, 100, 10]), "{x} {y}"),
                24.. => assert_eq!(*pixel, Rgb([200, 0, 10]), "{x} {y}"),
                _ => {}
            }
        }
        let reds: Vec<u8> = (19..25).map(|y| pasted.get_pixel(3, y).0[0]).collect();
        assert_eq!(reds, [0, 40, 80, 120, 160, 200]);
    }

    #[test]
    fn the_distance_equals_that_to_every_pixel_of_the_hole() {
        let side = 8;
        let mut cells = CellMask::none(5, 5).marked().to_vec();
        (cells[6], cells[13], cells[24]) = (true, true, true);
        let placement = vq_tokenizer::preprocess::Placement {
            source: (5, 5),
            full: (40, 40),
            offset: (0, 0),
            size: (40, 40),
        };
        let mask = super::super::edit_mask::PixelMask::new(5, 5, cells);
        let hole = mask.and_then(|mask| mask.cells(&placement, side));
        let Ok(hole) = hole else { panic!("{hole:?}") };
        for at in 0..1600_usize {
            let (x, y) = (at % 40, at / 40);
            let to = |other: usize| x.abs_diff(other % 40).max(y.abs_diff(other / 40));
            let nearest = (0..1600).filter(|o| hole.covers(o % 40, o / 40, side)).map(to).min();
            assert_eq!(Some(distance(&hole, (x, y), side, 4)), nearest.map(|d| d.min(5)));
        }
    }
}
