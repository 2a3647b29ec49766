//! Losses of post-training against reference values of TRL 1.16, one line per case.
//!
//! The committed directory is checked by default; `tests/post_training.sh DIR` checks any other of the same
//! form, such as one of another seed. Cases are read from the files with their settings, and a setting that
//! is not known fails its case.
#![allow(clippy::print_stdout, reason = "a line per case is what `--nocapture` shows")]

mod preference;
mod reward;
mod rl;
mod values;

use std::path::{Path, PathBuf};

/// A case's name and what differs.
type Case = (String, Result<(), String>);

/// The directory of reference values.
fn dir() -> PathBuf {
    let committed = || Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/post-training");
    std::env::var_os("CALUMMA_POST_TRAINING").map_or_else(committed, PathBuf::from)
}

/// Prints the cases of `file` and fails if one did, or if there is none.
fn report(file: &str, cases: &[Case]) {
    for (name, result) in cases {
        match result {
            Ok(()) => println!("ok     {file} {name}"),
            Err(message) => println!("FAILED {file} {name}: {message}"),
        }
    }
    let failed = cases.iter().filter(|(_, result)| result.is_err()).count();
    println!("{file}: {} cases passed, {failed} failed", cases.len() - failed);
    assert!(failed == 0 && !cases.is_empty(), "{failed} of {} cases of {file}", cases.len());
}

#[test]
fn preference_losses_are_those_of_trl() {
    report("preference", &preference::check(&dir()));
}

#[test]
fn reward_model_losses_are_those_of_trl() {
    report("reward", &reward::check(&dir()));
}

#[test]
fn policy_losses_advantages_and_guided_log_probs_are_those_of_the_reference() {
    report("rl", &rl::check(&dir()));
}
