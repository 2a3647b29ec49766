//! Every case of a directory of small models in the layouts of the Hub, one line each: `tests/architectures.sh DIR`.
//!
//! Each folder holds a checkpoint and what transformers computed with it (tests/fixtures/architectures/README.md, which
//! also states the tolerances). Both forms of its `config.json` are opened. The default directory is the committed one,
//! so that `cargo test` runs the same code.
#![allow(clippy::unwrap_used, clippy::print_stdout, reason = "a test program that prints a table")]

mod compare;
mod emu3;
mod folder;
mod forward;
mod greedy;
mod opened;
mod routing;
mod saved;
mod text;
mod training;
#[path = "../parity/values.rs"]
#[allow(dead_code, reason = "parity reads more")]
mod values;

use std::any::Any;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use compare::Outcome;
use folder::{Folder, Form};
use opened::Opened;

/// One line of the table.
struct Case {
    name: String,
    run: Box<dyn Fn(&Opened<'_>) -> Outcome>,
}

impl Case {
    fn new(name: impl Into<String>, run: impl Fn(&Opened<'_>) -> Outcome + 'static) -> Self {
        Self { name: name.into(), run: Box::new(run) }
    }
}

/// The cases of `folder`, which are the same for both forms of its configuration.
fn cases(folder: &Folder) -> Vec<Case> {
    let parts = [
        forward::cases,
        routing::cases,
        training::cases,
        greedy::cases,
        text::cases,
        emu3::cases,
        saved::cases,
    ];
    parts.into_iter().flat_map(|of_part| of_part(folder)).collect()
}

/// The results so far.
#[derive(Default)]
struct Table {
    passed: usize,
    failed: usize,
}

impl Table {
    fn line(&mut self, name: &str, outcome: &Outcome) {
        let (word, detail) = match outcome {
            Ok(detail) => ("ok", detail),
            Err(detail) => ("FAILED", detail),
        };
        *if outcome.is_ok() { &mut self.passed } else { &mut self.failed } += 1;
        let detail = if detail.is_empty() { String::new() } else { format!(" ({detail})") };
        println!("{name} ... {word}{detail}");
    }
}

/// Runs all cases of `folder` with its configuration in `form`; whether it opened.
fn check(table: &mut Table, folder: &Folder, form: Form) -> bool {
    let title = format!("{} {}", folder.name, form.name());
    let cases = cases(folder);
    let opened = match guarded(|| Opened::open(folder, form)) {
        Ok(opened) => opened,
        Err(error) => {
            table.line(&format!("{title} opens"), &Err(error));
            table.failed += cases.len();
            println!("{title} is not open: {} further cases FAILED", cases.len());
            return false;
        }
    };
    table.line(&format!("{title} opens"), &Ok(String::new()));
    for Case { name, run } in &cases {
        table.line(&format!("{title} {name}"), &guarded(|| run(&opened)));
    }
    true
}

/// The result of `check`; a panic is an error.
fn guarded<T>(check: impl FnOnce() -> Result<T, String>) -> Result<T, String> {
    let message = |panic: Box<dyn Any + Send>| {
        let text = panic.downcast_ref::<String>().cloned();
        let text = text.or_else(|| Some((*panic.downcast_ref::<&str>()?).to_owned()));
        format!("it panicked: {}", text.unwrap_or_default())
    };
    catch_unwind(AssertUnwindSafe(check)).unwrap_or_else(|panic| Err(message(panic)))
}

/// The folders with cases below `dir`, by name.
fn folders(dir: &Path) -> Vec<Folder> {
    let entries = std::fs::read_dir(dir).unwrap();
    let mut dirs: Vec<PathBuf> = entries.map(|entry| entry.unwrap().path()).collect();
    dirs.sort();
    dirs.iter().filter_map(|dir| Folder::read(dir)).collect()
}

fn main() -> ExitCode {
    let committed = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/architectures");
    // The test runner passes filters and flags for the other test programs too.
    let given = std::env::args().nth(1).map(PathBuf::from).filter(|path| path.is_dir());
    let mut table = Table::default();
    for folder in folders(&given.unwrap_or(committed)) {
        let mut is_open = false;
        for form in folder.forms() {
            is_open |= check(&mut table, &folder, form);
        }
        let unread = folder.unread();
        if is_open && !unread.is_empty() {
            println!("{} has values that no case compares: {}", folder.name, unread.join(", "));
        }
    }
    println!("{} cases passed, {} failed", table.passed, table.failed);
    if table.failed == 0 && table.passed > 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}
