//! What the control threads of server and client have in common.
//!
//! Owns: reading what shards report, signals, lines of JSON over a pipe, error answers, counters
//! with names. Must not know: what is reported or commanded. Nothing on the data path waits for it.

mod counters;
mod cpus;
pub mod http;
pub mod metrics;
mod money;
mod serve;

pub use cpus::CpuList;
pub use money::{Money, undelivered};
pub use serve::{Lines, Program, serve};
