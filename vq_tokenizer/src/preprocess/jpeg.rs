//! JPEG files, decoded by libjpeg to the bytes that Pillow gives.
//!
//! Measured against Pillow 13 on 2400 files: 13 sizes, 13 ways of subsampling, baseline, progressive and
//! arithmetic coding, one scan for all components and one for each, restart markers, grey, RGB, CMYK and YCCK.
//! `mozjpeg`, which is libjpeg-turbo's decoder without its assembler, gives the same bytes for every one.
//!
//! - zune-jpeg, the decoder of `image`, differs by up to 16 levels (4:2:0, 0.35 in the mean). It makes stripes of
//!   scans of single components, and accepts a third and more of all prefixes of a file as grey images.
//! - jpeg-decoder differs by up to 5 levels (0.04 to 0.19 in the mean). It refuses arithmetic coding, component
//!   numbers that cameras write, and what lacks the standard tables.
//! - Both take YCbCr for RGB in a JFIF file whose component numbers spell RGB.
//!
//! For 2048x1536 pixels at 4:2:0 they take 30 and 25 ms, libjpeg 38 ms.

#![allow(unsafe_code, reason = "libjpeg's messages are reached through its C structures")]

use std::cell::Cell;
use std::ffi::c_int;
use std::io::{self, BufRead, Read};
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};

use image::{DynamicImage, GrayImage, RgbImage};
use mozjpeg::{ColorSpace, Decompress, Marker};
use mozjpeg_sys::{JWRN_HIT_MARKER, jpeg_common_struct, jpeg_error_mgr};

use super::limits::{DecodeLimits, truncated};
use super::orientation::Metadata;
use crate::error::{Error, Result};

/// The image of a JPEG file, not yet turned upright, and its metadata.
///
/// # Errors
/// [`Error::Invalid`] if the file is damaged, ends early or is of a kind that Pillow refuses too, such as 12
/// bits; if a part of the image is missing, also where the file has an end marker, which Pillow fills with
/// grey.
pub(super) fn decode(bytes: &[u8], limits: DecodeLimits) -> Result<(DynamicImage, Metadata)> {
    let cut = Cell::new(false);
    let source = Source { bytes, cut: &cut };
    // libjpeg has no return values for its errors: `leave` unwinds to here.
    let outcome = catch_unwind(AssertUnwindSafe(|| read(source, limits)));
    let outcome = outcome.unwrap_or_else(|thrown| match thrown.downcast::<Failure>() {
        Ok(failure) => Err(Error::invalid(format!("not a readable image: {}", failure.0))),
        Err(other) => resume_unwind(other),
    });
    outcome.map_err(|error| if cut.get() { truncated("JPEG") } else { error })
}

/// The bytes of a file, which are an error to read past.
struct Source<'a> {
    bytes: &'a [u8],
    cut: &'a Cell<bool>,
}

impl Read for Source<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        self.bytes.read(buffer)
    }
}

impl BufRead for Source<'_> {
    /// What is left; an error at the end, where libjpeg would fill in grey.
    fn fill_buf(&mut self) -> io::Result<&[u8]> {
        if self.bytes.is_empty() {
            self.cut.set(true);
            return Err(io::Error::other("the file is truncated"));
        }
        Ok(self.bytes)
    }

    fn consume(&mut self, len: usize) {
        self.bytes = &self.bytes[len..];
    }
}

