//! Rendering of scenes: flat colours with anti-aliased edges, identical on every machine.

use super::scene::{Background, Object, Scene, Shape, UNITS};
use image::{Rgb, RgbImage};

/// Sub-samples per pixel along each axis.
const SUBSAMPLES: u32 = 4;

/// Half the width of a cross's bars, as a fraction of half its extent.
const CROSS_BAR: f32 = 0.36;

/// Inner radius of a ring, as a fraction of its outer radius.
const RING_HOLE: f32 = 0.5;

/// Corners of the star, clockwise from the top, stretched to fill the bounding box. The inner
/// corners are at 0.47 of the outer radius, which keeps the points wide.
const STAR: [[f32; 2]; 10] = [
    [0.0, -1.0],
    [0.290_48, -0.314_81],
    [1.0, -0.236_07],
    [0.47, 0.266_14],
    [0.618_03, 1.0],
    [0.0, 0.625_19],
    [-0.618_03, 1.0],
    [-0.47, 0.266_14],
    [-1.0, -0.236_07],
    [-0.290_48, -0.314_81],
];

/// Renders the scene as an image of `size` by `size` pixels.
pub fn render(scene: &Scene, size: u32) -> RgbImage {
    let mut image = RgbImage::from_pixel(size, size, Rgb(scene.background.rgb()));
    for object in &scene.objects {
        draw(&mut image, object);
    }
    image
}

/// An image of `size` by `size` pixels that shows only the background.
pub fn blank(background: Background, size: u32) -> RgbImage {
    RgbImage::from_pixel(size, size, Rgb(background.rgb()))
}

fn draw(image: &mut RgbImage, object: &Object) {
    let scale = image.width() as f32 / f32::from(UNITS);
    let extent = f32::from(object.size.extent()) * scale;
    let center = [f32::from(object.x) * scale, f32::from(object.y) * scale];
    let last = image.width().saturating_sub(1);
    let span = |c: f32| {
        let from = (c - extent / 2.0).floor().max(0.0) as u32;
        from..=((c + extent / 2.0).ceil() as u32).min(last)
    };
    for y in span(center[1]) {
        for x in span(center[0]) {
            let covered = coverage(object.shape, extent, [x as f32, y as f32], center);
            let pixel = image.get_pixel_mut(x, y);
            for (channel, color) in pixel.0.iter_mut().zip(object.color.rgb()) {
                *channel = blend(*channel, color, covered);
            }
        }
    }
}

/// `over` blended onto `under` by `covered` of [`SUBSAMPLES`] squared sub-samples, rounded.
fn blend(under: u8, over: u8, covered: u32) -> u8 {
    let all = SUBSAMPLES * SUBSAMPLES;
    let sum = u32::from(under) * (all - covered) + u32::from(over) * covered;
    u8::try_from((sum + all / 2) / all).expect("a weighted mean of two bytes is a byte")
}

/// The number of sub-samples (0 to 16) of the pixel at `corner` inside a shape of `extent` pixels
/// around `center`.
pub(super) fn coverage(shape: Shape, extent: f32, corner: [f32; 2], center: [f32; 2]) -> u32 {
    let half = extent / 2.0;
    let at = |sub: u32| (sub as f32 + 0.5) / SUBSAMPLES as f32;
    let mut covered = 0;
    for sub_y in 0..SUBSAMPLES {
        let v = (corner[1] + at(sub_y) - center[1]) / half;
        for sub_x in 0..SUBSAMPLES {
            let u = (corner[0] + at(sub_x) - center[0]) / half;
            covered += u32::from(contains(shape, u, v));
        }
    }
    covered
}

/// Whether a shape that fills [-1, 1] on both axes contains the point `u` to the right, `v` down.
fn contains(shape: Shape, u: f32, v: f32) -> bool {
    let radius = u * u + v * v;
    let inside_box = u.abs() <= 1.0 && v.abs() <= 1.0;
    match shape {
        Shape::Circle => radius <= 1.0,
        Shape::Square => inside_box,
        Shape::Triangle => inside_box && 2.0 * u.abs() <= v + 1.0,
        Shape::Star => inside_polygon(&STAR, u, v),
        Shape::Diamond => u.abs() + v.abs() <= 1.0,
        Shape::Cross => inside_box && u.abs().min(v.abs()) <= CROSS_BAR,
        Shape::Heart => inside_heart(u.abs(), v),
        Shape::Ring => (RING_HOLE * RING_HOLE..=1.0).contains(&radius),
    }
}

/// Whether a heart contains the point: two discs of radius 0.5 around (+-0.5, -0.5) and their
/// tangents through (0, 1), which touch the discs at (+-0.9, -0.2).
fn inside_heart(u: f32, v: f32) -> bool {
    let disc = (u - 0.5) * (u - 0.5) + (v + 0.5) * (v + 0.5) <= 0.25;
    let between = u <= 0.5 && (-0.5..=-0.2).contains(&v);
    let point = (-0.2..=1.0).contains(&v) && u <= 0.75 * (1.0 - v);
    disc || between || point
}

/// Whether a polygon contains the point, by the crossing number of a ray to the right.
fn inside_polygon(corners: &[[f32; 2]], u: f32, v: f32) -> bool {
    let mut inside = false;
    let mut previous = corners[corners.len() - 1];
    for &corner in corners {
        let ([x0, y0], [x1, y1]) = (previous, corner);
        if (y0 > v) != (y1 > v) && u < x0 + (v - y0) / (y1 - y0) * (x1 - x0) {
            inside = !inside;
        }
        previous = corner;
    }
    inside
}

#[cfg(test)]
mod tests {
    use super::super::scene::{Color, Size};
    use super::*;

    fn one(shape: Shape, size: Size) -> Scene {
        let object = Object { shape, color: Color::Red, size, x: 32, y: 28 };
        Scene { background: Background::White, objects: vec![object] }
    }

    #[test]
    fn every_shape_fills_its_bounding_box_exactly() {
        for shape in Shape::ALL {
            for size in Size::ALL {
                let scene = one(shape, size);
                let image = render(&scene, 64);
                let drawn = image.enumerate_pixels().filter(|(_, _, p)| p.0 != [255; 3]);
                let drawn: Vec<_> = drawn.map(|(x, y, _)| (x as i16, y as i16)).collect();
                let bounds = scene.objects[0].bounds();
                assert_eq!(drawn.iter().map(|p| p.0).min(), Some(bounds[0]), "{shape:?}");
                assert_eq!(drawn.iter().map(|p| p.1).min(), Some(bounds[1]), "{shape:?}");
                assert_eq!(drawn.iter().map(|p| p.0).max(), Some(bounds[2] - 1), "{shape:?}");
                assert_eq!(drawn.iter().map(|p| p.1).max(), Some(bounds[3] - 1), "{shape:?}");
            }
        }
    }

    #[test]
    fn shapes_are_mirror_symmetric_at_every_image_size() {
        for size in [32, 48, 64, 100, 256] {
            for shape in Shape::ALL {
                let image = render(&one(shape, Size::Large), size);
                assert_eq!(image, image::imageops::flip_horizontal(&image), "{shape:?} {size}");
            }
        }
    }

    #[test]
    fn blending_is_exact_at_no_and_full_coverage() {
        assert_eq!((blend(255, 20, 0), blend(255, 20, 16), blend(0, 255, 8)), (255, 20, 128));
    }
}
