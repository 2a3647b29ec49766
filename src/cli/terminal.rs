//! Images in terminals: kitty's and iTerm's protocols, sixel, or half blocks in colour.

mod query;
mod sixel;

use std::fmt::Write;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use clap::ValueEnum;
use image::imageops::{FilterType, resize};
use image::{Rgb, RgbImage};

use super::images;

/// How images are shown.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Show {
    /// As the terminal can; not at all if standard output is none
    Auto,
    /// By kitty's protocol: kitty, Ghostty, Konsole
    Kitty,
    /// By iTerm's protocol: iTerm2, WezTerm, mintty
    Iterm,
    /// As sixels: foot, mlterm, xterm, Windows Terminal
    Sixel,
    /// As coloured half blocks, in any terminal with 24-bit colour
    Blocks,
    /// Not at all
    Off,
}

/// Columns of an image, at most.
const COLUMNS: u32 = 40;
/// Base64 letters of a part of kitty's protocol.
const PART: usize = 4096;

/// What images are drawn on.
#[derive(Clone, Copy, Debug)]
pub struct Screen {
    show: Show,
    columns: u32,
}

impl Screen {
    /// The terminal at standard output, if `is_terminal`, or text for one of the usual width.
    pub fn new(show: Show, is_terminal: bool) -> Self {
        let show = match show {
            Show::Auto if is_terminal => detected(),
            Show::Auto => Show::Off,
            show => show,
        };
        Self { show, columns: query::columns().unwrap_or(80) }
    }

    /// The text that draws `image`, with the end of the line; `None` if images are not shown.
    pub fn draw(&self, image: &RgbImage) -> Option<String> {
        let columns = self.columns.clamp(1, COLUMNS);
        match self.show {
            Show::Kitty => Some(kitty(&images::encode(image, None).ok()?, columns)),
            Show::Iterm => Some(iterm(&images::encode(image, None).ok()?, columns)),
            Show::Sixel => Some(sixel::encode(&enlarged(image))),
            Show::Blocks => Some(blocks(image, columns)),
            Show::Auto | Show::Off => None,
        }
    }
}

/// What the terminal can, by its answers or else by what it says in the environment.
fn detected() -> Show {
    let variable = |name: &str| std::env::var(name).unwrap_or_default();
    let program = variable("TERM_PROGRAM");
    let emulator = variable("LC_TERMINAL");
    if variable("TERM") == "dumb" || !variable("NO_COLOR").is_empty() {
        return Show::Off;
    }
    // Multiplexers swallow what they do not know.
    let direct = variable("TMUX").is_empty() && variable("STY").is_empty();
    let by_name = ["iTerm.app", "WezTerm", "mintty"].contains(&program.as_str());
    if direct && (by_name || emulator == "iTerm2") {
        return Show::Iterm;
    }
    query::answer().map_or(Show::Blocks, |answer| of_answer(&answer))
}

/// What a terminal can whose reply to [`query::answer`] is `answer`.
fn of_answer(answer: &str) -> Show {
    if answer.contains("_Gi=31;OK") {
        return Show::Kitty;
    }
    // Attributes of the device: ESC [ ? class ; attribute ; ... c. The fourth is sixel graphics.
    let attributes = answer.rsplit_once("\x1b[?").map_or("", |(_, rest)| rest);
    let attributes = attributes.trim_end_matches('c').split(';').skip(1);
    if attributes.into_iter().any(|attribute| attribute == "4") {
        Show::Sixel
    } else {
        Show::Blocks
    }
}

/// `png` by kitty's graphics protocol, scaled to `columns`; without a reply.
fn kitty(png: &[u8], columns: u32) -> String {
    let data = STANDARD.encode(png);
    let mut parts = data.as_bytes().chunks(PART).peekable();
    let mut keys = format!("a=T,f=100,q=2,c={columns},");
    let mut text = String::new();
    while let Some(part) = parts.next() {
        let more = u8::from(parts.peek().is_some());
        let part = std::str::from_utf8(part).unwrap_or_default();
        text.push_str(&format!("\x1b_G{keys}m={more};{part}\x1b\\"));
        keys.clear();
    }
    text + "\n"
}

