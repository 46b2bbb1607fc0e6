//! The ioctls of `ethtool` about one interface: its driver, its counters, its features, rings and
//! coalescing.
//!
//! Owns: `struct ifreq` and the layout of each command. Must not know: probes, profiles, what a
//! counter means or why a setting is wanted.
//!
//! It is a crate because two crates need it that must not need each other: `ebpf` reads counters
//! and brings aya, `tuning` writes features, rings and coalescing and builds without aya.

mod coalescing;
mod counters;
mod driver;
mod features;
mod rings;
mod socket;
mod strings;

pub use coalescing::COALESCING;
pub use counters::CounterBuffer;
pub use driver::Driver;
pub use features::{Feature, long_name};
pub use rings::Entries;
pub use socket::Ethtool;
