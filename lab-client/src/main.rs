//! The `lab-client` program: parses, starts, waits.

use std::process::ExitCode;

use clap::Parser;
use lab_client::cli::{Args, is_usage, run};

/// The load was not what was asked for: its figures say nothing about the server.
const INVALID: u8 = 4;

fn main() -> ExitCode {
    match run(&Args::parse()) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::from(INVALID),
        Err(error) => {
            control::last_words(&format!("lab-client: {error:#}"));
            // As for the options that the parser itself finds wrong.
            if is_usage(&error) { ExitCode::from(2) } else { ExitCode::FAILURE }
        }
    }
}
