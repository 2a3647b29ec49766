//! Sheets: a grid of images with texts on one image, for people to look through.
//!
//! Pure layout, without file access. Texts are set in font8x8, an 8x8 bitmap font that is compiled in, so
//! that a sheet needs no font file.
//!
//! ```
//! use calumma::sheet::{Cell, Layout, Section, Tone, sheet};
//!
//! let cell = Cell::new(image::RgbImage::new(64, 64)).note(Tone::Plain, "a black square");
//! let section = Section { heading: "drawn".into(), cells: vec![cell] };
//! let image = sheet(&[section], &Layout { columns: 1, ..Layout::default() });
//! assert_eq!(image.width(), 12 + 256 + 12);
//! ```

use font8x8::UnicodeFonts;
use font8x8::{BASIC_FONTS, LATIN_FONTS};
use image::imageops::{self, FilterType};
use image::{Rgb, RgbImage};

/// Width and height of a glyph before scaling, in pixels.
const GLYPH: u32 = 8;
/// Space between lines of text before scaling, in pixels.
const LEADING: u32 = 3;
/// Replacement for characters that the font lacks.
const UNKNOWN: char = '?';
/// Colour of the background.
const PAPER: Rgb<u8> = Rgb([250, 250, 247]);
/// Colour of the line under a heading.
const RULE: Rgb<u8> = Rgb([200, 200, 192]);

/// The meaning of a text, shown by its colour.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Tone {
    /// Near black.
    #[default]
    Plain,
    /// Grey, for secondary text.
    Muted,
    /// Green.
    Right,
    /// Red.
    Wrong,
}

impl Tone {
    fn colour(self) -> Rgb<u8> {
        match self {
            Self::Plain => Rgb([24, 24, 28]),
            Self::Muted => Rgb([120, 120, 124]),
            Self::Right => Rgb([16, 120, 48]),
            Self::Wrong => Rgb([184, 32, 32]),
        }
    }
}

/// An image with texts below it.
#[derive(Clone, Debug)]
pub struct Cell {
    /// The image, of any size; it is scaled to the width of the layout.
    pub image: RgbImage,
    /// Texts from top to bottom; each starts a new line and is wrapped.
    pub notes: Vec<(Tone, String)>,
}

impl Cell {
    /// A cell without text.
    pub fn new(image: RgbImage) -> Self {
        Self { image, notes: Vec::new() }
    }

    /// The cell with one more text at the bottom.
    #[must_use]
    pub fn note(mut self, tone: Tone, text: impl Into<String>) -> Self {
        self.notes.push((tone, text.into()));
        self
    }
}

/// Cells under a heading.
#[derive(Clone, Debug)]
pub struct Section {
    /// The heading; empty for none.
    pub heading: String,
    /// The cells, row by row.
    pub cells: Vec<Cell>,
}

/// Sizes of a sheet, in pixels unless stated otherwise.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Layout {
    /// Cells per row, at least 1.
    pub columns: u32,
    /// Width of every image, at least 8.
    pub image: u32,
    /// Scale factor of the 8x8 glyphs, at least 1.
    pub text_scale: u32,
    /// Space between cells and around the sheet.
    pub gap: u32,
}

impl Default for Layout {
    /// Four images of 256 pixels per row, glyphs of 16 pixels.
    fn default() -> Self {
        Self { columns: 4, image: 256, text_scale: 2, gap: 12 }
    }
}

impl Layout {
    /// The layout with its values clamped to what can be drawn.
    fn clamped(self) -> Self {
        Self {
            columns: self.columns.max(1),
            image: self.image.max(GLYPH),
            text_scale: self.text_scale.clamp(1, self.image.max(GLYPH) / GLYPH),
            gap: self.gap,
        }
    }

    fn width(self) -> u32 {
        self.gap + self.columns * (self.image + self.gap)
    }

    fn line_height(self) -> u32 {
        self.text_scale * (GLYPH + LEADING)
    }

    /// Characters that fit the width of an image.
    fn chars(self) -> usize {
        (self.image / (self.text_scale * GLYPH)) as usize
    }

    /// Height of a heading with the line under it.
    fn heading_height(self) -> u32 {
        self.line_height() + self.gap
    }
}

