//! The `lab` program.

use std::process::ExitCode;

use clap::Parser;
use experiments::cli::Cli;

fn main() -> ExitCode {
    Cli::parse().run()
}
