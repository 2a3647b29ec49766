//! Sizes for images that keep their aspect ratio: both sides rounded to multiples of a unit, and the number of pixels
//! within bounds.
//!
//! Source: `smart_resize` in `image_processing_emu3.py` of transformers.

/// The size, `(width, height)` in pixels, of an image of `source`, which has pixels: multiples of `unit` near it, of
/// about `least`, at least 1, to `most` pixels.
pub(super) fn size(
    source: (usize, usize),
    unit: usize,
    (least, most): (usize, usize),
) -> (usize, usize) {
    let each = |side: &dyn Fn(f64) -> f64| {
        let side = |pixels: usize| side(pixels as f64) as usize * unit;
        (side(source.0), side(source.1))
    };
    let pixels = |(width, height): (usize, usize)| width.saturating_mul(height);
    let (area, unit) = (pixels(source) as f64, unit as f64);
    let near = each(&|side| (side / unit).round_ties_even());
    if pixels(near) > most {
        let beta = (area / most as f64).sqrt();
        each(&|side| (side / beta / unit).floor().max(1.0))
    } else if pixels(near) < least {
        let beta = (least as f64 / area).sqrt();
        each(&|side| (side * beta / unit).ceil())
    } else {
        near
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_equal_the_reference() {
        // Printed by the reference's function, which takes height before width.
        for ((width, height), want) in [
            ((720, 720), (720, 720)),
            ((1000, 500), (1000, 496)),
            ((3000, 2000), (1248, 832)),
            ((100, 60), (664, 400)),
            ((12, 20), (400, 664)),
        ] {
            assert_eq!(
                size((width, height), 8, (512 * 512, 1024 * 1024)),
                want,
                "{width}x{height}"
            );
        }
        assert_eq!(size((5000, 2), 8, (64, 4096)), (400, 8));
    }
}
