//! What a run writes while it goes on: lines that are only ever appended, flushed every second.
//!
//! Owns: the files of a run's directory and their lines. Must not know: why a run does what it
//! does. Nothing waits for it, and what is written stands even when the run is killed.

mod columns;
mod files;
mod seconds;

pub use columns::convert;
pub use files::{
    Event, FORMAT, FileError, Files, HLOG, Manifest, NAMES, PhaseTime, TRUTH, write_json,
};
pub use seconds::{OpenSecond, Second, Seconds};
