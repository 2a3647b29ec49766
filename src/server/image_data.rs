//! Images in requests and answers.

use std::path::Path;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use image::{DynamicImage, RgbImage};
use vq_tokenizer::preprocess::{DecodeLimits, decode_image_within};

use super::config::Limits;
use super::fault::Fault;
use crate::data::data_uri;
use crate::files::png;

/// What an image in a request begins with.
const SCHEME: &str = "data:";

/// Whether `url` holds its file itself.
pub(super) fn is_data(url: &str) -> bool {
    url.get(..SCHEME.len()).is_some_and(|scheme| scheme.eq_ignore_ascii_case(SCHEME))
}

/// The bytes of the image at `url`.
///
/// # Errors
/// If it is no `data:` URI in base64.
pub(super) fn bytes_of(url: &str) -> Result<Vec<u8>, Fault> {
    if !is_data(url) {
        let message = "images must come as data:image/...;base64,...: nothing is fetched";
        return Err(Fault::of("image_url", message));
    }
    data_uri(&url[SCHEME.len()..]).map_err(|message| Fault::of("image_url", message))
}

/// The image in `bytes`, which is no larger than `limits` allow; that is checked before it is decoded.
///
/// # Errors
/// If it is no PNG, JPEG or WebP image, is damaged, or is too large.
pub(super) fn opened(bytes: &[u8], limits: &Limits) -> Result<DynamicImage, Fault> {
    let limits = DecodeLimits { pixels: limits.pixels, bytes: limits.decoder_bytes };
    decode_image_within(bytes, limits).map_err(|error| Fault::of("image", error.to_string()))
}

/// `image` as PNG, in base64.
///
/// # Errors
/// If it has no pixels, which is the server's fault.
pub(super) fn png_in_base64(image: &RgbImage) -> Result<String, Fault> {
    let png = png(Path::new("an image of an answer"), image).map_err(Fault::failed)?;
    Ok(STANDARD.encode(png))
}

/// The `data:` URI of a PNG image in base64.
pub(super) fn uri_of(base64: &str) -> String {
    format!("data:image/png;base64,{base64}")
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;

    fn message(fault: &Fault) -> String {
        fault.to_string()
    }

    #[test]
    fn only_images_in_data_uris_are_taken() {
        let bytes = [1, 2, 3];
        let uri = format!("DATA:image/PNG;BASE64,{}", STANDARD.encode(bytes));
        assert_eq!(bytes_of(&uri).unwrap(), bytes);
        for (url, said) in [
            ("http://127.0.0.1/a.png", "nothing is fetched"),
            ("file:///etc/passwd", "nothing is fetched"),
            ("//host/a.png", "nothing is fetched"),
            ("", "nothing is fetched"),
            ("d\u{e4}ta:", "nothing is fetched"),
            ("data:image/png,AQI=", "must be data:image/...;base64"),
            ("data:image/png;base64", "must be data:image/...;base64"),
            ("data:image/png;base64,A*I=", "not valid base64"),
        ] {
            let fault = bytes_of(url).unwrap_err();
            assert!(message(&fault).contains(said), "{url}: {}", message(&fault));
        }
    }

    #[test]
    fn large_images_are_refused_by_their_size_alone() {
        let image = RgbImage::new(40, 30);
        let png = STANDARD.decode(png_in_base64(&image).unwrap()).unwrap();
        let within = |pixels| Limits { pixels, ..Limits::default() };
        assert_eq!(opened(&png, &within(1200)).unwrap().into_rgb8(), image);
        assert!(message(&opened(&png, &within(1199)).unwrap_err()).contains("40x30 pixels"));
        let said = message(&opened(b"GIF89a", &within(100)).unwrap_err());
        assert!(said.contains("PNG, JPEG, WebP"), "{said}");
        let narrow = Limits { decoder_bytes: 100, ..Limits::default() };
        assert!(message(&opened(&png, &narrow).unwrap_err()).contains("not a readable image"));
    }
}
