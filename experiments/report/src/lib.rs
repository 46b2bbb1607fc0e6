//! `report.html`: what a run came to, for people, made from its raw files alone; and the page of a
//! history of runs.
//!
//! Owns: what a page shows and how it is put together; the live page shows the same. Must not know:
//! how a run is carried out. A file that is missing, broken or newer than this program is named on
//! the page, and everything else is shown.

#![warn(clippy::print_stderr, clippy::print_stdout)]

mod answers;
mod assemble;
mod columns;
mod data;
mod describe;
mod digest;
mod excess;
mod histograms;
mod history;
mod incidents;
pub mod live;
mod page;
mod sentence;
mod slow;

pub use assemble::{NAME, ReportError, assert_run, write};
pub use history::write_history;
