#![no_main]
//! A safetensors file, its header above all.

use libfuzzer_sys::fuzz_target;
use tensor_files::WeightFiles;

fuzz_target!(|bytes: &[u8]| {
    let path = calumma_fuzz::file(bytes, "safetensors");
    let Ok(files) = WeightFiles::open(&path) else { return };
    assert!(files.num_bytes() <= bytes.len() as u64);
    for (name, ..) in files.tensors() {
        files.stored(name).expect("the header was checked");
    }
    drop(files);
    let _ = tensor_files::read(&path);
});
