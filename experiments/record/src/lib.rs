//! The directory of a run. While the run goes on, lines are only ever appended and flushed every
//! second; afterwards they are read back.
//!
//! Owns: the files of a run's directory and their lines, as their only writer and only reader.
//! Must not know: why a run does what it does. Nothing waits for it, and what is written stands
//! even when the run is killed.

#![warn(clippy::print_stderr, clippy::print_stdout)]

mod absent;
mod append;
mod columns;
mod error;
mod events;
mod files;
pub mod hlog;
mod lines;
mod lock;
mod outcome;
mod problems;
mod raw;
mod rows;
mod seconds;

pub use absent::ProbeAbsence;
pub use append::Appender;
pub use columns::convert;
pub use error::FileError;
pub use events::{ClosingBooks, EventKind, EventRow};
pub use files::{
    EVENTS_FILE, Event, FORMAT, Files, MANIFEST_FILE, Manifest, PhaseTime, SAMPLES_FILE, SLOW_FILE,
    SUMMARY_FILE, TRUTH, write_json,
};
pub use hlog::HLOG;
pub use lines::Lines;
pub use lock::{DirectoryLock, LockError};
pub use outcome::Outcome;
pub use problems::Problems;
pub use raw::{Raw, RawError, read_whole, read_within, total};
pub use rows::{
    CausesRow, CgroupRow, ClientRow, NicRow, ProbeRow, ProbedThread, ProcRow, ProcSubject,
    SampleSource, ServerRow, ShardBooks, ShardRow, SlowRow, StallRow, TruthRow, parse,
};
pub use seconds::{OpenSecond, Second, Seconds};
