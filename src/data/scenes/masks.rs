//! Segmentation of images: background, foreground, connected components and their masks.

use super::scene::{Color, UNITS};
use image::RgbImage;
use image::imageops::{FilterType, resize};
use std::borrow::Cow;

/// Edge length in pixels at which images are read.
pub(super) const EDGE: usize = UNITS as usize;

/// Colours nearer to the background than this belong to it: half the distance from the palest
/// colour to the nearest background tint.
const FOREGROUND_DISTANCE: f32 = 54.0;

/// Components of fewer pixels are ignored. The smallest object, a small star, has 60.
const MIN_PIXELS: usize = 20;

/// Minimum number of core pixels for a second colour to count as a separate object.
const MIN_SECOND_COLOR: usize = 12;

/// Weight of the distance from a mixture with the background to the pure colour.
const MIXTURE_WEIGHT: f32 = 0.35;

/// How many pixels a soft mask extends beyond its component.
const SOFT_MASK_MARGIN: usize = 2;

/// Pixels this close to a mixture of the background and an object's colour belong to the object's
/// edge, not to another object; pure palette colours are at least 50 away.
const EDGE_DISTANCE: f32 = 35.0;

/// Connected pixels as row-major indices into an image [`EDGE`] wide.
pub(super) type Component = Vec<usize>;

/// Euclidean distance between two colours.
pub(super) fn distance(a: [f32; 3], b: [f32; 3]) -> f32 {
    a.iter().zip(b).map(|(a, b)| (a - b) * (a - b)).sum::<f32>().sqrt()
}

/// Image of [`EDGE`] by [`EDGE`] pixels with its background colour.
pub(super) struct Canvas {
    pixels: Vec<[f32; 3]>,
    background: [f32; 3],
}

impl Canvas {
    /// Resizes the image if necessary and estimates its background.
    pub(super) fn new(image: &RgbImage) -> Self {
        let edge = EDGE as u32;
        let resized = if image.dimensions() == (edge, edge) {
            Cow::Borrowed(image)
        } else {
            Cow::Owned(resize(image, edge, edge, FilterType::Triangle))
        };
        let pixels: Vec<_> = resized.pixels().map(|pixel| pixel.0.map(f32::from)).collect();
        let border = |i: usize| [i % EDGE, i / EDGE].iter().any(|&at| !(2..EDGE - 2).contains(&at));
        let background =
            median((0..EDGE * EDGE).filter(|&i| border(i)).map(|i| pixels[i]).collect());
        Self { pixels, background }
    }

    /// The median colour of a border two pixels wide.
    pub(super) fn background(&self) -> [f32; 3] {
        self.background
    }

    /// The connected components of the foreground, without tiny ones; touching objects of
    /// different colours are separated.
    pub(super) fn components(&self) -> Vec<Component> {
        let foreground: Vec<bool> = self
            .pixels
            .iter()
            .map(|&p| distance(p, self.background) > FOREGROUND_DISTANCE)
            .collect();
        let components = connected(&foreground);
        components.into_iter().flat_map(|component| self.split_by_color(component)).collect()
    }

    /// Splits a component where differently coloured objects touch.
    fn split_by_color(&self, component: Component) -> Vec<Component> {
        let label = |i: usize, among: &[Color]| {
            let to = |color: &&Color| distance(self.pixels[i], color.rgb().map(f32::from));
            among.iter().min_by(|a, b| to(a).total_cmp(&to(b))).copied()
        };
        let core = core(&component);
        if core.is_empty() {
            return vec![component];
        }
        let counts = Color::ALL.map(|color| {
            let of_color = core.iter().filter(|&&i| label(i, &Color::ALL) == Some(color));
            (of_color.copied().collect::<Vec<_>>(), color)
        });
        let Some((main, _)) = counts.iter().max_by_key(|(pixels, _)| pixels.len()) else {
            return vec![component];
        };
        let tint = median(main.iter().map(|&i| self.pixels[i]).collect());
        let own = |&i: &usize| self.off_edge(self.pixels[i], tint) > EDGE_DISTANCE;
        let second =
            |pixels: &[usize]| pixels.iter().copied().filter(own).count() >= MIN_SECOND_COLOR;
        let present: Vec<_> = counts
            .iter()
            .filter(|(pixels, _)| pixels == main || second(pixels))
            .map(|(_, color)| *color)
            .collect();
        if present.len() < 2 {
            return vec![component];
        }
        let of_color = |color| {
            let mut mask = vec![false; EDGE * EDGE];
            component.iter().for_each(|&i| mask[i] = label(i, &present) == Some(color));
            connected(&mask)
        };
        present.iter().flat_map(|&color| of_color(color)).collect()
    }

