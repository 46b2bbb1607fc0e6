//! What a shard is made of, shared by server and client: a thread pinned to a core, a glommio
//! executor, a table of descriptors of its own, sockets, readiness, timers, and mail between
//! shards.
//!
//! Owns: every system call on the data path. Must not know: frames, users, money, schedules.
//! The logic of a program is a [`Handler`]; [`drive()`] carries it.

mod alarm;
mod clock;
mod connections;
mod descriptors;
mod drive;
mod executor;
mod handler;
mod held;
mod listener;
mod mailbox;
mod outgoing;
mod schedstat;
mod slots;
mod slowness;
mod wheel;

pub use alarm::Alarm;
pub use clock::{Clock, LAST_SECOND, NANOS_PER_SECOND, monotonic_ns, realtime_ns};
pub use connections::Net;
pub use descriptors::{DescriptorLimits, sockets_per_ring};
pub use drive::{Next, drive};
pub use executor::{Placement, ShardContext, ShardThreads, SpawnError, cpus_allowed, spawn};
pub use handler::{Closed, ConnectOptions, Handler, Limits, NetCounters};
pub use listener::{ListenOptions, Steering, bind_listener};
pub use mailbox::Mail;
pub use schedstat::{SchedStat, ThreadTimes};
pub use slots::ConnId;
pub use slowness::{SPINS_KEPT, SlowOrder, Slowness, Spin, Spins, spin};
pub use wheel::Wheel;
