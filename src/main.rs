//! The `calumma` program: reads the command line, does one verb, answers with an exit code.

mod cli;

use std::process::ExitCode;

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    calumma::allocator::tune();
    cli::main()
}
