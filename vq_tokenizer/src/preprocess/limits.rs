//! Limits of images, and the error for files that end too soon.

use crate::error::{Error, Result};

/// Maximum side of an image that may be decoded, in pixels, which is libjpeg's.
pub const MAX_SIDE: u32 = 65_500;
/// Maximum number of pixels of an image that may be decoded, which is Pillow's.
pub const MAX_PIXELS: u64 = 178_956_970;

/// What an image may take when it is decoded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DecodeLimits {
    /// Maximum number of pixels, at most [`MAX_PIXELS`].
    pub pixels: u64,
    /// Maximum memory that the decoders of PNG and WebP may allocate, in bytes.
    pub bytes: u64,
}

impl Default for DecodeLimits {
    /// [`MAX_PIXELS`], of four channels of 16 bits.
    fn default() -> Self {
        Self { pixels: MAX_PIXELS, bytes: 3 << 29 }
    }
}

/// The error for a file without its last part.
pub(super) fn truncated(format: &str) -> Error {
    Error::invalid(format!("not a readable image: the {format} file is truncated"))
}

impl DecodeLimits {
    /// Refuses images beyond [`MAX_SIDE`] and these limits.
    pub(super) fn check(self, width: u32, height: u32) -> Result<()> {
        let pixels = u64::from(width) * u64::from(height);
        let most = self.pixels.min(MAX_PIXELS);
        if width > MAX_SIDE || height > MAX_SIDE || pixels > most {
            return Err(Error::invalid(format!(
                "the image is {width}x{height} pixels; allowed: sides up to {MAX_SIDE} and \
                 {most} pixels in all"
            )));
        }
        Ok(())
    }
}
