#![no_main]
//! A WebDataset archive.

use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| calumma_fuzz::read_samples(bytes, "tar"));
