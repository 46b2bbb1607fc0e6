//! This machine: its programs, network namespaces, probes and counters.
//!
//! Must not know: runs, phases, fleets, or what the lines of a program mean.

#![warn(clippy::print_stderr, clippy::print_stdout)]

pub mod ended;
pub mod hog;
pub mod interrupts;
pub mod leftover;
pub mod links;
mod listeners;
pub mod namespace;
pub mod probe;
pub mod probing;
pub mod profile;
pub mod program;
pub mod sock_diag;
pub mod surroundings;
pub mod usage;
mod version;

pub use version::VERSION;
