//! `calumma eval compare`: differences between two evaluations of the same items.

use std::path::PathBuf;

use calumma::Result;
use calumma::eval::bootstrap::Resampling;
use calumma::eval::compare::{COLUMNS, Results, compare};
use clap::Args;

use crate::cli::session::Session;

/// Arguments of `eval compare`.
#[derive(Args)]
pub struct CompareArgs {
    /// Results of the first evaluation: its --out directory
    a: PathBuf,
    /// Results of the second evaluation, of the same task and data set
    b: PathBuf,
    /// Also write compare.json and compare.md to this directory
    #[arg(long, value_name = "DIR")]
    out: Option<PathBuf>,
}

/// Pairs the items; prints and writes the differences of their scores.
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
        session.note(format_args!("results written to {}", out.display()));
    }
    session.object(&comparison)
}

/// The rows as lines with aligned columns: the first to the left, the others to the right.
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
