//! What an edit did to the rest of an image, and how well the drawn part joins it.
//!
//! A hole is one `bool` per pixel, row by row: whether the pixel was drawn anew.

use image::RgbImage;

use crate::error::{Error, Result};

/// Peak signal-to-noise ratio in dB over the pixels outside `hole`; infinite if they are equal, `None` if
/// there are none.
///
/// # Errors
/// If `image`, `reference` and `hole` differ in size.
pub fn psnr_outside(image: &RgbImage, reference: &RgbImage, hole: &[bool]) -> Result<Option<f64>> {
    check(image, reference, hole)?;
    let outside = image.pixels().zip(reference.pixels()).zip(hole).filter(|(_, drawn)| !**drawn);
    let (mut squares, mut count) = (0_u64, 0_u64);
    for ((a, b), _) in outside {
        squares += a.0.iter().zip(b.0).map(|(a, b)| u64::from(a.abs_diff(b)).pow(2)).sum::<u64>();
        count += 3;
    }
    let mean = squares as f64 / count as f64;
    Ok((count > 0).then(|| 10.0 * (255.0 * 255.0 / mean).log10()))
}

/// Gradients across the border of a hole, in levels of 255 from one pixel to the next.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Seam {
    /// The mean in the edited image.
    pub edited: f64,
    /// The mean in the reference, between the same pixels.
    pub reference: f64,
}

impl Seam {
    /// The first over the second: 1 for a border as smooth as the reference's, more for a visible seam. `None`
    /// if the reference has the same value on both sides.
    pub fn ratio(&self) -> Option<f64> {
        (self.reference > 0.0).then(|| self.edited / self.reference)
    }
}

/// The mean absolute differences over all channels and all pairs of neighbours, across and down, of which one
/// is inside `hole`; `None` if it has no border.
///
/// # Errors
/// As [`psnr_outside`].
pub fn seam(image: &RgbImage, reference: &RgbImage, hole: &[bool]) -> Result<Option<Seam>> {
    check(image, reference, hole)?;
    let (width, height) = image.dimensions();
    let inside = |x: u32, y: u32| hole[(y * width + x) as usize];
    let mut pairs = Vec::new();
    for (x, y) in (0..height).flat_map(|y| (0..width).map(move |x| (x, y))) {
        let neighbours = [(x + 1, y), (x, y + 1)];
        for (right, below) in neighbours.into_iter().filter(|(x, y)| *x < width && *y < height) {
            if inside(x, y) != inside(right, below) {
                pairs.push([(x, y), (right, below)]);
            }
        }
    }
    let mean = |image: &RgbImage| {
        let step = |[(x, y), (right, below)]: &[(u32, u32); 2]| {
            let (a, b) = (image.get_pixel(*x, *y).0, image.get_pixel(*right, *below).0);
            a.iter().zip(b).map(|(a, b)| f64::from(a.abs_diff(b))).sum::<f64>()
        };
        pairs.iter().map(step).sum::<f64>() / (3 * pairs.len()) as f64
    };
    let found = Seam { edited: mean(image), reference: mean(reference) };
    Ok((!pairs.is_empty()).then_some(found))
}

fn check(image: &RgbImage, reference: &RgbImage, hole: &[bool]) -> Result<()> {
    let (width, height) = image.dimensions();
    if reference.dimensions() == (width, height) && hole.len() == (width * height) as usize {
        return Ok(());
    }
    Err(Error::invalid(format!(
        "an edited image of {width}x{height} pixels, a reference of {}x{} and a hole of {} pixels \
         cannot be compared",
        reference.width(),
        reference.height(),
        hole.len()
    )))
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests")]
mod tests {
    use image::Rgb;

    use super::*;

    /// A 4x4 image, `inside` in the lower right quarter.
    fn quarter(outside: u8, inside: u8) -> RgbImage {
        RgbImage::from_fn(4, 4, |x, y| Rgb([if x > 1 && y > 1 { inside } else { outside }; 3]))
    }

    fn hole() -> Vec<bool> {
        (0..16).map(|at| at % 4 > 1 && at / 4 > 1).collect()
    }

    #[test]
    fn the_psnr_ignores_what_is_inside_the_hole() {
        let (a, mut b) = (quarter(10, 0), quarter(10, 200));
        assert_eq!(psnr_outside(&a, &b, &hole()).unwrap(), Some(f64::INFINITY));
        // One of the 12 pixels outside differs by 12 in each channel: a mean square of 12.
        b.put_pixel(0, 0, Rgb([22; 3]));
        let found = psnr_outside(&a, &b, &hole()).unwrap().unwrap();
        assert!((found - 10.0 * (255.0_f64 * 255.0 / 12.0).log10()).abs() < 1e-9, "{found}");
        assert_eq!(psnr_outside(&a, &b, &[true; 16]).unwrap(), None);
    }

    #[test]
    fn the_seam_is_the_mean_step_across_the_border_alone() {
        // Steps: two columns wide at the top, two rows high at the left.
        let found = seam(&quarter(10, 70), &quarter(10, 40), &hole()).unwrap().unwrap();
        assert_eq!(found, Seam { edited: 60.0, reference: 30.0 });
        assert_eq!(found.ratio(), Some(2.0));
        let flat = seam(&quarter(10, 70), &quarter(10, 10), &hole()).unwrap().unwrap();
        assert_eq!(flat.ratio(), None);
        let mut edge = quarter(10, 10);
        edge.put_pixel(0, 0, Rgb([255; 3]));
        edge.put_pixel(2, 2, Rgb([14; 3]));
        // The corner lies at two of the four pairs.
        let found = seam(&edge, &quarter(10, 70), &hole()).unwrap().unwrap();
        assert_eq!(found.edited, 2.0);
    }

    #[test]
    fn without_a_border_there_is_no_seam_and_other_sizes_are_refused() {
        let image = quarter(1, 2);
        for hole in [[true; 16], [false; 16]] {
            assert_eq!(seam(&image, &image, &hole).unwrap(), None);
        }
        assert!(seam(&image, &image, &[true; 15]).is_err());
        assert!(psnr_outside(&image, &RgbImage::new(4, 5), &[true; 16]).is_err());
    }
}
