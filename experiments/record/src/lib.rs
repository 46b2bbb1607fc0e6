//! The directory of a run. While the run goes on, lines are only ever appended and flushed every
//! second; afterwards they are read back.
//!
//! Owns: the files of a run's directory and their lines, as their only writer and only reader.
//! Must not know: why a run does what it does. Nothing waits for it, and what is written stands
//! even when the run is killed.

mod columns;
mod files;
mod lines;
mod problems;
mod raw;
mod seconds;

pub use columns::convert;
pub use files::{
    Event, FORMAT, FileError, Files, HLOG, Manifest, NAMES, PhaseTime, TRUTH, write_json,
};
pub use lines::Lines;
pub use problems::Problems;
pub use raw::{Raw, RawError, SampleLine};
pub use seconds::{OpenSecond, Second, Seconds};
