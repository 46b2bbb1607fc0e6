//! What a machine gives a program: clocks, CPUs, descriptors, what cgroups leave to it, files
//! within a bound, and a way to spend time on purpose.
//!
//! Owns: system calls that need no executor. Must not know: shards, sockets, frames.

mod bounded;
mod cgroups;
mod clock;
mod descriptors;
mod limits;
mod lockfile;
mod placement;
mod ports;
mod priority;
mod schedstat;
mod signals;
mod slowness;
mod splitmix;
mod suspend;

pub use bounded::{open_file, read_text_within, read_within};
pub use cgroups::{Cgroups, GroupPath};
pub use clock::{Clock, LAST_SECOND, NANOS_PER_SECOND, boottime_ns, monotonic_ns, realtime_ns};
pub use descriptors::{DescriptorLimits, sockets_per_ring};
pub use limits::{CgroupLimits, CpuLimit, CpusetLimit, MemoryLimit, PidsLimit};
pub use lockfile::LockFile;
pub use placement::{Placement, cpus_allowed, pin_to};
pub use ports::port_range;
pub use priority::{Priority, may_return, set_priority};
pub use schedstat::{SchedStat, ThreadTimes};
pub use signals::is_signal_ignored;
pub use slowness::{
    SPIN_PER_POLL_NS, SlowError, SlowOrder, SlowOrders, Slowness, Spin, Spins, spin,
};
pub use splitmix::splitmix64;
pub use suspend::SuspendWatch;
