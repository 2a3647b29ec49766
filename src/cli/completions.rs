//! `calumma completions`: completions of the command line for a shell.

use std::io::Write;
use std::path::Path;

use calumma::{Error, Result};
use clap::{Args, CommandFactory};
use clap_complete::{Shell, generate};

use super::Cli;
use super::session::STDOUT;

/// Which shell.
#[derive(Args)]
pub struct CompletionsArgs {
    shell: Shell,
}

/// Prints the completions.
///
/// # Errors
/// [`Error::Io`] when standard output cannot be written.
pub fn run(args: &CompletionsArgs) -> Result<()> {
    let mut script = Vec::new();
    generate(args.shell, &mut Cli::command(), "calumma", &mut script);
    std::io::stdout().write_all(&script).map_err(Error::io(Path::new(STDOUT)))
}
