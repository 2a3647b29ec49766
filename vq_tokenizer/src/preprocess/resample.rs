//! Resampling with exactly Pillow's bytes.
//!
//! Pillow's 8-bit resize is two one-dimensional passes with weights rounded to 22 fractional bits and a byte
//! image between them. Libraries with other weights or another order of passes differ by a level in some
//! pixels, which is enough to change codes. This is for RGB only, and computes only the pixels of the crop.

use std::f64::consts::PI;
use std::ops::Range;

use image::RgbImage;
use serde::{Deserialize, Serialize};

/// Fractional bits of a weight: 32 less 8 for the pixel and 2 for overshoot.
const PRECISION: u32 = 22;

/// A resizing filter; `preprocessor_config.json` has Pillow's number of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "u8", into = "u8")]
pub enum Resample {
    /// Windowed sinc with three lobes (1), Chameleon's filter.
    Lanczos,
    /// Triangle (2).
    Bilinear,
    /// Keys' cubic with a = -0.5 (3).
    Bicubic,
    /// The mean of the pixels that an output pixel covers (4).
    Box,
}

impl TryFrom<u8> for Resample {
    type Error = String;

    fn try_from(number: u8) -> Result<Self, String> {
        match number {
            1 => Ok(Self::Lanczos),
            2 => Ok(Self::Bilinear),
            3 => Ok(Self::Bicubic),
            4 => Ok(Self::Box),
            _ => Err(format!(
                "resample is {number}; allowed: 1 (Lanczos), 2 (bilinear), 3 (bicubic), 4 (box)"
            )),
        }
    }
}

impl From<Resample> for u8 {
    fn from(filter: Resample) -> Self {
        match filter {
            Resample::Lanczos => 1,
            Resample::Bilinear => 2,
            Resample::Bicubic => 3,
            Resample::Box => 4,
        }
    }
}

impl Resample {
    /// Half the filter's width, in output pixels when shrinking, otherwise in input pixels.
    fn support(self) -> f64 {
        match self {
            Self::Lanczos => 3.0,
            Self::Bilinear => 1.0,
            Self::Bicubic => 2.0,
            Self::Box => 0.5,
        }
    }

    /// The filter's value at distance `x` from its centre.
    fn weight(self, x: f64) -> f64 {
        let distance = x.abs();
        match self {
            Self::Lanczos if (-3.0..3.0).contains(&x) => sinc(x) * sinc(x / 3.0),
            Self::Bilinear if distance < 1.0 => 1.0 - distance,
            Self::Bicubic if distance < 1.0 => (1.5 * distance - 2.5) * distance * distance + 1.0,
            Self::Bicubic if distance < 2.0 => {
                (((distance - 5.0) * distance + 8.0) * distance - 4.0) * -0.5
            }
            Self::Box if x > -0.5 && x <= 0.5 => 1.0,
            _ => 0.0,
        }
    }
}

fn sinc(x: f64) -> f64 {
    if x == 0.0 { 1.0 } else { (x * PI).sin() / (x * PI) }
}

/// The part of a resized image that is kept.
#[derive(Clone, Debug)]
pub(super) struct Window {
    pub columns: Range<usize>,
    pub rows: Range<usize>,
}

/// `image` resized to `(width, height)`, of which only `window` is computed and returned.
pub(super) fn resize(
    image: &RgbImage,
    filter: Resample,
    (width, height): (usize, usize),
    window: Window,
) -> RgbImage {
    let (old_width, old_height) = (image.width() as usize, image.height() as usize);
    let size = (window.columns.len() as u32, window.rows.len() as u32);
    let columns = taps(filter, old_width, width, window.columns);
    let rows = taps(filter, old_height, height, window.rows);
    let source = Plane { bytes: image.as_raw(), width: old_width };
    // Pillow 13 runs the vertical pass first when the height shrinks by more than twice as many pixels as
    // the width (measured on 400 random sizes); earlier versions always ran the horizontal pass first. Only
    // the rounding in between differs.
    let fewer_rows = old_height as i64 - height as i64;
    let fewer_columns = old_width as i64 - width as i64;
    let bytes = if fewer_rows > 0 && fewer_rows > 2 * fewer_columns {
        let kept = span(&columns);
        let between = source.vertical(&rows, 0, kept.clone());
        let between = Plane { bytes: &between, width: kept.len() };
        between.horizontal(&columns, kept.start, 0..rows.len())
    } else {
        let kept = span(&rows);
        let between = source.horizontal(&columns, 0, kept.clone());
        let between = Plane { bytes: &between, width: columns.len() };
        between.vertical(&rows, kept.start, 0..columns.len())
    };
    RgbImage::from_raw(size.0, size.1, bytes).expect("both passes return the window's size")
}

/// The input pixels of one output pixel and their weights.
struct Taps {
    first: usize,
    weights: Vec<i32>,
}

