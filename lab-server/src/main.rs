//! The `lab-server` program: parses, starts, waits.

use std::process::ExitCode;

use clap::Parser;
use lab_server::cli::{Args, run};

fn main() -> ExitCode {
    match run(&Args::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("lab-server: {error:#}");
            ExitCode::FAILURE
        }
    }
}
