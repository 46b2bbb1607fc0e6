//! The client's control interface: phases and rates over a pipe and over HTTP.
//!
//! Owns: commands and their checks, putting together what the shards report. Must not know: what a
//! shard does with a phase.

mod commands;
mod http;
mod hub;

pub use commands::{Command, CommandError};
pub use http::router;
pub use hub::{Audit, Hub, Line, Ready};
