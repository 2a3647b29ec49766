//! Reads image files and writes PNG files that record how they were generated.

use std::fs::File;
use std::io::BufReader;
use std::path::{Path, PathBuf};

use calumma::files::write_atomic;
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

/// A file name from the first words of `text`: lower-case letters and digits, joined by hyphens.
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
    fn slugs_are_short_ascii_and_never_empty() {
        assert_eq!(slug("A red circle, above!"), "a-red-circle-above");
        assert_eq!(slug("\u{4e2d}"), "image");
        assert!(slug(&"long ".repeat(100)).len() <= 48);
    }
}
