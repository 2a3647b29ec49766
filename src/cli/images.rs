//! Reads image files and writes PNG files that record how they were generated.

use std::fs::File;
use std::io::BufReader;
use std::path::{Path, PathBuf};

use calumma::files::{write_atomic, write_new};
use calumma::{Error, Result};
use image::RgbImage;
use serde_json::Value;
use vq_tokenizer::preprocess::{open_image, to_rgb};

/// Keyword of the text chunk that records how an image was generated.
pub const KEYWORD: &str = "calumma";

/// The image in the file `path`, with transparency over white.
///
/// # Errors
/// If the file is missing, not an image, damaged or too large.
pub fn open(path: &Path) -> Result<RgbImage> {
    Ok(to_rgb(open_image(path)?))
}

/// The images of all `paths`.
///
/// # Errors
/// As [`open`], for the first bad file.
pub fn open_all(paths: &[PathBuf]) -> Result<Vec<RgbImage>> {
    paths.iter().map(|path| open(path)).collect()
}

/// Writes `image` atomically as a PNG, creating its directory; `made_by` is stored as JSON in a tEXt
/// chunk.
///
/// # Errors
/// As [`write_atomic`].
pub fn save(path: &Path, image: &RgbImage, made_by: Option<&Value>) -> Result<()> {
    let bytes = encode(image, made_by).map_err(Error::in_file(path))?;
    write_atomic(path, &bytes)
}

/// Writes `image` as the new file `<dir>/<name>.png`, as [`save`]; a number is added to the name if it is
/// taken. Nothing is overwritten. Returns the path.
///
/// # Errors
/// As [`write_new`].
pub fn save_new(
    dir: &Path,
    name: &str,
    image: &RgbImage,
    made_by: Option<&Value>,
) -> Result<PathBuf> {
    let bytes = encode(image, made_by).map_err(Error::in_file(dir))?;
    match write_numbered(dir, name, &bytes) {
        // Some file systems refuse letters beyond ASCII.
        Err(Error::Io { .. }) if !name.is_ascii() => {
            let name: String = name.chars().filter(char::is_ascii).collect();
            write_numbered(dir, &format!("image{name}"), &bytes)
        }
        written => written,
    }
}

fn write_numbered(dir: &Path, name: &str, bytes: &[u8]) -> Result<PathBuf> {
    let mut number = 0_usize;
    loop {
        let file = match number {
            0 => format!("{name}.png"),
            _ => format!("{name}-{number}.png"),
        };
        let path = dir.join(file);
        if write_new(&path, bytes)? {
            return Ok(path);
        }
        number += 1;
    }
}

/// `image` as the bytes of a PNG file, with `made_by` in a tEXt chunk.
///
/// # Errors
/// If the image is empty.
pub fn encode(
    image: &RgbImage,
    made_by: Option<&Value>,
) -> std::result::Result<Vec<u8>, png::EncodingError> {
    let mut bytes = Vec::new();
    let mut encoder = png::Encoder::new(&mut bytes, image.width(), image.height());
    encoder.set_color(png::ColorType::Rgb);
    encoder.set_depth(png::BitDepth::Eight);
    if let Some(value) = made_by {
        encoder.add_text_chunk(KEYWORD.to_owned(), ascii(&value.to_string()))?;
    }
    let mut writer = encoder.write_header()?;
    writer.write_image_data(image.as_raw())?;
    writer.finish()?;
    Ok(bytes)
}

/// `json` with all non-ASCII characters escaped, since tEXt chunks are Latin-1.
fn ascii(json: &str) -> String {
    let mut text = String::with_capacity(json.len());
    for character in json.chars() {
        if character.is_ascii() {
            text.push(character);
        } else {
            let mut units = [0; 2];
            for unit in character.encode_utf16(&mut units) {
                text.push_str(&format!("\\u{unit:04x}"));
            }
        }
    }
    text
}

