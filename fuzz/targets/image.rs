#![no_main]
//! The bytes of an image file.

use libfuzzer_sys::fuzz_target;
use vq_tokenizer::preprocess::{decode_image, to_rgb};

fuzz_target!(|bytes: &[u8]| {
    if let Ok(image) = decode_image(bytes) {
        let (width, height) = (image.width(), image.height());
        // Conversion of the largest images would take most of the time.
        if u64::from(width) * u64::from(height) < 1 << 20 {
            assert_eq!(to_rgb(image).dimensions(), (width, height));
        }
    }
});