/// `png` by iTerm's inline images, scaled to `columns`.
fn iterm(png: &[u8], columns: u32) -> String {
    let (size, data) = (png.len(), STANDARD.encode(png));
    format!(
        "\x1b]1337;File=inline=1;size={size};width={columns};preserveAspectRatio=1:{data}\x07\n"
    )
}

/// `image`, or a multiple of it that is large enough to be seen.
fn enlarged(image: &RgbImage) -> RgbImage {
    const SIDE: u32 = 320;
    let factor = (SIDE / image.width().max(image.height()).max(1)).max(1);
    resize(image, image.width() * factor, image.height() * factor, FilterType::Nearest)
}

/// `image` in at most `columns` cells per line; the upper half of each is one pixel, the lower half another.
fn blocks(image: &RgbImage, columns: u32) -> String {
    let width = image.width().min(columns).max(1);
    let height = (f64::from(image.height()) * f64::from(width) / f64::from(image.width().max(1)))
        .round()
        .max(1.0) as u32;
    let small = resize(image, width, height, FilterType::Triangle);
    let mut text = String::new();
    for y in (0..height).step_by(2) {
        for x in 0..width {
            let Rgb([r, g, b]) = *small.get_pixel(x, y);
            // The only error of writing to a string is that of a faulty format.
            let _ = write!(text, "\x1b[38;2;{r};{g};{b}m");
            if let Some(Rgb([r, g, b])) = small.get_pixel_checked(x, y + 1) {
                let _ = write!(text, "\x1b[48;2;{r};{g};{b}m");
            }
            text.push('\u{2580}');
        }
        text.push_str("\x1b[0m\n");
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Red over blue, green over nothing.
    fn picture() -> RgbImage {
        RgbImage::from_fn(1, 3, |_, y| Rgb([[255, 0, 0], [0, 0, 255], [0, 255, 0]][y as usize]))
    }

    #[test]
    fn two_pixels_share_a_cell() {
        let expected = "\x1b[38;2;255;0;0m\x1b[48;2;0;0;255m\u{2580}\x1b[0m\n\
                        \x1b[38;2;0;255;0m\u{2580}\x1b[0m\n";
        assert_eq!(blocks(&picture(), 40), expected);
        let wide = RgbImage::new(100, 50);
        let lines = blocks(&wide, 40);
        assert_eq!(lines.lines().count(), 10);
        assert_eq!(lines.lines().next().unwrap_or_default().matches('\u{2580}').count(), 40);
    }

    #[test]
    fn kittys_parts_are_a_whole_png() {
        let png: Vec<u8> = (0..10_000_u32).map(|n| (n % 251) as u8).collect();
        let text = kitty(&png, 7);
        let parts: Vec<&str> = text.trim_end().split_terminator("\x1b\\").collect();
        assert!(parts[0].starts_with("\x1b_Ga=T,f=100,q=2,c=7,m=1;"));
        assert!(parts[1].starts_with("\x1b_Gm=1;") && parts.last().unwrap_or(&"").contains("m=0;"));
        let data: String = parts.iter().filter_map(|part| Some(part.split_once(';')?.1)).collect();
        assert_eq!(STANDARD.decode(data).unwrap_or_default(), png);
        assert!(parts.iter().all(|part| part.len() <= PART + 40));
    }

    #[test]
    fn the_answer_of_a_terminal_decides() {
        for (answer, expected) in [
            ("\x1b_Gi=31;OK\x1b\\\x1b[?62;c", Show::Kitty),
            ("\x1b_Gi=31;EINVAL\x1b\\\x1b[?62;4;22c", Show::Sixel),
            ("\x1b[?64;1;2;4c", Show::Sixel),
            ("\x1b[?4;6c", Show::Blocks),
            ("\x1b[?1;2c", Show::Blocks),
            ("", Show::Blocks),
        ] {
            assert_eq!(of_answer(answer), expected, "{answer:?}");
        }
    }

    #[test]
    fn nothing_is_drawn_where_there_is_no_terminal() {
        assert_eq!(Screen::new(Show::Auto, false).draw(&picture()), None);
        assert_eq!(Screen::new(Show::Off, true).draw(&picture()), None);
        assert!(Screen::new(Show::Iterm, false).draw(&picture()).is_some());
    }
}
