//! From pixels to masks: background, foreground, connected components and their cores.

use super::scene::{Color, UNITS};
use image::RgbImage;
use image::imageops::{FilterType, resize};
use std::borrow::Cow;

/// Pixels along each edge at which images are read.
pub(super) const EDGE: usize = UNITS as usize;

/// Colours nearer to the background than this are background: half the distance from the
/// palest colour to the tint nearest to it.
const FOREGROUND: f32 = 54.0;

/// Components of fewer pixels are specks. The smallest object, a small star, has 60.
const SPECK: usize = 20;

/// A second colour needs this many core pixels to count as an object of its own.
const SECOND_COLOR: usize = 12;

/// How much a mixture with the background counts against a colour, of the whole distance.
const MIXED: f32 = 0.35;

/// A component's soft mask reaches this many pixels beyond it.
const SURROUNDINGS: usize = 2;

/// Pixels this near to a mixture of the background and an object's colour are its edge, not
/// another object; pure palette colours lie at least 50 off.
const MIXTURE: f32 = 35.0;

/// Pixel indices (row-major, [`EDGE`] wide) that hang together.
pub(super) type Component = Vec<usize>;

/// Euclidean distance of two colours.
pub(super) fn distance(a: [f32; 3], b: [f32; 3]) -> f32 {
    a.iter().zip(b).map(|(a, b)| (a - b) * (a - b)).sum::<f32>().sqrt()
}

/// An image at [`EDGE`] by [`EDGE`] pixels with its background.
pub(super) struct Canvas {
    pixels: Vec<[f32; 3]>,
    background: [f32; 3],
}

impl Canvas {
    pub(super) fn new(image: &RgbImage) -> Self {
        let edge = EDGE as u32;
        let fitting = if image.dimensions() == (edge, edge) {
            Cow::Borrowed(image)
        } else {
            Cow::Owned(resize(image, edge, edge, FilterType::Triangle))
        };
        let pixels: Vec<_> = fitting.pixels().map(|pixel| pixel.0.map(f32::from)).collect();
        let rim = |i: usize| [i % EDGE, i / EDGE].iter().any(|&at| !(2..EDGE - 2).contains(&at));
        let background = median((0..EDGE * EDGE).filter(|&i| rim(i)).map(|i| pixels[i]).collect());
        Self { pixels, background }
    }

    /// The median colour of the two outermost pixels of each side.
    pub(super) fn background(&self) -> [f32; 3] {
        self.background
    }

    /// The foreground's components, specks left out; where differently coloured objects
    /// touch, they are told apart.
    pub(super) fn components(&self) -> Vec<Component> {
        let foreground: Vec<bool> =
            self.pixels.iter().map(|&p| distance(p, self.background) > FOREGROUND).collect();
        let components = connected(&foreground);
        components.into_iter().flat_map(|component| self.split_by_color(component)).collect()
    }

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
        let own = |&i: &usize| self.off_edge(self.pixels[i], tint) > MIXTURE;
        let second = |pixels: &[usize]| pixels.iter().copied().filter(own).count() >= SECOND_COLOR;
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

    /// The component's parts where its colour covers at least half of each pixel.
    pub(super) fn solid_parts(&self, component: &Component) -> Vec<Component> {
        let tint = self.core_color(component);
        let mut mask = vec![false; EDGE * EDGE];
        component.iter().for_each(|&i| mask[i] = self.covered(self.pixels[i], tint) >= 0.5);
        connected(&mask)
    }

    /// How badly `color` explains a core of the colour `tint`: the distance from the nearest
    /// mixture with the background, and a part of the distance from there to the pure
    /// colour. Blur makes a mixture of any narrow object's core.
    pub(super) fn misfit(&self, tint: [f32; 3], color: Color) -> f32 {
        let pure = color.rgb().map(f32::from);
        let missing = 1.0 - self.covered(tint, pure).clamp(0.0, 1.0);
        self.off_edge(tint, pure) + MIXED * missing * distance(pure, self.background)
    }

    /// How far `pixel` lies from any mixture of the background and `tint`.
    fn off_edge(&self, pixel: [f32; 3], tint: [f32; 3]) -> f32 {
        let covered = self.covered(pixel, tint).clamp(0.0, 1.0);
        let mixture = |c: usize| self.background[c] + covered * (tint[c] - self.background[c]);
        distance(pixel, std::array::from_fn(mixture))
    }

    /// How far along the way from the background (0) to `tint` (1) `pixel` lies.
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

    /// How much of each pixel of the component and its immediate surroundings the object
    /// covers, by its colour's way from the background to `tint`; 0 elsewhere.
    pub(super) fn soft_mask(&self, component: &Component, tint: [f32; 3]) -> Vec<f32> {
        let mut mask = vec![0.0; EDGE * EDGE];
        for &i in component {
            for near in around(i, SURROUNDINGS) {
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

/// The pixels at most `reach` rows and columns from pixel `i`, itself among them.
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

/// The 8-connected components of the mask with at least [`SPECK`] pixels.
fn connected(mask: &[bool]) -> Vec<Component> {
    let mut open = mask.to_vec();
    let mut components = Vec::new();
    for start in 0..open.len() {
        if !std::mem::take(&mut open[start]) {
            continue;
        }
        let mut component = vec![start];
        let mut next = 0;
        while let Some(&i) = component.get(next) {
            component.extend(around(i, 1).filter(|&near| std::mem::take(&mut open[near])));
            next += 1;
        }
        components.push(component);
    }
    components.retain(|component| component.len() >= SPECK);
    components
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn components_join_diagonals_and_leave_specks_out() {
        let mut mask = vec![false; EDGE * EDGE];
        (0..30).for_each(|i| mask[i * EDGE + i] = true);
        (0..SPECK - 1).for_each(|i| mask[60 * EDGE + i] = true);
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