    /// The connected parts of the component whose pixels are at least half covered by its colour.
    pub(super) fn solid_parts(&self, component: &Component) -> Vec<Component> {
        let tint = self.core_color(component);
        let mut mask = vec![false; EDGE * EDGE];
        component.iter().for_each(|&i| mask[i] = self.covered(self.pixels[i], tint) >= 0.5);
        connected(&mask)
    }

    /// How badly `color` explains a core of colour `tint`: the distance from `tint` to the nearest
    /// mixture of `color` with the background, plus a fraction of the distance from there to pure
    /// `color`. Blur mixes the background into the core of any narrow object.
    pub(super) fn misfit(&self, tint: [f32; 3], color: Color) -> f32 {
        let pure = color.rgb().map(f32::from);
        let missing = 1.0 - self.covered(tint, pure).clamp(0.0, 1.0);
        self.off_edge(tint, pure) + MIXTURE_WEIGHT * missing * distance(pure, self.background)
    }

    /// The distance of `pixel` to the nearest mixture of the background and `tint`.
    fn off_edge(&self, pixel: [f32; 3], tint: [f32; 3]) -> f32 {
        let covered = self.covered(pixel, tint).clamp(0.0, 1.0);
        let mixture = |c: usize| self.background[c] + covered * (tint[c] - self.background[c]);
        distance(pixel, std::array::from_fn(mixture))
    }

    /// The position of `pixel` on the line from the background (0) to `tint` (1).
    fn covered(&self, pixel: [f32; 3], tint: [f32; 3]) -> f32 {
        let from = self.background;
        let along: f32 = (0..3).map(|c| (pixel[c] - from[c]) * (tint[c] - from[c])).sum();
        let length: f32 = (0..3).map(|c| (tint[c] - from[c]).powi(2)).sum();
        along / length.max(1.0)
    }

    /// The median colour of the component's inner pixels.
    pub(super) fn core_color(&self, component: &Component) -> [f32; 3] {
        let core = core(component);
        let from = if core.len() >= 5 { &core } else { component };
        median(from.iter().map(|&i| self.pixels[i]).collect())
    }

    /// The coverage of each pixel by the object, estimated from its colour between background (0)
    /// and `tint` (1) in and next to the component; 0 elsewhere.
    pub(super) fn soft_mask(&self, component: &Component, tint: [f32; 3]) -> Vec<f32> {
        let mut mask = vec![0.0; EDGE * EDGE];
        for &i in component {
            for near in around(i, SOFT_MASK_MARGIN) {
                mask[near] = self.covered(self.pixels[near], tint).clamp(0.0, 1.0);
            }
        }
        mask
    }
}

/// The median of each channel.
fn median(mut colors: Vec<[f32; 3]>) -> [f32; 3] {
    let middle = colors.len() / 2;
    std::array::from_fn(|channel| {
        let (_, median, _) =
            colors.select_nth_unstable_by(middle, |a, b| a[channel].total_cmp(&b[channel]));
        median[channel]
    })
}

/// The pixels at most `reach` rows and columns from pixel `i`, including itself.
fn around(i: usize, reach: usize) -> impl Iterator<Item = usize> {
    let span = move |at: usize| at.saturating_sub(reach)..=(at + reach).min(EDGE - 1);
    span(i / EDGE).flat_map(move |y| span(i % EDGE).map(move |x| y * EDGE + x))
}

/// The pixels of a component whose neighbours all belong to it.
fn core(component: &Component) -> Vec<usize> {
    let mut mask = vec![false; EDGE * EDGE];
    component.iter().for_each(|&i| mask[i] = true);
    component.iter().copied().filter(|&i| around(i, 1).all(|near| mask[near])).collect()
}

/// The 8-connected components of the mask that have at least [`MIN_PIXELS`] pixels.
fn connected(mask: &[bool]) -> Vec<Component> {
    let mut unvisited = mask.to_vec();
    let mut components = Vec::new();
    for start in 0..unvisited.len() {
        if !std::mem::take(&mut unvisited[start]) {
            continue;
        }
        let mut component = vec![start];
        let mut next = 0;
        while let Some(&i) = component.get(next) {
            component.extend(around(i, 1).filter(|&near| std::mem::take(&mut unvisited[near])));
            next += 1;
        }
        components.push(component);
    }
    components.retain(|component| component.len() >= MIN_PIXELS);
    components
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn components_join_diagonals_and_skip_tiny_ones() {
        let mut mask = vec![false; EDGE * EDGE];
        (0..30).for_each(|i| mask[i * EDGE + i] = true);
        (0..MIN_PIXELS - 1).for_each(|i| mask[60 * EDGE + i] = true);
        let components = connected(&mask);
        assert_eq!(components.iter().map(Vec::len).collect::<Vec<_>>(), [30]);
    }

    #[test]
    fn medians_ignore_a_minority() {
        assert_eq!(
            median(vec![[1.0, 9.0, 5.0], [2.0, 8.0, 5.0], [200.0, 0.0, 5.0]]),
            [2.0, 8.0, 5.0]
        );
    }
}
