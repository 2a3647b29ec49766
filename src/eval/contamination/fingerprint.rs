//! Fingerprints of images: an exact digest, a perceptual hash and mean colours.
//!
//! The perceptual hash is the DCT hash of Zauner 2010 (Implementation and Benchmarking of
//! Perceptual Image Hash Functions, section 3.2.1; `ph_dct_imagehash` of the library pHash): luma
//! at 32 x 32 pixels, its DCT-II, the 8 x 8 coefficients of the frequencies 1 to 8 in both
//! directions, and one bit for each that says whether it is above the median. Deviations: luma is
//! resized by a triangle filter, which averages as it shrinks, instead of pHash's 7 x 7 mean filter
//! and nearest neighbours; and because luma cannot tell a red heart from a blue one, images must
//! also agree in [`CELLS`] x [`CELLS`] mean chroma values.

use std::f32::consts::PI;

use image::imageops::{self, FilterType};
use image::{ImageBuffer, Luma, RgbImage};
use sha2::{Digest, Sha256};

/// Edge of the image that is transformed, in pixels.
const EDGE: usize = 32;
/// Frequencies hashed in each direction.
const BITS: usize = 8;
/// Cells of the mean chroma in each direction.
const CELLS: usize = 4;
/// Largest difference between mean chroma values of near duplicates, of 255. Measured on scenes,
/// emoji and photographs: 24 levels of brightness change it by at most 12 (where values are
/// clipped), JPEG at quality 30 by 6.
const CHROMA: u8 = 16;
/// Bound for rounding noise in the coefficients of luma in 0..=255. Flat images and sums of
/// horizontal and vertical stripes have no larger coefficients and get no hash.
const FLAT: f32 = 4.0;

/// Mean Cb and Cr of each cell, row by row; 0 is grey.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Colors([[i8; 2]; CELLS * CELLS]);

/// The fingerprint of an image.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Fingerprint {
    /// SHA-256 of width and height, as little-endian 32-bit numbers, and of the RGB pixels.
    pub digest: [u8; 32],
    /// The perceptual hash; `None` if the image is empty, flat or consists of stripes.
    pub hash: Option<u64>,
    /// The mean colours.
    pub colors: Colors,
}

impl Fingerprint {
    /// The fingerprint of `image`.
    pub fn of(image: &RgbImage) -> Self {
        let (width, height) = image.dimensions();
        let mut digest = Sha256::new();
        digest.update(width.to_le_bytes());
        digest.update(height.to_le_bytes());
        digest.update(image.as_raw());
        Self { digest: digest.finalize().into(), hash: hash(image), colors: colors(image) }
    }
}

impl Colors {
    /// Whether the colours equal those of `other`, ignoring brightness.
    pub fn agree(&self, other: &Self) -> bool {
        let mut pairs = self.0.as_flattened().iter().zip(other.0.as_flattened());
        pairs.all(|(a, b)| a.abs_diff(*b) <= CHROMA)
    }
}

/// Luma of ITU-R BT.601, 0 to 1.
fn luma(pixel: [u8; 3]) -> f32 {
    let [r, g, b] = pixel.map(f32::from);
    (0.299 * r + 0.587 * g + 0.114 * b) / 255.0
}

/// The perceptual hash of `image`.
fn hash(image: &RgbImage) -> Option<u64> {
    let (width, height) = image.dimensions();
    if width == 0 || height == 0 {
        return None;
    }
    let values = image.pixels().map(|pixel| luma(pixel.0)).collect();
    let grey: ImageBuffer<Luma<f32>, Vec<f32>> = ImageBuffer::from_raw(width, height, values)?;
    let small = imageops::resize(&grey, EDGE as u32, EDGE as u32, FilterType::Triangle);
    let coefficients = low_frequencies(small.as_raw());
    if coefficients.iter().all(|value| value.abs() * 255.0 < FLAT) {
        return None;
    }
    let mut sorted = coefficients;
    sorted.sort_by(f32::total_cmp);
    let median = (sorted[sorted.len() / 2 - 1] + sorted[sorted.len() / 2]) / 2.0;
    let bits = coefficients.iter().enumerate();
    Some(bits.fold(0, |hash, (bit, value)| hash | u64::from(*value > median) << bit))
}

