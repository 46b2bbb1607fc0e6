//! This machine: its programs, network namespaces, probes and counters.
//!
//! Must not know: runs, phases, fleets, or what the lines of a program mean.

#![warn(clippy::print_stderr, clippy::print_stdout)]

pub mod background;
mod backlog;
mod causing;
pub mod congestion;
pub mod ended;
pub mod hog;
pub mod leftover;
pub mod links;
mod listeners;
pub mod namespace;
pub mod nic;
mod orphans;
pub mod privileges;
pub mod probe;
pub mod probing;
pub mod profile;
pub mod program;
mod seconds;
pub mod sock_diag;
pub mod stalls;
pub mod surroundings;
mod target;
pub mod usage;
mod user;
mod version;

pub use backlog::{Backlog, Room};
pub use orphans::{Orphan, orphans};
pub use user::User;
pub use version::VERSION;
