//! The client's control interface: phases and rates over a pipe and over HTTP.
//!
//! Owns: carrying commands out, putting together what the shards report. Must not know: what a
//! shard does with a phase.

mod error;
mod http;
mod hub;

pub(crate) use http::router;
pub(crate) use hub::Hub;
