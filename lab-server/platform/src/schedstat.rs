//! What the scheduler says about a thread: how long it ran, and how long it waited for a CPU.

use std::fs::File;
use std::os::unix::fs::FileExt;

/// The kernel's own account of one thread, kept open so that a reading is one system call.
#[derive(Debug)]
pub struct SchedStat {
    file: Option<File>,
}

/// A reading of [`SchedStat`], since the thread began.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ThreadTimes {
    /// On a CPU, in nanoseconds.
    pub ran_ns: u64,
    /// Runnable and not running, in nanoseconds.
    pub waited_ns: u64,
    /// Times it got a CPU.
    pub turns: u64,
}

impl SchedStat {
    /// The account of the calling thread. On a kernel without CONFIG_SCHED_INFO there is none.
    pub fn of_this_thread() -> Self {
        Self { file: File::open("/proc/thread-self/schedstat").ok() }
    }

    /// How the account stands; `None` when there is none.
    pub fn read(&self) -> Option<ThreadTimes> {
        let mut text = [0; 96];
        let len = self.file.as_ref()?.read_at(&mut text, 0).ok()?;
        let text = std::str::from_utf8(&text[..len]).ok()?;
        let mut fields = text.split_ascii_whitespace().map(str::parse);
        let mut next = || fields.next()?.ok();
        Some(ThreadTimes { ran_ns: next()?, waited_ns: next()?, turns: next()? })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_thread_that_runs_is_seen_running() {
        let stat = SchedStat::of_this_thread();
        let before = stat.read();
        // CONFIG_SCHED_INFO.
        if !needs::can("schedstat", before.is_some()) {
            return;
        }
        let before = before.expect("an account of threads");
        let mut after = before;
        // The account is brought up to date at the latest with the next tick.
        while after.ran_ns < before.ran_ns + 1_000_000 {
            std::hint::black_box((0..10_000u64).sum::<u64>());
            after = stat.read().expect("still there");
        }
        assert!(after.waited_ns >= before.waited_ns);
    }
}
