//! Ideal masks of the shapes, sharp and blurred, for template matching.

use super::masks::EDGE;
use super::render::coverage;
use super::scene::Shape;

/// Passes of a 3x3 binomial filter: none, and blurs with a standard deviation of 1 and 1.4 pixels,
/// like those of reconstructed images.
const SOFTNESSES: [usize; 3] = [0, 2, 4];

/// Square mask of a shape, row-major, from 0 outside to 1 inside.
#[derive(Clone, Debug)]
pub(super) struct Template {
    /// The shape of the mask.
    pub(super) shape: Shape,
    /// Edge length of the shape's bounding box in pixels.
    pub(super) extent: usize,
    mask: Vec<f32>,
    /// Edge length of the mask in pixels: the extent plus twice the padding.
    edge: usize,
    padding: usize,
    area: f32,
}

/// The templates of all shapes and softnesses for one extent in pixels.
pub(super) fn templates(extent: usize) -> Vec<Template> {
    let all = SOFTNESSES.into_iter().flat_map(|soft| Shape::ALL.map(|shape| (shape, soft)));
    all.map(|(shape, soft)| Template::new(shape, extent, soft)).collect()
}

impl Template {
    fn new(shape: Shape, extent: usize, softness: usize) -> Self {
        let edge = extent + 2 * softness;
        let center = [edge as f32 / 2.0; 2];
        let at = |i: usize| [(i % edge) as f32, (i / edge) as f32];
        let cover = |i| coverage(shape, extent as f32, at(i), center) as f32 / 16.0;
        let mut mask: Vec<f32> = (0..edge * edge).map(cover).collect();
        for _ in 0..softness {
            mask = transposed_blur(&transposed_blur(&mask, edge), edge);
        }
        let area = mask.iter().sum();
        Self { shape, extent, mask, edge, padding: softness, area }
    }

    /// The soft intersection over union with a mask of [`EDGE`] by [`EDGE`] pixels and sum `area`,
    /// with the shape's bounding box at (`left`, `top`).
    pub(super) fn overlap(&self, mask: &[f32], area: f32, left: i32, top: i32) -> f32 {
        let (edge, padding) = (EDGE as i32, self.padding as i32);
        let (left, top) = (left - padding, top - padding);
        let skipped = usize::try_from(-left).unwrap_or(0).min(self.edge);
        let from = usize::try_from(left).unwrap_or(0).min(EDGE);
        let mut shared = 0.0;
        for (y, row) in (top..).zip(self.mask.chunks_exact(self.edge)) {
            if (0..edge).contains(&y) {
                let there = &mask[y as usize * EDGE..][from..EDGE];
                shared += row[skipped..].iter().zip(there).map(|(a, b)| a.min(*b)).sum::<f32>();
            }
        }
        shared / (area + self.area - shared)
    }
}

/// A square mask filtered along its rows with (1, 2, 1) / 4 and transposed.
fn transposed_blur(mask: &[f32], edge: usize) -> Vec<f32> {
    let at = |x: usize, y: usize| if x < edge { mask[y * edge + x] } else { 0.0 };
    let filter = |i: usize| {
        let (x, y) = (i / edge, i % edge);
        0.25 * (at(x.wrapping_sub(1), y) + 2.0 * at(x, y) + at(x + 1, y))
    };
    (0..edge * edge).map(filter).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_template_overlaps_itself_fully_and_others_partly() {
        for template in templates(20) {
            let mut mask = vec![0.0; EDGE * EDGE];
            for (y, row) in template.mask.chunks_exact(template.edge).enumerate() {
                mask[(y + 10) * EDGE + 10..][..template.edge].copy_from_slice(row);
            }
            let at = 10 + template.padding as i32;
            let own = template.overlap(&mask, template.area, at, at);
            assert!((own - 1.0).abs() < 1e-5, "{own}");
            assert!(template.overlap(&mask, template.area, at + 3, at) < 0.9);
            let others = templates(20).into_iter().filter(|other| other.shape != template.shape);
            for other in others {
                assert!(other.overlap(&mask, template.area, at, at) < 0.86, "{other:?}");
            }
        }
    }

    #[test]
    fn templates_may_extend_beyond_the_mask() {
        let mask = vec![1.0; EDGE * EDGE];
        for template in templates(28) {
            for (left, top) in [(-40, 3), (-9, -9), (50, 50), (90, 3), (3, -90)] {
                let overlap = template.overlap(&mask, 4096.0, left, top);
                assert!((0.0..=1.0).contains(&overlap), "{overlap}");
            }
        }
    }
}