/// The width and height of a PNG file and the JSON in its text chunk; `Null` without one.
///
/// # Errors
/// If the file is missing or not a PNG, or the text is not JSON.
pub fn read_metadata(path: &Path) -> Result<(u32, u32, Value)> {
    let file = File::open(path).map_err(Error::io(path))?;
    let bad_png =
        |e: png::DecodingError| Error::in_file(path)(Error::because("not a readable PNG")(e));
    let mut reader = png::Decoder::new(BufReader::new(file)).read_info().map_err(bad_png)?;
    reader.finish().map_err(bad_png)?;
    let info = reader.info();
    let chunk = info.uncompressed_latin1_text.iter().find(|chunk| chunk.keyword == KEYWORD);
    let value = match chunk {
        Some(chunk) => serde_json::from_str(&chunk.text)
            .map_err(Error::because(format!("the {KEYWORD} text is not JSON")))
            .map_err(Error::in_file(path))?,
        None => Value::Null,
    };
    Ok((info.width, info.height, value))
}

/// A file name from the first words of `text`: lower-case letters and digits of any script, joined by
/// hyphens; at most 48 letters and 96 bytes, since file names may have few bytes.
pub fn slug(text: &str) -> String {
    const LONGEST: usize = 48;
    const MOST_BYTES: usize = 96;
    let mut name = String::new();
    for word in text.split(|c: char| !c.is_alphanumeric()).filter(|word| !word.is_empty()) {
        if !name.is_empty() {
            if name.chars().count() + 1 + word.chars().count() > LONGEST {
                break;
            }
            name.push('-');
        }
        name.extend(word.chars().take(LONGEST).flat_map(char::to_lowercase));
    }
    if name.len() > MOST_BYTES {
        name.truncate(name.floor_char_boundary(MOST_BYTES));
    }
    let name = name.trim_end_matches('-').to_owned();
    if name.is_empty() { "image".to_owned() } else { name }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;

    #[test]
    fn metadata_in_any_script_is_read_back() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("new/p.png");
        let image = RgbImage::from_fn(5, 3, |x, y| image::Rgb([x as u8, y as u8, 7]));
        let value = serde_json::json!({"prompt": "gr\u{fc}n \u{1f98e} \u{4e2d}", "seed": 3});
        save(&path, &image, Some(&value)).unwrap();
        assert_eq!(read_metadata(&path).unwrap(), (5, 3, value));
        assert_eq!(open(&path).unwrap(), image);
        save(&path, &image, None).unwrap();
        assert_eq!(read_metadata(&path).unwrap().2, Value::Null);
    }

    #[test]
    fn slugs_are_short_and_never_empty() {
        for (text, expected) in [
            ("A red circle, above!", "a-red-circle-above"),
            ("\u{4e2d}\u{6587}", "\u{4e2d}\u{6587}"),
            ("Gr\u{fc}ner \u{c4}pfel", "gr\u{fc}ner-\u{e4}pfel"),
            ("../../etc/passwd", "etc-passwd"),
            ("\u{1f98e} \u{0}", "image"),
            ("", "image"),
        ] {
            assert_eq!(slug(text), expected);
        }
        assert!(slug(&"long ".repeat(100)).len() <= 48);
        for letter in ["\u{4e2d}", "\u{10400}", "\u{130}", "\u{df}"] {
            for text in [letter.repeat(200), format!("{letter} ").repeat(200)] {
                let slug = slug(&text);
                assert!(slug.len() <= 96 && slug.chars().count() > 20, "{slug}");
            }
        }
    }

    #[test]
    fn a_taken_name_gets_a_number() {
        let dir = tempfile::tempdir().unwrap();
        let image = RgbImage::new(2, 2);
        let save = |name: &str| {
            let path = save_new(dir.path(), name, &image, None).unwrap();
            path.file_name().unwrap().to_str().unwrap().to_owned()
        };
        let saved = ["a-0", "a-0", "a-0-1", "a-0", "\u{4e2d}-0", "\u{4e2d}-0"].map(save);
        let names = ["a-0.png", "a-0-1.png", "a-0-1-1.png", "a-0-2.png"];
        assert_eq!(saved[..4], names);
        assert_ne!(saved[4], saved[5]);
        let found = std::fs::read_dir(dir.path()).unwrap().count();
        assert_eq!(found, 6);
    }
}
