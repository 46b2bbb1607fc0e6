//! What the control threads of server and client have in common.
//!
//! Owns: reading what shards report, signals, lines of JSON over a pipe, error answers. Must not
//! know: what is reported or commanded. Nothing on the data path waits for it.

mod cpus;
pub mod http;
pub mod metrics;
mod serve;
mod shards;

pub use cpus::CpuList;
pub use serve::{Lines, Program, serve};
pub use shards::{InboxFull, Shards, locked};
