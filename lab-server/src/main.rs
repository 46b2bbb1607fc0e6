//! The `lab-server` program: parses, starts, waits.

use std::process::ExitCode;

use clap::Parser;
use lab_server::cli::{Args, is_usage, run};

fn main() -> ExitCode {
    match run(&Args::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            control::last_words(&format!("lab-server: {error:#}"));
            // As for the options that the parser itself finds wrong.
            if is_usage(&error) { ExitCode::from(2) } else { ExitCode::FAILURE }
        }
    }
}
