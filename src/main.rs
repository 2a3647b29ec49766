//! The `calumma` program: parses the command line, runs one command and returns its exit code.

mod cli;

use std::process::ExitCode;

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    calumma::allocator::tune();
    calumma::threads::join_pool();
    cli::main()
}
