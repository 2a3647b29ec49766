//! Every case of a directory of reference values for post-training, one line each:
//! `tests/post_training.sh DIR BASE TOKENIZER`.
//!
//! The directory holds what PEFT and TRL computed for some seed (tests/fixtures/post-training/README.md); BASE is the
//! model of its adapters, TOKENIZER the directory of its tokenizer. The default is the committed one, so that
//! `cargo test` runs the same code.
#![allow(clippy::unwrap_used, clippy::print_stdout, reason = "a test program that prints a table")]

mod adapters;
#[path = "../common.rs"]
#[allow(dead_code, reason = "the tests use more")]
mod common;
#[path = "../excess.rs"]
mod excess;
mod preference;
mod reward;
mod rl;
mod sft;
#[path = "../parity/values.rs"]
#[allow(dead_code, reason = "parity reads more")]
mod tensors;
mod values;

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

/// A case's name and what differs.
type Case = (String, Result<(), String>);

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
        let (passed, detail) = match found {
            Ok(off) if off <= 1.0 => (true, format!("{off:.3} of the tolerance")),
            Ok(off) => (false, format!("{off:.3} times the tolerance")),
            Err(_) => (false, "it panicked".to_owned()),
        };
        self.line(name, passed, &detail);
    }

    /// Adds the cases of a file.
    fn cases(&mut self, file: &str, cases: Vec<Case>) {
        if cases.is_empty() {
            self.line(file, false, "no case");
        }
        for (name, result) in cases {
            let detail = result.as_ref().err().cloned().unwrap_or_default();
            self.line(&format!("{file}: {name}"), result.is_ok(), &detail);
        }
    }

    fn line(&mut self, name: &str, passed: bool, detail: &str) {
        if passed {
            self.passed += 1;
        } else {
            self.failed += 1;
        }
        let word = if passed { "ok" } else { "FAILED" };
        println!("{word:<6} {name:<64} {detail}");
    }
}

fn main() -> ExitCode {
    let fixtures = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures");
    // The test runner passes filters and flags for the other test programs too.
    let given: Vec<PathBuf> =
        std::env::args().skip(1).map(PathBuf::from).filter(|path| path.is_dir()).collect();
    let [dir, base, tokenizer] = match &given[..] {
        [dir, base, tokenizer] => [dir, base, tokenizer].map(Clone::clone),
        _ => ["post-training", "models/prenorm-gqa", "tokenizer"].map(|name| fixtures.join(name)),
    };
    let mut table = Table::default();
    adapters::check(&mut table, &dir.join("adapters"), &base);
    table.cases("sft", sft::check(&dir.join("sft.json"), &tokenizer));
    table.cases("preference", preference::check(&dir));
    table.cases("reward", reward::check(&dir));
    table.cases("rl", rl::check(&dir));
    println!("{} cases passed, {} failed", table.passed, table.failed);
    if table.failed == 0 && table.passed > 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}
