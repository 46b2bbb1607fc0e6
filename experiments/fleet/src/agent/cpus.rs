//! The CPUs of this process: it leaves those to which programs have pinned their shards, as long as
//! there are others.

use std::collections::BTreeSet;

use rustix::thread::{CpuSet, Pid, sched_getaffinity, sched_setaffinity};

/// CPUs that this process may use, and those among them that belong to shards.
#[derive(Debug)]
pub(super) struct Cpus {
    allowed: Vec<usize>,
    shards: BTreeSet<usize>,
}

impl Cpus {
    /// Those that this process may use now.
    pub(super) fn allowed() -> Self {
        Self { allowed: platform::cpus_allowed().unwrap_or_default(), shards: BTreeSet::new() }
    }

    /// The CPUs to which these threads are pinned belong to shards from here on.
    pub(super) fn pinned_by(&mut self, threads: &[i32]) {
        for thread in threads {
            // One that has ended needs no CPU.
            let Ok(set) = sched_getaffinity(Pid::from_raw(*thread)) else { continue };
            if set.count() == 1 {
                self.shards.extend((0..CpuSet::MAX_CPU).find(|cpu| set.is_set(*cpu)));
            }
        }
    }

    /// Uses all CPUs. Children inherit where this process may run.
    ///
    /// # Errors
    /// A sentence for people.
    pub(super) fn use_all(&self) -> Result<(), String> {
        stay_on(&self.allowed)
    }

    /// Leaves the CPUs of shards.
    ///
    /// # Errors
    /// A sentence for people.
    pub(super) fn leave_shards(&self) -> Result<(), String> {
        let free = self.allowed.iter().filter(|cpu| !self.shards.contains(cpu));
        stay_on(&free.copied().collect::<Vec<usize>>())
    }
}

/// Keeps the calling thread off other CPUs than these, if there are any.
fn stay_on(cpus: &[usize]) -> Result<(), String> {
    if cpus.is_empty() {
        return Ok(());
    }
    let mut set = CpuSet::new();
    cpus.iter().for_each(|cpu| set.set(*cpu));
    sched_setaffinity(None, &set)
        .map_err(|error| format!("the agent cannot stay on CPUs {cpus:?}: {error}"))
}
