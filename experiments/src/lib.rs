//! The `lab` command: what each of its words does, by the crates beside it.
//!
//! Read them in the order of the data: `spec` (experiment files), `run` (carrying one out),
//! `record` (what is written), `analysis` (what it came to), `report` (the same for people).

#![warn(clippy::print_stderr, clippy::print_stdout)]

mod agent;
mod check;
mod children;
mod clean;
pub mod cli;
mod examples;
mod exit;
mod explain;
mod history;
mod install;
mod ledger;
mod made;
mod owner;
mod runs;
mod shared;
mod tune;
mod validate;
