//! Picture files in.

use std::path::{Path, PathBuf};

use calumma::Result;
use image::RgbImage;
use vq_tokenizer::preprocess::{open_image, to_rgb};

/// The picture in the file `path`, transparency on white.
///
/// # Errors
/// When the file is missing, no picture, damaged or too large.
pub fn open(path: &Path) -> Result<RgbImage> {
    Ok(to_rgb(open_image(path)?))
}

/// The pictures of all `paths`.
///
/// # Errors
/// As [`open`], for the first file at fault.
pub fn open_all(paths: &[PathBuf]) -> Result<Vec<RgbImage>> {
    paths.iter().map(|path| open(path)).collect()
}
