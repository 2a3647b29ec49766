//! Sizes for images of any aspect ratio: of those with nearly as many pixels as a square, the one that
//! crops least.
//!
//! Source: `generate_crop_size_list`, `var_center_crop` and `center_crop` in
//! `lumina_mgpt/data/item_processor.py` of Lumina-mGPT. The reference crops at random; here the crop is
//! centred, so that an image always has the same codes.

use image::RgbImage;

use super::placement::Placement;
use super::resample::{self, Resample, Window};

/// The largest ratio of the longer side to the shorter.
const MAX_ASPECT_RATIO: f64 = 4.0;

/// All allowed sizes, `(width, height)` in pixels: multiples of `unit` with at most as many pixels as the
/// square of side `target`.
pub(super) fn sizes(target: usize, unit: usize) -> Vec<(usize, usize)> {
    let units = (target / unit).pow(2);
    let (mut wide, mut high) = (units, 1);
    let mut sizes = Vec::new();
    while wide > 0 {
        let (longer, shorter) = (wide.max(high), wide.min(high));
        if longer as f64 / shorter as f64 <= MAX_ASPECT_RATIO {
            sizes.push((wide * unit, high * unit));
        }
        if (high + 1) * wide <= units {
            high += 1;
        } else {
            wide -= 1;
        }
    }
    sizes
}

/// The size of `sizes` that crops least of an image of `source`; the widest on ties.
fn best(sizes: &[(usize, usize)], source: (usize, usize)) -> Option<(usize, usize)> {
    let kept = |(width, height): (usize, usize)| {
        let across = width as f64 / source.0 as f64;
        let down = height as f64 / source.1 as f64;
        across.min(down) / across.max(down)
    };
    let order =
        |a: &(usize, usize), b: &(usize, usize)| kept(*a).total_cmp(&kept(*b)).then(a.cmp(b));
    sizes.iter().copied().max_by(order)
}

/// Half of both `sides`, if they are at least twice those of `size`.
fn half(sides: (usize, usize), size: (usize, usize)) -> Option<(usize, usize)> {
    let fits = sides.0 >= 2 * size.0 && sides.1 >= 2 * size.1;
    fits.then_some((sides.0 / 2, sides.1 / 2))
}

/// The place of an image of `source` in the best of `sizes`, which it covers; `None` if there are no sizes.
///
/// `source` must have pixels.
pub(super) fn placement(source: (usize, usize), sizes: &[(usize, usize)]) -> Option<Placement> {
    let size = best(sizes, source)?;
    let mut sides = source;
    while let Some(less) = half(sides, size) {
        sides = less;
    }
    let scale = (size.0 as f64 / sides.0 as f64).max(size.1 as f64 / sides.1 as f64);
    let scaled = |side: usize| (side as f64 * scale).round_ties_even() as usize;
    let full = (scaled(sides.0), scaled(sides.1));
    let offset = ((full.0 - size.0) as i64 / 2, (full.1 - size.1) as i64 / 2);
    Some(Placement { source, full, offset, size })
}

/// `image` halved while it is at least twice too large, resized to cover the best of `sizes` and
/// centre-cropped to it; `None` if there are no sizes.
///
/// `image` must have pixels.
pub(super) fn resize(image: &RgbImage, sizes: &[(usize, usize)]) -> Option<RgbImage> {
    let sides = |image: &RgbImage| (image.width() as usize, image.height() as usize);
    let Placement { full, offset, size, .. } = placement(sides(image), sizes)?;
    let mut image = image.clone();
    while let Some(half) = half(sides(&image), size) {
        image = resample::resize(&image, Resample::Box, half, whole(half));
    }
    let (left, top) = (offset.0 as usize, offset.1 as usize);
    let window = Window { columns: left..left + size.0, rows: top..top + size.1 };
    Some(resample::resize(&image, Resample::Bicubic, full, window))
}

/// The window of a whole image.
fn whole((width, height): (usize, usize)) -> Window {
    Window { columns: 0..width, rows: 0..height }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;

    #[test]
    fn sizes_equal_the_reference() {
        let sizes = sizes(512, 32);
        // Printed by the reference's function.
        assert_eq!(sizes.len(), 49);
        assert_eq!(sizes[0], (1024, 256));
        assert_eq!(sizes[sizes.len() - 1], (256, 1024));
        assert!(sizes.contains(&(512, 512)) && sizes.contains(&(576, 448)));
        assert!(sizes.iter().all(|(w, h)| w * h <= 512 * 512));
    }

    #[test]
    fn images_get_the_allowed_size_of_nearest_aspect_ratio() {
        let sizes = sizes(512, 32);
        for ((w, h), want) in [
            ((512, 512), (512, 512)),
            ((4000, 4000), (512, 512)),
            ((30, 20), (608, 416)),
            ((100, 1000), (256, 1024)),
        ] {
            let image = RgbImage::from_pixel(w, h, image::Rgb([1, 200, 30]));
            let resized = resize(&image, &sizes).unwrap();
            assert_eq!((resized.width(), resized.height()), want, "{w}x{h}");
            assert!(resized.pixels().all(|pixel| pixel.0 == [1, 200, 30]));
        }
        let same = RgbImage::from_fn(512, 512, |x, y| image::Rgb([x as u8, y as u8, 7]));
        assert_eq!(resize(&same, &sizes).unwrap(), same);
    }

    /// Expected: weighted sums over the bytes of the reference's steps with Pillow 13, centre-cropped.
    #[test]
    fn bytes_equal_pillow() {
        for (w, h, target, unit, want) in [
            (203, 150, 32, 8, 36_728_469),
            (61, 300, 32, 8, 48_871_003),
            (40, 33, 64, 16, 148_238_395),
            (517, 400, 64, 32, 198_543_687),
        ] {
            let resized = resize(&resample::noise(w, h), &sizes(target, unit)).unwrap();
            let weighted = |(at, byte): (usize, &u8)| (at % 251 + 1) as u32 * u32::from(*byte);
            let sum = resized.as_raw().iter().enumerate().map(weighted).fold(0, u32::wrapping_add);
            assert_eq!(sum, want, "{w}x{h}");
        }
    }
}
