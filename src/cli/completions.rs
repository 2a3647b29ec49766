//! `calumma completions`: shell completions.

use std::io::Write;
use std::path::Path;

use calumma::{Error, Result};
use clap::{Args, Command};
use clap_complete::{Shell, generate};

use super::session::STDOUT;

/// Arguments of `completions`.
#[derive(Args)]
pub struct CompletionsArgs {
    /// Shell to complete for
    shell: Shell,
}

/// Prints the completions of `program`.
///
/// # Errors
/// [`Error::Io`] if standard output cannot be written.
pub fn run(args: &CompletionsArgs, program: &mut Command) -> Result<()> {
    let mut script = Vec::new();
    generate(args.shell, program, "calumma", &mut script);
    std::io::stdout().write_all(&script).map_err(Error::io(Path::new(STDOUT)))
}
