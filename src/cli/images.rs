//! Image files in and out, with what made them written into the PNG.

use std::fs::File;
use std::io::BufReader;
use std::path::{Path, PathBuf};

use calumma::files::write_atomic;
use calumma::{Error, Result};
use image::RgbImage;
use serde_json::Value;
use vq_tokenizer::preprocess::{open_image, to_rgb};

/// Keyword of the text chunk that says how an image was made.
pub const KEYWORD: &str = "calumma";

/// The image in the file `path`, transparency on white.
///
/// # Errors
/// When the file is missing, no image, damaged or too large.
pub fn open(path: &Path) -> Result<RgbImage> {
    Ok(to_rgb(open_image(path)?))
}

/// The images of all `paths`.
///
/// # Errors
/// As [`open`], for the first file at fault.
pub fn open_all(paths: &[PathBuf]) -> Result<Vec<RgbImage>> {
    paths.iter().map(|path| open(path)).collect()
}

/// Writes `image` as a PNG that appears whole or not at all, with its directory; `made_by` goes
/// into a tEXt chunk as JSON.
///
/// # Errors
/// As [`write_atomic`].
pub fn save(path: &Path, image: &RgbImage, made_by: Option<&Value>) -> Result<()> {
    let bytes = encode(image, made_by).map_err(|e| Error::file(path, e.to_string()))?;
    write_atomic(path, &bytes)
}

fn encode(
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

/// JSON with everything beyond ASCII escaped: tEXt chunks are Latin-1.
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

/// A PNG file's size and what its text chunk says; `Null` where it has none.
///
/// # Errors
/// When the file is missing or no PNG.
pub fn read_metadata(path: &Path) -> Result<(u32, u32, Value)> {
    let file = File::open(path).map_err(Error::io(path))?;
    let no_png = |e: png::DecodingError| Error::file(path, format!("not a readable PNG: {e}"));
    let mut reader = png::Decoder::new(BufReader::new(file)).read_info().map_err(no_png)?;
    reader.finish().map_err(no_png)?;
    let info = reader.info();
    let chunk = info.uncompressed_latin1_text.iter().find(|chunk| chunk.keyword == KEYWORD);
    let value = match chunk {
        Some(chunk) => serde_json::from_str(&chunk.text)
            .map_err(|e| Error::file(path, format!("its {KEYWORD} text is no JSON: {e}")))?,
        None => Value::Null,
    };
    Ok((info.width, info.height, value))
}

/// A file name of the first words of `text`: lower-case letters and digits, joined by hyphens.
pub fn slug(text: &str) -> String {
    const LONGEST: usize = 48;
    let mut name = String::new();
    for word in text.split(|c: char| !c.is_ascii_alphanumeric()).filter(|word| !word.is_empty()) {
        if !name.is_empty() && name.len() + 1 + word.len() > LONGEST {
            break;
        }
        if !name.is_empty() {
            name.push('-');
        }
        name.extend(word.chars().take(LONGEST).map(|c| c.to_ascii_lowercase()));
    }
    if name.is_empty() { "image".to_owned() } else { name }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;

    #[test]
    fn what_made_an_image_is_read_back_whatever_its_script() {
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
    fn names_are_short_and_plain() {
        assert_eq!(slug("A red circle, above!"), "a-red-circle-above");
        assert_eq!(slug("\u{4e2d}"), "image");
        assert!(slug(&"long ".repeat(100)).len() <= 48);
    }
}
