#![no_main]
//! The body of a request to the server; its first byte chooses the route.

use calumma::server::{Limits, check_body};
use libfuzzer_sys::fuzz_target;

const ROUTES: [&str; 5] = [
    "/v1/chat/completions",
    "/v1/completions",
    "/v1/images/generations",
    "/tokenize",
    "/detokenize",
];

fuzz_target!(|bytes: &[u8]| {
    if let [first, body @ ..] = bytes {
        let limits = Limits { pixels: 1 << 20, ..Limits::default() };
        let _ = check_body(ROUTES[usize::from(*first) % ROUTES.len()], body, &limits);
    }
});
