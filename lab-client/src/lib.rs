//! The load: a million users in one process or several, who shake on an open-loop schedule.
//!
//! Read it from the inside out. The crates [`workload`] and [`attribution`] are pure. [`pacer`]
//! carries a schedule out. [`load`] makes users of it, still without a socket; `shard_loop` puts
//! them on sockets. `client` runs the shards, and `panel` takes commands and says what happens.

#![forbid(unsafe_code)]

pub mod cli;
mod client;
pub mod load;
mod message;
mod outbox;
pub mod pacer;
mod panel;
mod report;
mod shard_loop;
mod solo;
mod traces;
pub mod transport;