/// A cell with its image scaled and its text wrapped.
struct LaidOut {
    image: RgbImage,
    lines: Vec<(Tone, String)>,
}

impl LaidOut {
    fn new(cell: &Cell, layout: Layout) -> Self {
        let wrapped = |(tone, text): &(Tone, String)| {
            wrap(text, layout.chars()).into_iter().map(|line| (*tone, line)).collect::<Vec<_>>()
        };
        Self {
            image: scaled(&cell.image, layout.image),
            lines: cell.notes.iter().flat_map(wrapped).collect(),
        }
    }

    fn height(&self, layout: Layout) -> u32 {
        let text = self.lines.len() as u32 * layout.line_height();
        self.image.height() + if text > 0 { layout.gap / 2 + text } else { 0 }
    }
}

/// Draws `sections` below each other on a sheet.
pub fn sheet(sections: &[Section], layout: &Layout) -> RgbImage {
    let layout = layout.clamped();
    let laid_out: Vec<(&str, Vec<LaidOut>)> = sections
        .iter()
        .map(|section| {
            let cells = section.cells.iter().map(|cell| LaidOut::new(cell, layout)).collect();
            (section.heading.as_str(), cells)
        })
        .collect();
    let height: u32 =
        laid_out.iter().map(|(heading, cells)| section_height(heading, cells, layout)).sum();
    let mut page = RgbImage::from_pixel(layout.width(), height + layout.gap, PAPER);
    let mut top = layout.gap;
    for (heading, cells) in &laid_out {
        top = draw_section(&mut page, heading, cells, top, layout);
    }
    page
}

fn rows(cells: &[LaidOut], layout: Layout) -> impl Iterator<Item = (&[LaidOut], u32)> {
    let height =
        move |row: &[LaidOut]| row.iter().map(|cell| cell.height(layout)).max().unwrap_or(0);
    cells.chunks(layout.columns as usize).map(move |row| (row, height(row)))
}

fn section_height(heading: &str, cells: &[LaidOut], layout: Layout) -> u32 {
    let heading = if heading.is_empty() { 0 } else { layout.heading_height() };
    heading + rows(cells, layout).map(|(_, height)| height + layout.gap).sum::<u32>()
}

/// Draws a section at `top`; returns the top of the next one.
fn draw_section(
    page: &mut RgbImage,
    heading: &str,
    cells: &[LaidOut],
    mut top: u32,
    layout: Layout,
) -> u32 {
    if !heading.is_empty() {
        draw_text(page, heading, (layout.gap, top), layout.text_scale, Tone::Plain.colour());
        let rule = top + layout.line_height() - layout.text_scale;
        (layout.gap..layout.width() - layout.gap).for_each(|x| put(page, x, rule, RULE));
        top += layout.heading_height();
    }
    for (row, height) in rows(cells, layout) {
        for (column, cell) in (0u32..).zip(row) {
            let left = layout.gap + column * (layout.image + layout.gap);
            imageops::replace(page, &cell.image, i64::from(left), i64::from(top));
            let text_top = top + cell.image.height() + layout.gap / 2;
            for (index, (tone, line)) in (0u32..).zip(&cell.lines) {
                let y = text_top + index * layout.line_height();
                draw_text(page, line, (left, y), layout.text_scale, tone.colour());
            }
        }
        top += height + layout.gap;
    }
    top
}

/// `image` scaled to `width`; integer factors keep pixels sharp.
fn scaled(image: &RgbImage, width: u32) -> RgbImage {
    let (from, height) = image.dimensions();
    if from == 0 || height == 0 {
        return RgbImage::from_pixel(width, width, RULE);
    }
    let height = (u64::from(height) * u64::from(width)).div_ceil(u64::from(from));
    let height = u32::try_from(height).unwrap_or(u32::MAX).clamp(1, 8 * width);
    let filter =
        if width.is_multiple_of(from) { FilterType::Nearest } else { FilterType::Triangle };
    imageops::resize(image, width, height, filter)
}

fn put(page: &mut RgbImage, x: u32, y: u32, colour: Rgb<u8>) {
    if let Some(pixel) = page.get_pixel_mut_checked(x, y) {
        *pixel = colour;
    }
}

