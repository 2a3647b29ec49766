//! Writes and prints the report of a measure.

use std::path::Path;

use calumma::Result;
use calumma::eval::{Environment, Report};
use calumma::lock::DirectoryLock;
use serde_json::json;

use super::args::EvalArgs;
use crate::cli::session::Session;

/// A report, and the seed and model behind it.
pub struct Measured {
    /// The report.
    pub report: Report,
    /// Seed of the generation.
    pub seed: u64,
    /// Digest of the checkpoint.
    pub digest: Option<String>,
    /// Keeps other processes out of the directory of the results until they are written.
    pub lock: Option<DirectoryLock>,
}

/// Writes the report to `args.out` and prints its scores.
///
/// # Errors
/// Those of the output.
pub fn finish(mut measured: Measured, args: &EvalArgs, session: &Session) -> Result<()> {
    let config = &mut measured.report.config;
    config.insert("limit".to_owned(), json!(args.limit));
    config.insert("batch".to_owned(), json!(args.batch));
    let (report, environment) = write(measured, &args.checkpoint, &args.out, session)?;
    if report.scores.is_empty() {
        session.note("the data set has no correct answers, so nothing was scored");
    }
    session.object(&report.results(&environment))
}

/// Writes the report to `out` and prints its scores as text.
///
/// # Errors
/// Those of the output.
pub fn write(
    measured: Measured,
    checkpoint: &Path,
    out: &Path,
    session: &Session,
) -> Result<(Report, Environment)> {
    let Measured { report, seed, digest, lock: _lock } = measured;
    let environment = Environment {
        version: env!("CARGO_PKG_VERSION").to_owned(),
        commit: option_env!("CALUMMA_COMMIT").map(str::to_owned),
        device: session.device_name(),
        dtype: session.precision().to_string(),
        seed,
        checkpoint: checkpoint.display().to_string(),
        digest,
    };
    report.write(out, &environment)?;
    for (name, score) in &report.scores {
        session.line(format_args!("{name:<28} {score}"))?;
    }
    session.left_out(&report.left_out)?;
    session.note(format_args!("results written to {}", out.display()));
    Ok((report, environment))
}
