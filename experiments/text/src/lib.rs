//! Numbers and tables for people, and the way to standard output and standard error.
//!
//! Owns: how a count, a size, a duration, an instant and a table are written, which name a mistaken
//! one is nearest to, and what happens when nobody reads it. Must not know: anything else of the
//! lab.

#![warn(clippy::print_stderr, clippy::print_stdout)]

mod console;
mod dates;
mod nearest;
mod numbers;
mod table;
mod wrap;

pub use console::{output_error, say_line, say_words, tell};
pub use dates::{utc, utc_in_a_name};
pub use nearest::nearest;
pub use numbers::{age, bytes, milliseconds, minutes, thousands};
pub use table::{Align, Table};
pub use wrap::wrapped;
