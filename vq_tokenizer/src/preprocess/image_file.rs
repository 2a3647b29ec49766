//! Decoding of image files, upright, with limits against files that claim to be huge.
//!
//! [`decode_image`] is the only decoder of images in the program, so all readers see the same pixels, and those
//! that Pillow, `datasets` and transformers see: the orientation of the metadata is applied, colour profiles
//! (ICC, gAMA, cHRM, cICP) are not, and of an animation the first frame is taken.

use std::io::Cursor;
use std::path::Path;

use image::{DynamicImage, ImageFormat, ImageReader, Limits, RgbImage};

use super::config::Rule;
use super::jpeg;
use super::limits::{DecodeLimits, truncated};
use super::orientation::Metadata;
use crate::error::{Error, Result};

/// The image of a PNG, JPEG or WebP file, as [`decode_image`] returns it.
///
/// # Errors
/// [`Error::Io`] if the file cannot be read; [`Error::File`] in the cases of [`decode_image`].
pub fn open_image(path: &Path) -> Result<DynamicImage> {
    let bytes = std::fs::read(path).map_err(Error::io(path))?;
    decode_image(&bytes).map_err(Error::in_file(path))
}

/// The image of PNG, JPEG or WebP bytes, turned upright as its EXIF or XMP metadata tells.
///
/// # Errors
/// [`Error::Invalid`] if it is not an image, is damaged or cut short, or is larger than [`MAX_SIDE`](super::MAX_SIDE) or
/// [`MAX_PIXELS`](super::MAX_PIXELS), which is checked before memory is allocated for it.
pub fn decode_image(bytes: &[u8]) -> Result<DynamicImage> {
    decode_image_within(bytes, DecodeLimits::default())
}

/// As [`decode_image`], within tighter limits.
///
/// # Errors
/// Those of [`decode_image`], and if the image exceeds `limits`.
pub fn decode_image_within(bytes: &[u8], limits: DecodeLimits) -> Result<DynamicImage> {
    let (mut image, metadata) = match image::guess_format(bytes) {
        Ok(ImageFormat::Jpeg) => jpeg::decode(bytes, limits)?,
        Ok(ImageFormat::Png) => {
            let image = decode(bytes, ImageFormat::Png, limits)?;
            (image, Metadata::of_png(bytes).ok_or_else(|| truncated("PNG"))?)
        }
        Ok(ImageFormat::WebP) => {
            let image = decode(bytes, ImageFormat::WebP, limits)?;
            (image, Metadata::of_webp(bytes).ok_or_else(|| truncated("WebP"))?)
        }
        Ok(other) => {
            let name = format!("{other:?}").to_uppercase();
            return Err(Error::invalid(format!(
                "the image is of the format {name}; allowed: PNG, JPEG, WebP"
            )));
        }
        Err(_) if tensor_files::is_lfs_pointer(bytes) => {
            return Err(Error::invalid(tensor_files::LFS_POINTER));
        }
        Err(_) => return Err(Error::invalid("not an image; allowed: PNG, JPEG, WebP")),
    };
    image.apply_orientation(metadata.orientation());
    Ok(image)
}

/// The image of PNG or WebP bytes as they are stored.
fn decode(bytes: &[u8], format: ImageFormat, limits: DecodeLimits) -> Result<DynamicImage> {
    // The header alone makes a decoder allocate too: for a colour profile, which is compressed.
    let open = || {
        let mut of_decoder = Limits::default();
        of_decoder.max_alloc = Some(limits.bytes);
        let mut reader = ImageReader::with_format(Cursor::new(bytes), format);
        reader.limits(of_decoder);
        reader
    };
    let damaged = |e: image::ImageError| Error::because("not a readable image")(e);
    let (width, height) = open().into_dimensions().map_err(damaged)?;
    limits.check(width, height)?;
    open().decode().map_err(damaged)
}

/// `image` as 8-bit RGB, with transparency composited on white as by Hugging Face's processor.
pub fn to_rgb(image: DynamicImage) -> RgbImage {
    to_rgb_by(image, Rule::HuggingFace)
}

/// `image` as 8-bit RGB, with transparency blended with white by `rule`.
///
/// 16-bit values are reduced to their upper byte, as in Pillow. Pillow saturates 16-bit grey at 255 instead,
/// which turns such images white; here grey is treated like colour.
pub fn to_rgb_by(image: DynamicImage, rule: Rule) -> RgbImage {
    let image = match image {
        DynamicImage::ImageLuma16(_) | DynamicImage::ImageRgb16(_) => {
            return RgbImage::from(upper_bytes(image.into_rgb16()));
        }
        DynamicImage::ImageLumaA16(_) | DynamicImage::ImageRgba16(_) => {
            DynamicImage::ImageRgba8(upper_bytes(image.into_rgba16()))
        }
        other => other,
    };
    if !image.color().has_alpha() {
        return image.into_rgb8();
    }
    let rgba = image.into_rgba8();
    let blend = match rule {
        // Pillow's conversion, which drops the transparency.
        Rule::Emu3 => |value, _| value,
        Rule::HuggingFace | Rule::Flexible => composite_on_white,
        Rule::Original => blend_with_white,
    };
    RgbImage::from_fn(rgba.width(), rgba.height(), |x, y| {
        let [red, green, blue, alpha] = rgba.get_pixel(x, y).0;
        image::Rgb([red, green, blue].map(|value| blend(value, alpha)))
    })
}

