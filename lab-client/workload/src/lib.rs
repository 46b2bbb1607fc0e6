//! The load as data: what a client is told and says, which user shakes when, from which port.
//!
//! Owns: a client's configuration, phases, commands and lines, the schedule, the shares of shards,
//! the flows of users, receipts. Must not know: sockets, threads, rings, probes; it depends on
//! nothing that does, so that plans and reports need no client.
//!
//! Every client computes the same from the same: all of it is functions of configuration and seed.

#![forbid(unsafe_code)]

mod commands;
mod config;
mod flows;
mod lines;
mod permutation;
mod phase;
mod receipts;
mod schedule;
mod share;

pub use commands::{Command, Qps};
pub use config::{Config, ConfigError, Resolved, SLOW_KEPT};
pub use flows::{Flows, TooFewPorts, loopback_sources, sources_needed};
pub use lines::{Audit, Line, Ready};
pub use permutation::Permutation;
pub use phase::{Chat, Connect, Creates, Load, Phase, PhaseError, check_rate};
pub use receipts::Receipts;
pub use schedule::{Arrivals, Pacing, Rate, Schedule, Second};
pub use share::Share;
