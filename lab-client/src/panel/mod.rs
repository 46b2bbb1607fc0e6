//! The client's control interface: phases and rates over a pipe and over HTTP.
//!
//! Owns: commands and their checks, putting together what the shards report. Must not know: what a
//! shard does with a phase.

mod commands;
mod error;
mod http;
mod hub;
mod lines;

pub use commands::Command;
pub(crate) use http::router;
pub(crate) use hub::Hub;
pub use lines::{Audit, Line, Ready};
