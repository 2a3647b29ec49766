//! Image bytes to RGB. Everything the readers decode passes through here.

use image::RgbImage;
use vq_tokenizer::preprocess::{decode_image, to_rgb};

use crate::{Error, Result};

/// Decodes PNG, JPEG or WebP of any mode; transparency is composited on white. `origin` names the
/// image in messages.
pub(super) fn decode(bytes: &[u8], origin: &str) -> Result<RgbImage> {
    let image = decode_image(bytes).map_err(|e| Error::invalid(format!("{origin}: {e}")))?;
    Ok(to_rgb(image))
}
