//! The program as users run it: its output, its files and its errors.

mod adapters;
mod batching;
mod chat;
mod docs;
mod edit;
pub mod emu3;
mod errors;
mod eval_run;
mod evaluation;
mod extend;
mod images;
mod kept;
mod left_out;
mod locks;
mod overwriting;
mod text_flags;
mod text_models;
mod tokenize;
mod training;
mod verbs;
mod warm_up;

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::LazyLock;

use image::{Rgb, RgbImage};
use serde_json::Value;

use crate::common::tiny_checkpoint;

/// A checkpoint that all tests share and none modifies.
static TINY: LazyLock<PathBuf> = LazyLock::new(|| {
    let dir = Path::new(env!("CARGO_TARGET_TMPDIR")).join("tiny-checkpoint");
    if dir.exists() {
        std::fs::remove_dir_all(&dir).unwrap();
    }
    tiny_checkpoint(&dir);
    dir
});

fn tiny() -> &'static str {
    text(&TINY)
}

/// Exit code and output of a run of the program.
pub struct Outcome {
    code: i32,
    stdout: String,
    pub stderr: String,
}

impl Outcome {
    /// Every line of standard output as JSON.
    pub fn json(&self) -> Vec<Value> {
        assert_eq!(self.code, 0, "{}", self.stderr);
        let parse = |line| serde_json::from_str(line).unwrap_or_else(|e| panic!("{line}: {e}"));
        self.stdout.lines().map(parse).collect()
    }

    /// Asserts a failure with `code`, one message that contains all of `parts`, and nothing on stdout.
    fn fails(&self, code: i32, parts: &[&str]) {
        assert_eq!(self.code, code, "{}", self.stderr);
        assert_eq!(self.stdout, "");
        let messages: Vec<&str> =
            self.stderr.lines().filter(|line| line.starts_with("calumma: error: ")).collect();
        assert_eq!(messages.len(), 1, "{}", self.stderr);
        assert!(!self.stderr.contains("panicked"), "{}", self.stderr);
        for part in parts {
            assert!(self.stderr.contains(part), "{part:?} is not in {}", self.stderr);
        }
    }
}

/// Runs the program in the directory `dir`, on the CPU.
pub fn calumma_in(dir: &Path, args: &[&str]) -> Outcome {
    let output = Command::new(env!("CARGO_BIN_EXE_calumma"))
        .args(["--device", "cpu"])
        .args(args)
        .current_dir(dir)
        .stdin(Stdio::null())
        .output()
        .unwrap();
    Outcome {
        code: output.status.code().unwrap_or(-1),
        stdout: String::from_utf8(output.stdout).unwrap(),
        stderr: String::from_utf8(output.stderr).unwrap(),
    }
}

/// Writes an image, one half red and one half blue.
fn image(dir: &Path, name: &str) -> PathBuf {
    let path = dir.join(name);
    RgbImage::from_fn(40, 32, |x, _| Rgb(if x < 20 { [200, 30, 30] } else { [30, 30, 200] }))
        .save(&path)
        .unwrap();
    path
}

fn text(path: &Path) -> &str {
    path.to_str().unwrap()
}
