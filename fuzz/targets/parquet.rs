#![no_main]
//! A Parquet file. The crate that reads its pages panics on some damaged ones, which the reader catches.

use libfuzzer_sys::fuzz_target;

fuzz_target!(init: calumma_fuzz::allow_caught_panics(), |bytes: &[u8]| {
    calumma_fuzz::read_samples(bytes, "parquet");
});