fn read(source: Source<'_>, limits: DecodeLimits) -> Result<(DynamicImage, Metadata)> {
    let damaged = |e: io::Error| Error::because("not a readable image")(e);
    let decoder = Decompress::builder()
        .with_err(errors())
        .with_markers(&[Marker::APP(1)])
        .from_reader(source)
        .map_err(damaged)?;
    let (width, height) = (decoder.width() as u32, decoder.height() as u32);
    limits.check(width, height)?;
    let metadata = Metadata::of_jpeg(decoder.markers().map(|marker| marker.data));
    let image = match decoder.color_space() {
        ColorSpace::JCS_GRAYSCALE => {
            let mut rows = decoder.grayscale().map_err(damaged)?;
            let pixels = rows.read_scanlines().map_err(damaged)?;
            GrayImage::from_raw(width, height, pixels).map(DynamicImage::from)
        }
        ColorSpace::JCS_RGB | ColorSpace::JCS_YCbCr => {
            let mut rows = decoder.rgb().map_err(damaged)?;
            let pixels = rows.read_scanlines().map_err(damaged)?;
            RgbImage::from_raw(width, height, pixels).map(DynamicImage::from)
        }
        ColorSpace::JCS_CMYK | ColorSpace::JCS_YCCK => {
            let mut rows = decoder.to_colorspace(ColorSpace::JCS_CMYK).map_err(damaged)?;
            let mut inks = vec![[0; 4]; width as usize];
            let mut pixels = Vec::with_capacity(3 * width as usize * height as usize);
            for _ in 0..height {
                rows.read_scanlines_into(&mut inks).map_err(damaged)?;
                pixels.extend(inks.iter().copied().flat_map(inked));
            }
            RgbImage::from_raw(width, height, pixels).map(DynamicImage::from)
        }
        _ => {
            let count = decoder.components().len();
            return Err(Error::invalid(format!(
                "not a readable image: a JPEG of {count} components; allowed: 1, 3 or 4"
            )));
        }
    };
    Ok((image.expect("libjpeg returns every row"), metadata))
}

/// The RGB of a pixel of cyan, magenta, yellow and black as Adobe stores it, inverted. Pillow takes every CMYK
/// file so, and computes `black - (255 - ink) * black / 255` with this rounding.
fn inked([cyan, magenta, yellow, black]: [u8; 4]) -> [u8; 3] {
    [cyan, magenta, yellow].map(|ink| {
        let product = u32::from(255 - ink) * u32::from(black) + 128;
        black.saturating_sub((((product >> 8) + product) >> 8) as u8)
    })
}

/// What libjpeg says when it gives up.
struct Failure(String);

/// Handlers that unwind on errors and on missing data, and are silent otherwise.
fn errors() -> jpeg_error_mgr {
    // SAFETY: the structure holds numbers, pointers and optional functions, for all of which zero is a value;
    // `jpeg_std_error` sets those that libjpeg reads.
    let mut handlers: jpeg_error_mgr = unsafe {
        let mut handlers = std::mem::zeroed();
        mozjpeg_sys::jpeg_std_error(&mut handlers);
        handlers
    };
    handlers.error_exit = Some(leave);
    handlers.emit_message = Some(warn);
    handlers
}

/// `JMSG_LENGTH_MAX` of `jpeglib.h`: the size of the buffer that `format_message` may fill.
const MESSAGE_LEN: usize = 200;

/// Unwinds with libjpeg's message. libjpeg is compiled to be unwound through.
extern "C-unwind" fn leave(state: &mut jpeg_common_struct) {
    let mut text = [0u8; MESSAGE_LEN];
    // SAFETY: `err` points to the handlers of `errors`, which outlive the decoder. `format_message` is
    // libjpeg's and writes a string that fits `MESSAGE_LEN` bytes with its final zero. The binding wrongly
    // takes the buffer by a shared reference to 80 bytes, the length of a text that a message quotes
    // (`JMSG_STR_PARM_MAX`), so it is passed as the mutable and longer one that the function wants.
    unsafe {
        type Format = unsafe extern "C-unwind" fn(&mut jpeg_common_struct, &mut [u8; MESSAGE_LEN]);
        if let Some(format) = (*state.err).format_message {
            let format: Format = std::mem::transmute(format);
            format(state, &mut text);
        }
    }
    let len = text.iter().position(|byte| *byte == 0).unwrap_or(text.len());
    resume_unwind(Box::new(Failure(String::from_utf8_lossy(&text[..len]).into_owned())));
}

/// Unwinds where the data of a scan ends before its image does; other warnings and traces pass, as in Pillow.
extern "C-unwind" fn warn(state: &mut jpeg_common_struct, level: c_int) {
    // SAFETY: as in `leave`.
    let code = unsafe { (*state.err).msg_code };
    if level < 0 && code == JWRN_HIT_MARKER as c_int {
        leave(state);
    }
}