/// The orthonormal DCT-II of `values`, `[EDGE, EDGE]`, at the frequencies 1 to [`BITS`].
fn low_frequencies(values: &[f32]) -> [f32; BITS * BITS] {
    let scale = (2.0 / EDGE as f32).sqrt();
    let wave = |frequency: usize, at: usize| {
        scale * (PI * (2 * at + 1) as f32 * frequency as f32 / (2 * EDGE) as f32).cos()
    };
    let waves: [[f32; EDGE]; BITS] =
        std::array::from_fn(|f| std::array::from_fn(|at| wave(f + 1, at)));
    let dot = |a: &[f32], b: &[f32]| a.iter().zip(b).map(|(a, b)| a * b).sum::<f32>();
    // Rows first: [frequency, row]; then columns.
    let rows: [[f32; EDGE]; BITS] = std::array::from_fn(|across| {
        std::array::from_fn(|row| dot(&waves[across], &values[row * EDGE..][..EDGE]))
    });
    std::array::from_fn(|position| dot(&waves[position / BITS], &rows[position % BITS]))
}

/// The mean chroma of the cells of `image`.
fn colors(image: &RgbImage) -> Colors {
    let (width, height) = image.dimensions();
    let cell = |at: u32, len: u32| at as usize * CELLS / len as usize;
    let mut sums = [[0.0_f64; 3]; CELLS * CELLS];
    for (x, y, pixel) in image.enumerate_pixels() {
        let [r, g, b] = pixel.0.map(f64::from);
        let [blue, red, count] = &mut sums[cell(y, height) * CELLS + cell(x, width)];
        *blue += -0.168_736 * r - 0.331_264 * g + 0.5 * b;
        *red += 0.5 * r - 0.418_688 * g - 0.081_312 * b;
        *count += 1.0;
    }
    // Cells without pixels, in images smaller than four pixels, are grey.
    let means =
        |[blue, red, count]: [f64; 3]| [blue, red].map(|sum| (sum / count.max(1.0)).round() as i8);
    Colors(sums.map(means))
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;
    use image::Rgb;

    #[test]
    fn coefficients_are_those_of_the_orthonormal_dct() {
        // A wave of frequencies 3 (horizontal) and 5 (vertical) is a single coefficient of 32 / 2.
        let wave = |f: usize, at: usize| (PI * (2 * at + 1) as f32 * f as f32 / 64.0).cos();
        let values: Vec<f32> =
            (0..EDGE * EDGE).map(|i| wave(3, i % EDGE) * wave(5, i / EDGE)).collect();
        for (position, value) in low_frequencies(&values).into_iter().enumerate() {
            let expected = if position == 4 * BITS + 2 { 16.0 } else { 0.0 };
            assert!((value - expected).abs() < 1e-3, "{position}: {value}");
        }
    }

    #[test]
    fn flat_striped_and_empty_images_have_no_hash_and_tiny_ones_have_one() {
        let flat = |color| Fingerprint::of(&RgbImage::from_pixel(20, 30, Rgb(color)));
        assert_eq!(flat([9, 200, 30]).hash, None);
        assert!(!flat([200, 0, 0]).colors.agree(&flat([0, 0, 200]).colors));
        assert!(flat([200, 90, 30]).colors.agree(&flat([220, 110, 50]).colors));
        assert_eq!(Fingerprint::of(&RgbImage::new(0, 5)).hash, None);
        let stripes = RgbImage::from_fn(40, 40, |x, y| Rgb([(x * 3) as u8, (y * 2) as u8, 0]));
        assert_eq!(Fingerprint::of(&stripes).hash, None);
        let tiny = RgbImage::from_fn(3, 2, |x, y| Rgb([(x * y * 120) as u8, 0, 0]));
        assert!(Fingerprint::of(&tiny).hash.is_some());
    }

    #[test]
    fn digests_depend_on_the_size() {
        let of = |width, height| Fingerprint::of(&RgbImage::new(width, height)).digest;
        assert_ne!(of(2, 3), of(3, 2));
        assert_eq!(of(2, 3), of(2, 3));
    }
}