/// The upper byte of every value.
fn upper_bytes<P, Q>(image: image::ImageBuffer<P, Vec<u16>>) -> image::ImageBuffer<Q, Vec<u8>>
where
    P: image::Pixel<Subpixel = u16>,
    Q: image::Pixel<Subpixel = u8>,
{
    let (width, height) = image.dimensions();
    let bytes = image.into_raw().into_iter().map(|value| (value >> 8) as u8).collect();
    image::ImageBuffer::from_raw(width, height, bytes)
        .expect("one byte for every value of the same size")
}

/// Pillow's `alpha_composite` over opaque white, rounded to nearest.
fn composite_on_white(value: u8, alpha: u8) -> u8 {
    let (value, alpha) = (u32::from(value), u32::from(alpha));
    ((value * alpha + 255 * (255 - alpha) + 127) / 255) as u8
}

/// The original release's blend with white, in f64 and truncated.
fn blend_with_white(value: u8, alpha: u8) -> u8 {
    let alpha = f64::from(alpha) / 255.0;
    ((1.0 - alpha) * 255.0 + alpha * f64::from(value)) as u8
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;

    fn png(image: &DynamicImage) -> Vec<u8> {
        let mut bytes = Cursor::new(Vec::new());
        image.write_to(&mut bytes, image::ImageFormat::Png).unwrap();
        bytes.into_inner()
    }

    /// A PNG whose header claims the given size, without the pixels for it.
    fn header(width: u32, height: u32) -> Vec<u8> {
        let mut bytes = png(&DynamicImage::new_rgb8(1, 1));
        bytes[16..20].copy_from_slice(&width.to_be_bytes());
        bytes[20..24].copy_from_slice(&height.to_be_bytes());
        let crc = crc32(&bytes[12..29]);
        bytes[29..33].copy_from_slice(&crc.to_be_bytes());
        bytes
    }

    fn crc32(bytes: &[u8]) -> u32 {
        !bytes.iter().fold(!0, |crc, byte| {
            (0..8).fold(crc ^ u32::from(*byte), |crc, _| (crc >> 1) ^ (0xEDB8_8320 * (crc & 1)))
        })
    }

    #[test]
    fn an_image_that_claims_to_be_huge_is_refused() {
        let message = decode_image(&header(60_000, 60_000)).unwrap_err().to_string();
        assert!(message.contains("60000x60000"), "{message}");
        let message = decode_image(&header(30_000, 30_000)).unwrap_err().to_string();
        assert!(message.contains("178956970 pixels"), "{message}");
    }

    #[test]
    fn errors_distinguish_other_files_from_damaged_images() {
        let message = decode_image(b"once upon a time").unwrap_err().to_string();
        assert!(message.starts_with("not an image"), "{message}");
        let mut bytes = png(&DynamicImage::new_rgb8(9, 9));
        bytes.truncate(bytes.len() / 2);
        let message = decode_image(&bytes).unwrap_err().to_string();
        assert!(message.starts_with("not a readable image"), "{message}");
        let missing = open_image(Path::new("/nowhere/image.png")).unwrap_err().to_string();
        assert!(missing.contains("/nowhere/image.png"), "{missing}");
    }

    #[test]
    fn sixteen_bit_values_keep_their_upper_byte() {
        let deep = image::ImageBuffer::from_pixel(2, 1, image::Luma([0x80FFu16]));
        let image = decode_image(&png(&DynamicImage::ImageLuma16(deep))).unwrap();
        assert_eq!(to_rgb(image).get_pixel(1, 0).0, [0x80; 3]);
        let deep =
            image::ImageBuffer::from_pixel(1, 1, image::Rgba([0x12FF, 0, 0xFFFF, 0xFFFFu16]));
        let image = decode_image(&png(&DynamicImage::ImageRgba16(deep))).unwrap();
        assert_eq!(to_rgb(image).get_pixel(0, 0).0, [0x12, 0, 0xFF]);
    }

    #[test]
    fn the_two_blends_differ_only_in_rounding() {
        for value in 0..=255 {
            assert_eq!(composite_on_white(value, 255), value);
            assert_eq!(composite_on_white(value, 0), 255);
            for alpha in 0..=255 {
                let (near, down) =
                    (composite_on_white(value, alpha), blend_with_white(value, alpha));
                assert!(near.abs_diff(down) <= 1, "{value} at {alpha}: {near} and {down}");
            }
        }
    }
}
