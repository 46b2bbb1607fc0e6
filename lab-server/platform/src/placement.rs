//! On which CPUs the shards of a program run.

use std::io;

use rustix::thread::sched_getaffinity;

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

/// The CPUs that this process may use, in ascending order.
///
/// # Errors
/// What `sched_getaffinity` says.
pub fn cpus_allowed() -> io::Result<Vec<usize>> {
    let set = sched_getaffinity(None)?;
    Ok((0..rustix::thread::CpuSet::MAX_CPU).filter(|cpu| set.is_set(*cpu)).collect())
}
