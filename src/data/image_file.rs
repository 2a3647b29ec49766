//! Decoding of image files to RGB, for all readers.

use image::RgbImage;
use vq_tokenizer::preprocess::{decode_image, to_rgb};

use crate::error::{Error, Result};

/// Decodes a PNG, JPEG or WebP image of any colour mode, blended onto white. `origin` names the
/// image in error messages.
pub(super) fn decode(bytes: &[u8], origin: &str) -> Result<RgbImage> {
    let image = decode_image(bytes).map_err(Error::because(origin))?;
    Ok(to_rgb(image))
}
