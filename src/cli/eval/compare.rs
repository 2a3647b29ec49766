//! `calumma eval compare`: two evaluations of the same items side by side.

use std::path::PathBuf;

use calumma::Result;
use calumma::eval::bootstrap::Resampling;
use calumma::eval::compare::{COLUMNS, Results, compare};
use clap::Args;

use crate::cli::session::Session;

/// Which evaluations.
#[derive(Args)]
pub struct CompareArgs {
    /// The --out directory of the first evaluation
    a: PathBuf,
    /// The --out directory of the second, of the same task and data set
    b: PathBuf,
    /// Where compare.json and compare.md go
    #[arg(long, value_name = "DIR")]
    out: Option<PathBuf>,
}

/// Pairs the items, and prints and writes how the scores differ.
///
/// # Errors
/// Those of [`Results::read`] and [`compare`], and of the output.
pub fn run(args: &CompareArgs, session: &Session) -> Result<()> {
    let (a, b) = (Results::read(&args.a)?, Results::read(&args.b)?);
    let resampling =
        Resampling { seed: session.seed().unwrap_or_default(), ..Resampling::default() };
    let comparison = compare(&a, &b, resampling)?;
    if let Some(out) = &args.out {
        comparison.write(out)?;
    }
    session.line(format_args!("{} on {}", comparison.task, comparison.dataset))?;
    session.line(format_args!("A: {}\nB: {}\n", comparison.a, comparison.b))?;
    let rows: Vec<_> =
        std::iter::once(COLUMNS.map(str::to_owned)).chain(comparison.table()).collect();
    for line in aligned(&rows) {
        session.line(line)?;
    }
    session.line("")?;
    for note in comparison.notes() {
        session.line(note)?;
    }
    if let Some(out) = &args.out {
        session.note(format_args!("written to {}", out.display()));
    }
    session.object(&comparison)
}

/// The rows with their columns one below the other, the first to the left.
fn aligned<const N: usize>(rows: &[[String; N]]) -> Vec<String> {
    let width = |column: usize| rows.iter().map(|row| row[column].chars().count()).max();
    let widths: [usize; N] = std::array::from_fn(|column| width(column).unwrap_or(0));
    let line = |row: &[String; N]| {
        let mut text = format!("{:<1$}", row[0], widths[0]);
        for (cell, width) in row.iter().zip(widths).skip(1) {
            text += &format!("  {cell:>width$}");
        }
        text
    };
    rows.iter().map(line).collect()
}
