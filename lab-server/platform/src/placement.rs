//! On which CPUs the shards of a program run.

use std::io;

use rustix::thread::{CpuSet, sched_getaffinity, sched_setaffinity};

/// Where shards run.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Placement {
    /// Shard `i` on CPU `cpus[i % cpus.len()]`.
    Pinned(Vec<usize>),
    /// Wherever the scheduler puts them.
    Free,
}

impl Placement {
    /// The CPU of a shard, if it has one of its own choice.
    pub fn cpu_of(&self, shard: usize) -> Option<usize> {
        match self {
            Placement::Pinned(cpus) => cpus.get(shard % cpus.len().max(1)).copied(),
            Placement::Free => None,
        }
    }
}

/// Keeps the calling thread, and what it starts from then on, on one CPU.
///
/// # Errors
/// What the kernel says: that there is no such CPU, or that this process may not use it.
pub fn pin_to(cpu: usize) -> io::Result<()> {
    if cpu >= CpuSet::MAX_CPU {
        return Err(io::ErrorKind::InvalidInput.into());
    }
    let mut set = CpuSet::new();
    set.set(cpu);
    Ok(sched_setaffinity(None, &set)?)
}

/// The CPUs that this process may use, in ascending order.
///
/// # Errors
/// What `sched_getaffinity` says.
pub fn cpus_allowed() -> io::Result<Vec<usize>> {
    let set = sched_getaffinity(None)?;
    Ok((0..CpuSet::MAX_CPU).filter(|cpu| set.is_set(*cpu)).collect())
}