/// Draws a line of text with its upper left corner at `(left, top)`, clipped to the page.
fn draw_text(
    page: &mut RgbImage,
    text: &str,
    (left, top): (u32, u32),
    scale: u32,
    colour: Rgb<u8>,
) {
    for (index, character) in (0u32..).zip(text.chars()) {
        let glyph = glyph(character);
        for (row, bits) in (0u32..).zip(glyph) {
            for column in (0..GLYPH).filter(|column| bits >> column & 1 == 1) {
                let (x, y) = (left + scale * (GLYPH * index + column), top + scale * row);
                for (dx, dy) in (0..scale).flat_map(|dx| (0..scale).map(move |dy| (dx, dy))) {
                    put(page, x + dx, y + dy, colour);
                }
            }
        }
    }
}

/// Eight rows of eight pixels; the lowest bit is the leftmost pixel.
fn glyph(character: char) -> [u8; 8] {
    let known = |character| BASIC_FONTS.get(character).or_else(|| LATIN_FONTS.get(character));
    known(character).or_else(|| known(UNKNOWN)).unwrap_or([0xff; 8])
}

/// Breaks `text` into lines of at most `width` characters: at whitespace, or within words longer than a line.
fn wrap(text: &str, width: usize) -> Vec<String> {
    let mut lines = Vec::new();
    let mut line = String::new();
    let mut used = 0;
    for word in text.split_whitespace() {
        let mut rest: Vec<char> = word.chars().collect();
        if used > 0 && used + 1 + rest.len() > width {
            lines.push(std::mem::take(&mut line));
            used = 0;
        }
        if used > 0 {
            line.push(' ');
            used += 1;
        }
        while rest.len() > width {
            lines.push(rest.drain(..width).collect());
        }
        used += rest.len();
        line.extend(rest);
    }
    if used > 0 {
        lines.push(line);
    }
    lines
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_is_wrapped_at_whitespace_and_long_words_are_split() {
        assert_eq!(wrap("a red circle above", 9), ["a red", "circle", "above"]);
        assert_eq!(wrap("abcdefghij kl", 4), ["abcd", "efgh", "ij", "kl"]);
        assert!(wrap("  ", 4).is_empty());
        for line in wrap("the quick brown fox jumps over incomprehensibilities", 7) {
            assert!(line.chars().count() <= 7, "{line}");
        }
    }

    #[test]
    fn every_row_of_cells_is_drawn() {
        let cell = |side| Cell::new(RgbImage::from_pixel(side, side, Rgb([1, 2, 3])));
        let section = Section { heading: String::new(), cells: vec![cell(16); 5] };
        let layout = Layout { columns: 2, image: 32, text_scale: 1, gap: 4 };
        let page = sheet(&[section], &layout);
        assert_eq!(page.dimensions(), (4 + 2 * 36, 4 + 3 * 36));
        let image = |x, y| *page.get_pixel(x, y) == Rgb([1, 2, 3]);
        assert!(image(4, 4) && image(40, 40) && image(4, 76) && !image(40, 76));
    }

    #[test]
    fn text_is_drawn_in_the_colour_of_its_tone() {
        let cell = Cell::new(RgbImage::new(8, 8)).note(Tone::Right, "yes \u{e9} \u{4e2d}");
        let section = Section { heading: "answers".into(), cells: vec![cell] };
        let page = sheet(&[section], &Layout { columns: 1, ..Layout::default() });
        assert!(page.pixels().any(|pixel| *pixel == Tone::Right.colour()));
        assert!(page.pixels().any(|pixel| *pixel == Tone::Plain.colour()));
    }

    #[test]
    fn empty_input_and_zero_sizes_are_accepted() {
        let layout = Layout { columns: 0, image: 0, text_scale: 0, gap: 0 };
        let cells = vec![Cell::new(RgbImage::new(0, 3)).note(Tone::Plain, "word")];
        let page = sheet(&[Section { heading: "h".into(), cells }], &layout);
        assert_eq!(page.width(), GLYPH);
        assert_eq!(sheet(&[], &Layout::default()).height(), 12);
    }
}
