//! Images as sixels: bands of six lines, one pass per colour (DEC VT340 Programmer Reference Manual, chapter
//! 14).

use std::collections::BTreeMap;
use std::fmt::Write;

use image::imageops::colorops::{ColorMap, dither};
use image::{Rgb, RgbImage};

/// Colours that terminals have at least.
const COLOURS: usize = 256;
/// Levels per channel of the palette for images with more colours.
const LEVELS: usize = 6;

/// The text that draws `image`, with the end of the line.
pub fn encode(image: &RgbImage) -> String {
    let (palette, image) = reduced(image);
    let numbers: BTreeMap<[u8; 3], usize> =
        palette.iter().enumerate().map(|(number, colour)| (colour.0, number)).collect();
    // Writing to a string does not fail.
    let mut text = format!("\x1bPq\"1;1;{};{}", image.width(), image.height());
    for (number, Rgb(channels)) in palette.iter().enumerate() {
        let [r, g, b] = channels.map(|channel| (u32::from(channel) * 100 + 127) / 255);
        let _ = write!(text, "#{number};2;{r};{g};{b}");
    }
    for top in (0..image.height()).step_by(6) {
        let mut bands: BTreeMap<usize, Vec<u8>> = BTreeMap::new();
        for x in 0..image.width() {
            for row in 0..6.min(image.height() - top) {
                let colour = numbers.get(&image.get_pixel(x, top + row).0).copied().unwrap_or(0);
                let band = bands.entry(colour).or_insert_with(|| vec![0; image.width() as usize]);
                band[x as usize] |= 1 << row;
            }
        }
        for (colour, band) in &bands {
            let _ = write!(text, "#{colour}");
            push_runs(&mut text, band);
            text.push('$');
        }
        text.push('-');
    }
    text + "\x1b\\\n"
}

/// Appends the letters of `band`, equal ones with their number.
fn push_runs(text: &mut String, band: &[u8]) {
    for run in band.chunk_by(|a, b| a == b) {
        let letter = char::from(b'?' + run[0]);
        match run.len() {
            len @ 0..4 => text.extend(std::iter::repeat_n(letter, len)),
            len => _ = write!(text, "!{len}{letter}"),
        }
    }
}

/// The colours of `image` and `image` itself; with too many colours, those of a cube and a dithered image.
fn reduced(image: &RgbImage) -> (Vec<Rgb<u8>>, RgbImage) {
    let mut colours: Vec<Rgb<u8>> = image.pixels().copied().collect();
    colours.sort_unstable_by_key(|colour| colour.0);
    colours.dedup();
    if colours.len() <= COLOURS {
        return (colours, image.clone());
    }
    let mut dithered = image.clone();
    dither(&mut dithered, &Cube);
    let palette = (0..LEVELS.pow(3)).filter_map(|index| Cube.lookup(index)).collect();
    (palette, dithered)
}

/// Colours with evenly spaced levels in each channel.
struct Cube;

impl Cube {
    fn level(channel: u8) -> usize {
        (usize::from(channel) * (LEVELS - 1) + 127) / 255
    }
}

impl ColorMap for Cube {
    type Color = Rgb<u8>;

    fn index_of(&self, Rgb([r, g, b]): &Rgb<u8>) -> usize {
        (Self::level(*r) * LEVELS + Self::level(*g)) * LEVELS + Self::level(*b)
    }

    fn lookup(&self, index: usize) -> Option<Rgb<u8>> {
        let channel = |level: usize| (level % LEVELS * 255 / (LEVELS - 1)) as u8;
        Some(Rgb([channel(index / LEVELS / LEVELS), channel(index / LEVELS), channel(index)]))
    }

    fn has_lookup(&self) -> bool {
        true
    }

    fn map_color(&self, colour: &mut Rgb<u8>) {
        *colour = self.lookup(self.index_of(colour)).unwrap_or(*colour);
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;

    /// The image that `text` draws, by the rules of the manual.
    fn decoded(text: &str) -> RgbImage {
        let body = text.strip_prefix("\x1bPq\"1;1;").unwrap().strip_suffix("\x1b\\\n").unwrap();
        let end = body.find(['#', '-']).unwrap();
        let (width, height) = body[..end].split_once(';').unwrap();
        let mut image = RgbImage::new(width.parse().unwrap(), height.parse().unwrap());
        let mut palette = BTreeMap::new();
        let (mut colour, mut x, mut top) = (0_u32, 0, 0);
        let mut rest = &body[end..];
        let number = |rest: &mut &str| -> u32 {
            let len = rest.find(|c: char| !c.is_ascii_digit()).unwrap_or(rest.len());
            let (digits, after) = rest.split_at(len);
            *rest = after;
            digits.parse().unwrap()
        };
        while let Some(letter) = rest.chars().next() {
            rest = &rest[1..];
            let mut repeat = 1;
            let mut drawn = letter;
            match letter {
                '#' => {
                    colour = number(&mut rest);
                    if let Some(after) = rest.strip_prefix(";2;") {
                        rest = after;
                        let mut channel = || {
                            let percent = number(&mut rest);
                            rest = rest.strip_prefix(';').unwrap_or(rest);
                            ((percent * 255 + 50) / 100) as u8
                        };
                        palette.insert(colour, Rgb([channel(), channel(), channel()]));
                    }
                    continue;
                }
                '$' => {
                    x = 0;
                    continue;
                }
                '-' => {
                    (x, top) = (0, top + 6);
                    continue;
                }
                '!' => {
                    repeat = number(&mut rest);
                    drawn = rest.chars().next().unwrap();
                    rest = &rest[1..];
                }
                _ => {}
            }
            let bits = drawn as u32 - 63;
            for _ in 0..repeat {
                for row in (0..6).filter(|row| bits >> row & 1 == 1) {
                    image.put_pixel(x, top + row, palette[&colour]);
                }
                x += 1;
            }
        }
        image
    }

    #[test]
    fn an_image_of_few_colours_is_drawn_exactly() {
        let colours = [[255, 0, 0], [0, 255, 51], [0, 0, 255], [255, 255, 255]];
        let image = RgbImage::from_fn(11, 15, |x, y| Rgb(colours[((x / 5 + y / 4) % 4) as usize]));
        assert_eq!(decoded(&encode(&image)), image);
    }

    #[test]
    fn an_image_of_many_colours_keeps_its_mean() {
        let image = RgbImage::from_fn(32, 32, |x, y| Rgb([x as u8 * 7, y as u8 * 7, 99]));
        let mean = |image: &RgbImage| -> [f64; 3] {
            let count = f64::from(image.width() * image.height());
            [0, 1, 2].map(|at| image.pixels().map(|p| f64::from(p.0[at])).sum::<f64>() / count)
        };
        for (found, wanted) in mean(&decoded(&encode(&image))).into_iter().zip(mean(&image)) {
            assert!((found - wanted).abs() < 6.0, "{found} for {wanted}");
        }
    }
}
