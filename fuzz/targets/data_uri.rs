#![no_main]
//! The address of an image in a request.

use calumma::server::{Limits, check_image};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|url: &str| {
    let _ = check_image(url, &Limits { pixels: 1 << 20, ..Limits::default() });
});
