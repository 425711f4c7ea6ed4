//! The command line `hearth`.

mod cli;

use std::process::ExitCode;

fn main() -> ExitCode {
    cli::main()
}
