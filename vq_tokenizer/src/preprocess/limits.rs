//! Limits of images, and the error for files that end too soon.

use crate::error::{Error, Result};

/// Maximum side of an image that may be decoded, in pixels, which is libjpeg's.
pub const MAX_SIDE: u32 = 65_500;
/// Maximum number of pixels of an image that may be decoded, which is Pillow's.
pub const MAX_PIXELS: u64 = 178_956_970;

/// The error for a file without its last part.
pub(super) fn truncated(format: &str) -> Error {
    Error::invalid(format!("not a readable image: the {format} file is truncated"))
}

/// Refuses images beyond [`MAX_SIDE`] and [`MAX_PIXELS`].
pub(super) fn check_size(width: u32, height: u32) -> Result<()> {
    let pixels = u64::from(width) * u64::from(height);
    if width > MAX_SIDE || height > MAX_SIDE || pixels > MAX_PIXELS {
        return Err(Error::invalid(format!(
            "the image is {width}x{height} pixels; allowed: sides up to {MAX_SIDE} and \
             {MAX_PIXELS} pixels in all"
        )));
    }
    Ok(())
}
