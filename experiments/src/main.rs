//! The `lab` program.

#![warn(clippy::print_stderr, clippy::print_stdout)]

use std::process::ExitCode;

use experiments::cli::Cli;

fn main() -> ExitCode {
    Cli::of_arguments().run()
}