/// The taps of the output pixels `window` of a line resized from `from` to `to` pixels.
fn taps(filter: Resample, from: usize, to: usize, window: Range<usize>) -> Vec<Taps> {
    let scale = from as f64 / to as f64;
    let stretch = scale.max(1.0);
    let reach = filter.support() * stretch;
    window
        .map(|at| {
            let centre = (at as f64 + 0.5) * scale;
            // The casts truncate; a negative bound becomes 0.
            let first = (centre - reach + 0.5) as usize;
            let end = ((centre + reach + 0.5) as usize).min(from);
            // As in Pillow, multiplied by the reciprocal: a division rounds differently.
            let narrow = 1.0 / stretch;
            let exact: Vec<f64> = (first..end)
                .map(|i| filter.weight(((i - first) as f64 + first as f64 - centre + 0.5) * narrow))
                .collect();
            let sum: f64 = exact.iter().sum();
            let fixed = |weight: f64| {
                let scaled = weight / sum * f64::from(1 << PRECISION);
                (scaled + if scaled < 0.0 { -0.5 } else { 0.5 }) as i32
            };
            Taps { first, weights: exact.into_iter().map(fixed).collect() }
        })
        .collect()
}

/// The input pixels that any of `taps` reads.
fn span(taps: &[Taps]) -> Range<usize> {
    let first = taps.first().map_or(0, |taps| taps.first);
    let end = taps.last().map_or(0, |taps| taps.first + taps.weights.len());
    first..end
}

/// RGB bytes, row by row.
struct Plane<'a> {
    bytes: &'a [u8],
    /// In pixels.
    width: usize,
}

impl Plane<'_> {
    /// `rows` resampled horizontally; `origin` is the input column of this plane's first column.
    fn horizontal(&self, columns: &[Taps], origin: usize, rows: Range<usize>) -> Vec<u8> {
        let mut output = Vec::with_capacity(rows.len() * columns.len() * 3);
        for row in self.bytes.chunks_exact(self.width * 3).skip(rows.start).take(rows.len()) {
            for taps in columns {
                let mut sums = [1 << (PRECISION - 1); 3];
                let pixels = row[(taps.first - origin) * 3..].chunks_exact(3);
                for (pixel, weight) in pixels.zip(&taps.weights) {
                    for (sum, value) in sums.iter_mut().zip(pixel) {
                        *sum += i32::from(*value) * weight;
                    }
                }
                output.extend(sums.map(to_byte));
            }
        }
        output
    }

    /// `columns` resampled vertically; `origin` is the input row of this plane's first row.
    fn vertical(&self, rows: &[Taps], origin: usize, columns: Range<usize>) -> Vec<u8> {
        let mut output = Vec::with_capacity(rows.len() * columns.len() * 3);
        let mut sums = vec![0; columns.len() * 3];
        for taps in rows {
            sums.fill(1 << (PRECISION - 1));
            for (row, weight) in (taps.first - origin..).zip(&taps.weights) {
                let line = &self.bytes[(row * self.width + columns.start) * 3..];
                for (sum, value) in sums.iter_mut().zip(line) {
                    *sum += i32::from(*value) * weight;
                }
            }
            output.extend(sums.iter().copied().map(to_byte));
        }
        output
    }
}

fn to_byte(sum: i32) -> u8 {
    (sum >> PRECISION).clamp(0, 255) as u8
}

/// A pseudo-random image.
#[cfg(test)]
pub(super) fn noise(width: u32, height: u32) -> RgbImage {
    RgbImage::from_fn(width, height, |x, y| {
        let hash = (x.wrapping_mul(2_654_435_761) ^ y.wrapping_mul(40_503)).wrapping_mul(97);
        image::Rgb([(hash >> 3) as u8, (hash >> 11) as u8, (hash >> 19) as u8])
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn whole(width: usize, height: usize) -> Window {
        Window { columns: 0..width, rows: 0..height }
    }

    #[test]
    fn resizing_to_the_same_size_changes_nothing() {
        let image = noise(13, 9);
        for filter in [Resample::Lanczos, Resample::Bilinear, Resample::Bicubic, Resample::Box] {
            assert_eq!(resize(&image, filter, (13, 9), whole(13, 9)), image);
        }
    }

    #[test]
    fn a_flat_image_stays_flat() {
        let image = RgbImage::from_pixel(31, 17, image::Rgb([7, 130, 255]));
        let resized = resize(&image, Resample::Lanczos, (12, 40), whole(12, 40));
        assert!(resized.pixels().all(|pixel| pixel.0 == [7, 130, 255]));
    }

    #[test]
    fn a_window_equals_the_crop_of_the_whole() {
        for (width, height) in [(20, 11), (60, 70), (30, 6)] {
            let image = noise(41, 37);
            let full = resize(&image, Resample::Lanczos, (width, height), whole(width, height));
            let window = Window { columns: 3..width - 4, rows: 2..height - 1 };
            let part = resize(&image, Resample::Lanczos, (width, height), window);
            let (w, h) = (width as u32 - 7, height as u32 - 3);
            let crop = image::imageops::crop_imm(&full, 3, 2, w, h).to_image();
            assert_eq!(part, crop);
        }
    }
}
