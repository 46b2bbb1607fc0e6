//! A server's service as data: what it is told and what it says.
//!
//! Owns: a server's configuration, commands and lines. Must not know: shards, sockets, how a
//! command is carried out; it depends on nothing that does, so that plans and reports need no
//! server.

#![forbid(unsafe_code)]

mod commands;
mod config;
mod lines;
mod prototype;

pub use commands::{
    Command, Done, LATEST_START_S, MAX_AMOUNT, MAX_GENERATORS, MAX_PACKET_RATE, MAX_RATE_IN_ALL,
};
pub use config::{
    Budgets, Config, ConfigError, MOST_AHEAD_NS, MOST_SHARDS, Notices, Resolved, ResolvedSteering,
    Steering,
};
pub use lines::{DurableLedger, Line, Ready};
pub use prototype::{FaHongBao, YaoHongBao};
