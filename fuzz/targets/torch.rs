#![no_main]
//! A PyTorch file, zipped or of the old format.

use calumma::checkpoint::torch_file::TorchFile;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    let path = calumma_fuzz::file(bytes, "pt");
    let Ok(file) = TorchFile::open(&path) else { return };
    for (name, info) in file.tensors() {
        let read = file.read(name).expect("the place was checked");
        assert_eq!(Some(read.len()), info.bytes_len());
        assert!(read.len() <= bytes.len());
    }
});
