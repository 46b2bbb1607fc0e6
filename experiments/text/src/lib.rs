//! Numbers and tables for people.
//!
//! Owns: how a count, a size, a duration and a table are written. Must not know: anything else of
//! the lab.

mod numbers;
mod table;

pub use numbers::{age, bytes, milliseconds, minutes, thousands};
pub use table::{Align, Table};
