//! Picture bytes to RGB. Everything the readers decode passes through here.

use image::{DynamicImage, ImageReader, Limits, RgbImage};
use std::io::Cursor;

use crate::{Error, Result};

/// Largest width and height that is decoded, in pixels.
const MAX_SIDE: u32 = 16_384;
/// Most bytes that decoding one picture may allocate.
const MAX_ALLOC: u64 = 512 << 20;

/// Decodes PNG, JPEG or WebP of any mode; transparency is blended on white. `origin` names the
/// picture in messages.
pub(super) fn decode(bytes: &[u8], origin: &str) -> Result<RgbImage> {
    let fail = |e: &dyn std::fmt::Display| Error::Invalid(format!("{origin}: {e}"));
    let mut limits = Limits::default();
    limits.max_image_width = Some(MAX_SIDE);
    limits.max_image_height = Some(MAX_SIDE);
    limits.max_alloc = Some(MAX_ALLOC);
    let mut reader =
        ImageReader::new(Cursor::new(bytes)).with_guessed_format().map_err(|e| fail(&e))?;
    reader.limits(limits);
    Ok(on_white(reader.decode().map_err(|e| fail(&e))?))
}

fn on_white(picture: DynamicImage) -> RgbImage {
    if !picture.color().has_alpha() {
        return picture.into_rgb8();
    }
    let rgba = picture.into_rgba8();
    RgbImage::from_fn(rgba.width(), rgba.height(), |x, y| {
        let [r, g, b, alpha] = rgba.get_pixel(x, y).0;
        let blend = |value: u8| {
            let (value, alpha) = (u32::from(value), u32::from(alpha));
            ((value * alpha + 255 * (255 - alpha) + 127) / 255) as u8
        };
        image::Rgb([blend(r), blend(g), blend(b)])
    })
}
