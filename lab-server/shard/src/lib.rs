//! What a shard is made of, shared by server and client: a thread pinned to a core, a glommio
//! executor, a table of descriptors of its own, sockets, readiness, timers, and messages between
//! shards.
//!
//! Owns: every system call on the data path. Must not know: frames, users, money, schedules.
//! The logic of a program is a [`Handler`]; [`drive()`] carries it.

mod connections;
mod descriptors;
mod drive;
mod durations;
mod executor;
#[cfg(test)]
mod faults;
mod handler;
mod inbox;
mod limits;
mod listener;
mod outgoing;
mod poll;
mod ready_queues;
mod registered;
mod setbacks;
mod slots;
mod timer;
mod timing;
mod watched;
mod wheel;

pub use connections::Net;
pub use drive::drive;
pub use durations::Durations;
pub use executor::{ShardContext, ShardThreads, SpawnError, spawn};
pub use handler::{Handler, Next};
pub use inbox::Inboxes;
pub use limits::{Closed, ConnectOptions, Limits, NetCounters};
pub use listener::{ListenOptions, bind_listener};
pub use slots::ConnId;
pub use timing::Timing;
pub use watched::watched;
pub use wheel::Wheel;
