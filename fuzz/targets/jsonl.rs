#![no_main]
//! A file of JSON lines.

use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| calumma_fuzz::read_samples(bytes, "jsonl"));
