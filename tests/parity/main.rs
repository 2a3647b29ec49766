//! Every case of a directory of reference values, one line each: `tests/parity.sh DIR`.
//!
//! The directory is written by `tests/fixtures/make_hf_fixtures.py`, with any seed and shapes; the
//! default is the committed part of one, so that `cargo test` runs the same code. The tolerances
//! are those of the directory's README.
#![allow(clippy::unwrap_used, clippy::print_stdout, reason = "a test program that prints a table")]

mod bfloat16;
#[path = "../excess.rs"]
mod excess;
mod generation;
mod image_tokenizer;
mod models;
mod values;

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use values::Values;

/// The results so far.
#[derive(Default)]
struct Table {
    passed: usize,
    failed: usize,
}

impl Table {
    /// Runs one case: `check` returns the largest deviation in tolerances, at most 1 to pass.
    fn case(&mut self, name: &str, check: impl FnOnce() -> f32) {
        let found = catch_unwind(AssertUnwindSafe(check));
        let (word, detail) = match found {
            Ok(off) if off <= 1.0 => ("ok", format!("{off:.3} of the tolerance")),
            Ok(off) => ("FAILED", format!("{off:.3} times the tolerance")),
            Err(_) => ("FAILED", "it panicked".to_owned()),
        };
        if word == "ok" {
            self.passed += 1
        } else {
            self.failed += 1
        }
        println!("{word:<6} {name:<64} {detail}");
    }

    /// Runs one case without tolerance.
    fn exact(&mut self, name: &str, check: impl FnOnce() -> bool) {
        self.case(name, || if check() { 0.0 } else { f32::INFINITY });
    }
}

fn folders(dir: &Path) -> Vec<PathBuf> {
    let Ok(entries) = std::fs::read_dir(dir) else { return Vec::new() };
    let mut folders: Vec<PathBuf> =
        entries.map(|e| e.unwrap().path()).filter(|p| p.is_dir()).collect();
    folders.sort();
    folders
}

fn name(path: &Path) -> String {
    path.file_name().unwrap().to_string_lossy().into_owned()
}

fn main() -> ExitCode {
    let committed = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures");
    // The test runner passes filters and flags for the other test programs too.
    let given = std::env::args().nth(1).map(PathBuf::from).filter(|path| path.is_dir());
    let dir = given.unwrap_or(committed);
    let mut table = Table::default();
    for model in folders(&dir.join("models")) {
        models::check(&mut table, &format!("models/{}", name(&model)), &model, &model);
    }
    for release in folders(&dir.join("meta")) {
        models::check_release(&mut table, &dir, &release);
    }
    image_tokenizer::check(&mut table, &dir);
    println!("{} cases passed, {} failed", table.passed, table.failed);
    if table.failed == 0 && table.passed > 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

/// The expected values next to a model, if they are there.
fn expected(dir: &Path) -> Option<Values> {
    let path = dir.join("expected.safetensors");
    path.is_file().then(|| Values::open(&path))
}
