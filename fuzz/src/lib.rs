//! What the fuzz targets share: inputs as files, and reading all of a data set.

use std::path::PathBuf;
use std::sync::OnceLock;

use calumma::data;

/// Samples of an input that are read; the first ones have all the code that the others have.
const SAMPLES: usize = 16;

/// The path of a file with the content `bytes` and the ending `ending`, alone in a directory of this
/// process.
pub fn file(bytes: &[u8], ending: &str) -> PathBuf {
    static DIR: OnceLock<PathBuf> = OnceLock::new();
    let dir = DIR.get_or_init(|| {
        let parent = std::env::var_os("FUZZ_INPUT_DIR").map_or_else(std::env::temp_dir, PathBuf::from);
        let dir = parent.join(format!("calumma-fuzz-{}", std::process::id()));
        std::fs::create_dir_all(&dir).expect("a directory for inputs");
        dir
    });
    let path = dir.join(format!("input.{ending}"));
    std::fs::write(&path, bytes).expect("a file for the input");
    path
}

/// Opens the data set of one file with the content `bytes` and reads its samples.
pub fn read_samples(bytes: &[u8], ending: &str) {
    let path = file(bytes, ending);
    let spec = path.to_str().expect("the path is plain ASCII");
    let Ok(dataset) = data::open(spec) else { return };
    for index in 0..dataset.len().min(SAMPLES) {
        let _ = dataset.fields(index);
        let _ = dataset.image_keys(index);
        let _ = dataset.get(index);
    }
    let _ = dataset.unused();
}

/// Lets panics that are caught within the target pass; one that is not ends the process all the same.
pub fn allow_caught_panics() {
    std::panic::set_hook(Box::new(|_| ()));
}
