//! Images as rows name them: by path, or inside the text as a `data:` URI.

use std::fmt::{self, Display, Formatter};
use std::io;
use std::path::{Path, PathBuf};

use base64::Engine;
use base64::engine::general_purpose::STANDARD;

use super::files;

/// Where an image is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum ImageSource {
    /// In a file.
    File(PathBuf),
    /// Inside the row, as the content of an image file.
    Inside(Vec<u8>),
}

impl ImageSource {
    /// The image that `text` names, a path relative to `dir`, a `file:` URI or a `data:` URI. The error is
    /// the message.
    pub(super) fn parse(text: &str, dir: &Path) -> Result<Self, String> {
        if let Some(uri) = text.strip_prefix("data:") {
            return data_uri(uri).map(Self::Inside);
        }
        if let Some(path) = text.strip_prefix("file://") {
            return Ok(Self::File(PathBuf::from(path.strip_prefix("localhost").unwrap_or(path))));
        }
        match text.split_once("://") {
            Some((scheme @ ("http" | "https" | "s3" | "gs" | "az" | "hf" | "oss"), _)) => {
                Err(format!(
                    "image {text}: images at {scheme} URLs are not read; fetch them and name the files"
                ))
            }
            _ => Ok(Self::File(dir.join(text))),
        }
    }

    /// The content of the image file.
    pub(super) fn read(&self) -> io::Result<Vec<u8>> {
        match self {
            Self::File(path) => files::read(path),
            Self::Inside(bytes) => Ok(bytes.clone()),
        }
    }
}

impl Display for ImageSource {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        match self {
            Self::File(path) => write!(f, "image {}", path.display()),
            Self::Inside(_) => f.write_str("image in a data: URI"),
        }
    }
}

/// The bytes in a `data:` URI in base64; `uri` comes without the scheme.
///
/// # Errors
/// The message, if it is not in base64.
pub fn data_uri(uri: &str) -> Result<Vec<u8>, String> {
    let is_base64 = |kind: &str| kind.to_ascii_lowercase().ends_with(";base64");
    let encoded = uri.split_once(',').and_then(|(kind, text)| is_base64(kind).then_some(text));
    let encoded = encoded.ok_or("a data: URI of an image must be data:image/...;base64,...")?;
    STANDARD.decode(encoded.trim()).map_err(|e| format!("a data: URI is not valid base64: {e}"))
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;

    #[test]
    fn images_are_named_by_path_or_uri() {
        let parse = |text: &str| ImageSource::parse(text, Path::new("d"));
        let file = |path: &str| Ok(ImageSource::File(PathBuf::from(path)));
        assert_eq!(parse("a/b.png"), file("d/a/b.png"));
        assert_eq!(parse("/a.png"), file("/a.png"));
        assert_eq!(parse("file:///a.png"), file("/a.png"));
        assert_eq!(parse("file://localhost/a.png"), file("/a.png"));
        assert_eq!(parse("data:image/png;base64,AQI="), Ok(ImageSource::Inside(vec![1, 2])));
        assert_eq!(parse("data:image/PNG;BASE64,AQI="), Ok(ImageSource::Inside(vec![1, 2])));
        for (text, words) in [
            ("https://host/a.png", "https URLs are not read"),
            ("data:image/png,xyz", "must be data:image"),
            ("data:image/png;base64,???", "not valid base64"),
        ] {
            assert!(parse(text).unwrap_err().contains(words), "{text}");
        }
    }
}
