//! What runs came to: the summary of one, the statistics of several, their comparison, their
//! history, and the projection to more machines.
//!
//! Owns: every figure that is worked out of recorded runs. Must not know: clocks, processes,
//! probes.

#![warn(clippy::print_stderr, clippy::print_stdout)]

pub mod compare;
pub mod history;
mod input;
pub mod projection;
pub mod stats;
pub mod summary;

pub use input::InputError;
