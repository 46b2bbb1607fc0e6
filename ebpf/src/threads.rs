//! The times of the watched threads, and the holders of the CPUs.
//!
//! Owns: consistent copies of the kernel's entries, and how long a thread waited between two
//! instants. A client maps the same array as the loader does.

use std::{io, os::fd::AsFd};

use attribution::{CpuWait, WaitedBetween};
use events::{
    CpuEntry, PROGRAM_IDLE, PROGRAM_SERVER, PROGRAMS, THREAD_SLOTS, ThreadEntry, ThreadState,
    WAITS_KEPT, Wait,
};
use serde::Serialize;

use crate::{
    histogram::Durations,
    mapping::{Plain, SharedArray},
};

/// Times a reader tries again when the kernel is writing an entry; a write takes under 1 µs.
const TRIES: usize = 1000;

/// A watched thread's program.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Program {
    /// The server.
    Server,
    /// A client, by its number; from the 13th on they share a clock.
    Client(u8),
}

impl Program {
    pub(crate) fn of_number(number: u8) -> Option<Self> {
        match number {
            PROGRAM_SERVER => Some(Self::Server),
            events::PROGRAM_CLIENT_FIRST..=events::PROGRAM_CLIENT_LAST => {
                Some(Self::Client(number - events::PROGRAM_CLIENT_FIRST))
            }
            _ => None,
        }
    }

    pub(crate) fn number(self) -> u8 {
        match self {
            Self::Server => PROGRAM_SERVER,
            Self::Client(number) => {
                number.saturating_add(events::PROGRAM_CLIENT_FIRST).min(events::PROGRAM_CLIENT_LAST)
            }
        }
    }
}

/// What a watched thread has done since it was first seen.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Thread {
    /// The thread.
    pub tid: u32,
    /// Its process.
    pub pid: u32,
    /// Its program.
    pub program: Program,
    /// Whether it has ended.
    pub ended: bool,
    /// Time on a CPU.
    pub ran_ns: u64,
    /// Time neither running nor runnable.
    pub off_cpu_ns: u64,
    /// Time runnable and not running while other programs held the CPU, or it was idle.
    pub wait_foreign_ns: u64,
    /// Time runnable and not running while its own program held the CPU.
    pub wait_own_ns: u64,
    /// Switches away from it because it had nothing to do.
    pub switches_voluntary: u64,
    /// Switches away from it though it wanted to go on.
    pub switches_involuntary: u64,
    /// Moves from one CPU to another.
    pub migrations: u64,
    /// How long it waited for a CPU, each time.
    #[serde(rename = "runqueue_delay_us")]
    pub runqueue_delay: Durations,
}

impl Thread {
    fn of(entry: &ThreadEntry, now_ns: u64) -> Option<Self> {
        let mut thread = Self {
            tid: entry.tid,
            pid: entry.tgid,
            program: Program::of_number(u8::try_from(entry.program).ok()?)?,
            ended: entry.state == ThreadState::EXITED,
            ran_ns: entry.ran_ns,
            off_cpu_ns: entry.slept_ns,
            wait_foreign_ns: entry.wait_foreign_ns,
            wait_own_ns: entry.wait_own_ns,
            switches_voluntary: entry.switches_voluntary,
            switches_involuntary: entry.switches_involuntary,
            migrations: entry.migrations,
            runqueue_delay: Durations::default(),
        };
        thread.runqueue_delay.add(&entry.delays);
        // What has not ended yet. A wait is split when it ends.
        let lasting = now_ns.saturating_sub(entry.since_ns);
        match entry.state {
            ThreadState::RUNNING => thread.ran_ns += lasting,
            ThreadState::SLEEPING => thread.off_cpu_ns += lasting,
            _ => {}
        }
        Some(thread)
    }

    /// What it did since an earlier reading of the same thread.
    #[must_use]
    pub fn since(&self, before: &Self) -> Self {
        Self {
            ran_ns: self.ran_ns.saturating_sub(before.ran_ns),
            off_cpu_ns: self.off_cpu_ns.saturating_sub(before.off_cpu_ns),
            wait_foreign_ns: self.wait_foreign_ns.saturating_sub(before.wait_foreign_ns),
            wait_own_ns: self.wait_own_ns.saturating_sub(before.wait_own_ns),
            switches_voluntary: self.switches_voluntary.saturating_sub(before.switches_voluntary),
            switches_involuntary: self
                .switches_involuntary
                .saturating_sub(before.switches_involuntary),
            migrations: self.migrations.saturating_sub(before.migrations),
            runqueue_delay: self.runqueue_delay.since(&before.runqueue_delay),
            ..self.clone()
        }
    }
}

/// A long wait of a thread.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct LongWait {
    /// When it became runnable, CLOCK_MONOTONIC.
    pub start_ns: u64,
    /// When it ran.
    pub end_ns: u64,
    /// How long of it others held the CPU.
    pub foreign_ns: u64,
    /// The thread that held the CPU: of other programs the one that held it longest at a stretch,
    /// when those held it for most of the wait; else the last one.
    pub holder_tid: u32,
    /// Its name.
    pub holder: String,
}

/// The watched threads, mapped.
pub struct ThreadTable {
    entries: SharedArray<ThreadEntry>,
}

impl ThreadTable {
    /// Maps the array of a descriptor, which may be closed afterwards.
    ///
    /// # Errors
    /// When it is no such array.
    pub fn map(fd: impl AsFd) -> io::Result<Self> {
        Ok(Self { entries: SharedArray::map(fd.as_fd(), THREAD_SLOTS, false)? })
    }

    /// The slot of a thread, from 1; look it up once, for it never changes while the thread lives.
    pub fn slot_of(&self, tid: u32) -> Option<u16> {
        (1..self.entries.len()).find_map(|slot| {
            let entry = self.entries.pointer(slot)?;
            // SAFETY: within the mapping, which lives as long as `self`.
            let (found, state) = unsafe {
                (
                    (&raw const (*entry).tid).read_volatile(),
                    (&raw const (*entry).state).read_volatile(),
                )
            };
            (found == tid && state != ThreadState::EXITED).then_some(slot as u16)
        })
    }

    /// The totals of the calling thread, by its slot: time it waited for a CPU that others held,
    /// and that its own program held; lower 32 bits of nanoseconds. The kernel does not write them
    /// while it runs.
    pub fn own_totals(&self, slot: u16) -> Option<(u32, u32)> {
        let entry = self.entries.pointer(usize::from(slot)).filter(|_| slot != 0)?;
        // SAFETY: within the mapping, which lives as long as `self`.
        unsafe {
            let known = (&raw const (*entry).state).read_volatile() != ThreadState::UNKNOWN;
            let foreign = (&raw const (*entry).wait_foreign_ns).read_volatile();
            let own = (&raw const (*entry).wait_own_ns).read_volatile();
            known.then_some((foreign as u32, own as u32))
        }
    }

    /// A copy of a thread's entry, taken while the kernel did not write it.
    fn entry(&self, slot: u16) -> Option<ThreadEntry> {
        let pointer = self.entries.pointer(usize::from(slot))?;
        for _ in 0..TRIES {
            // SAFETY: within the mapping, which lives as long as `self`.
            let (before, entry, after) = unsafe {
                let version = &raw const (*pointer).version;
                (version.read_volatile(), pointer.read_volatile(), version.read_volatile())
            };
            if before & 1 == 0 && before == after {
                return (entry.tid != 0).then_some(entry);
            }
            std::hint::spin_loop();
        }
        None
    }

    /// What the thread of a slot has done, up to `now_ns`.
    pub fn thread(&self, slot: u16, now_ns: u64) -> Option<Thread> {
        Thread::of(&self.entry(slot)?, now_ns)
    }

    /// What all watched threads have done, up to `now_ns`.
    pub fn threads(&self, now_ns: u64) -> Vec<Thread> {
        (1..self.entries.len() as u16)
            .take_while(|slot| self.taken(*slot))
            .filter_map(|slot| self.thread(slot, now_ns))
            .collect()
    }

    fn taken(&self, slot: u16) -> bool {
        self.entries.pointer(usize::from(slot)).is_some_and(|pointer| {
            // SAFETY: within the mapping, which lives as long as `self`.
            unsafe { (&raw const (*pointer).tid).read_volatile() != 0 }
        })
    }

    /// Total waits of a thread until its latest run: what the kernel stores at T1, whole.
    pub fn waited(&self, slot: u16) -> Option<CpuWait> {
        let pointer = self.entries.pointer(usize::from(slot))?;
        for _ in 0..TRIES {
            // SAFETY: within the mapping, which lives as long as `self`.
            let (before, wait, after) = unsafe {
                let version = &raw const (*pointer).version;
                let before = version.read_volatile();
                let wait = CpuWait {
                    foreign_ns: (&raw const (*pointer).wait_foreign_ns).read_volatile(),
                    own_ns: (&raw const (*pointer).wait_own_ns).read_volatile(),
                };
                (before, wait, version.read_volatile())
            };
            if before & 1 == 0 && before == after {
                return Some(wait);
            }
        }
        None
    }

    /// The long waits of a thread that are still kept, oldest first.
    pub fn long_waits(&self, slot: u16) -> Vec<LongWait> {
        self.entry(slot).map_or_else(Vec::new, |entry| {
            kept(&entry)
                .map(|wait| LongWait {
                    start_ns: wait.start_ns,
                    end_ns: wait.end_ns,
                    foreign_ns: wait.foreign_ns,
                    holder_tid: wait.holder_tid,
                    holder: name(&wait.holder_name),
                })
                .collect()
        })
    }

    /// How long a thread waited for a CPU between two instants, for T0 to T1: a request that was
    /// due while its thread waited. A wait that only overlaps counts in proportion.
    ///
    /// Asked for every late request, so it reads no more than it must: the newest waits, in place.
    pub fn waited_between(&self, slot: u16, from_ns: u64, to_ns: u64) -> Option<WaitedBetween> {
        let pointer = self.entries.pointer(usize::from(slot))?;
        for _ in 0..TRIES {
            // SAFETY: within the mapping, which lives as long as `self`.
            let (before, kept, tid) = unsafe {
                (
                    (&raw const (*pointer).version).read_volatile(),
                    (&raw const (*pointer).waits_kept).read_volatile(),
                    (&raw const (*pointer).tid).read_volatile(),
                )
            };
            let waited = waited_between(kept, from_ns, to_ns, |place| {
                // SAFETY: as above, and the place is one of the array's.
                unsafe { (&raw const (*pointer).waits[place]).read_volatile() }
            });
            // SAFETY: as above.
            let after = unsafe { (&raw const (*pointer).version).read_volatile() };
            if before & 1 == 0 && before == after {
                return (tid != 0).then_some(waited);
            }
            std::hint::spin_loop();
        }
        None
    }
}

fn kept(entry: &ThreadEntry) -> impl Iterator<Item = &Wait> {
    let total = entry.waits_kept as usize;
    let first = total.saturating_sub(WAITS_KEPT);
    (first..total).map(|number| &entry.waits[number % WAITS_KEPT])
}

/// Of `total` waits so far, of which the latest are kept in a ring.
fn waited_between(
    total: u64,
    from_ns: u64,
    to_ns: u64,
    wait_at: impl Fn(usize) -> Wait,
) -> WaitedBetween {
    let mut wait = CpuWait::default();
    let mut known_from_ns = to_ns;
    let total = total as usize;
    for number in (total.saturating_sub(WAITS_KEPT)..total).rev() {
        let long = wait_at(number % WAITS_KEPT);
        // They follow one another: those before ended earlier still.
        if long.end_ns <= from_ns {
            return WaitedBetween { wait, unknown_ns: 0 };
        }
        let overlap = long.end_ns.min(to_ns).saturating_sub(long.start_ns.max(from_ns));
        if overlap > 0 {
            let whole = long.end_ns.saturating_sub(long.start_ns).max(1);
            // Both below 2^64 ns; the product needs more.
            let foreign = u128::from(long.foreign_ns.min(whole)) * u128::from(overlap);
            let foreign_ns = (foreign / u128::from(whole)) as u64;
            wait.foreign_ns += foreign_ns;
            wait.own_ns += overlap - foreign_ns;
        }
        if long.start_ns <= from_ns {
            return WaitedBetween { wait, unknown_ns: 0 };
        }
        known_from_ns = long.start_ns.min(to_ns);
    }
    let overwritten = total > WAITS_KEPT;
    let unknown_ns = if overwritten { known_from_ns.saturating_sub(from_ns) } else { 0 };
    WaitedBetween { wait, unknown_ns }
}

/// A kernel name.
pub(crate) fn name(bytes: &[u8]) -> String {
    let end = bytes.iter().position(|byte| *byte == 0).unwrap_or(bytes.len());
    String::from_utf8_lossy(&bytes[..end]).into_owned()
}

/// How long each kind of program held a CPU since the probes were attached.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct CpuHeld {
    /// The CPU.
    pub cpu: u32,
    /// The server.
    pub server_ns: u64,
    /// All clients.
    pub clients_ns: u64,
    /// Any other program, the kernel's threads included.
    pub other_ns: u64,
    /// The idle task.
    pub idle_ns: u64,
    /// Switches from one thread to another.
    pub switches: u64,
}

impl CpuHeld {
    pub(crate) fn of(cpu: u32, entry: &CpuEntry, now_ns: u64) -> Self {
        let mut held = entry.held_ns;
        if entry.since_ns != 0 {
            held[entry.holder_program as usize % PROGRAMS] += now_ns.saturating_sub(entry.since_ns);
        }
        let (server, idle) = (usize::from(PROGRAM_SERVER), usize::from(PROGRAM_IDLE));
        Self {
            cpu,
            server_ns: held[server],
            clients_ns: held[server + 1..idle].iter().sum(),
            other_ns: held[0],
            idle_ns: held[idle],
            switches: entry.switches,
        }
    }

    /// What happened since an earlier reading of the same CPU.
    #[must_use]
    pub fn since(&self, before: &Self) -> Self {
        Self {
            cpu: self.cpu,
            server_ns: self.server_ns.saturating_sub(before.server_ns),
            clients_ns: self.clients_ns.saturating_sub(before.clients_ns),
            other_ns: self.other_ns.saturating_sub(before.other_ns),
            idle_ns: self.idle_ns.saturating_sub(before.idle_ns),
            switches: self.switches.saturating_sub(before.switches),
        }
    }
}

const _: fn() = || {
    fn plain<T: Plain>() {}
    plain::<ThreadEntry>();
};

#[cfg(test)]
mod tests {
    use super::*;

    /// The wait with a number takes from 1,000 times it on 500 ns, the first 200 of them foreign.
    fn wait(number: usize) -> Wait {
        let start_ns = number as u64 * 1_000;
        Wait { start_ns, end_ns: start_ns + 500, foreign_ns: 200, ..Wait::default() }
    }

    #[test]
    fn waits_count_as_far_as_they_overlap() {
        // Ten more than are kept: the first ten are overwritten.
        let total = WAITS_KEPT + 10;
        let at = |place: usize| wait(if place < 10 { place + WAITS_KEPT } else { place });
        let waited = |from_ns, to_ns| {
            let waited = waited_between(total as u64, from_ns, to_ns, at);
            (waited.wait.foreign_ns, waited.wait.own_ns, waited.unknown_ns)
        };
        assert_eq!(waited(20_000, 22_000), (400, 600, 0));
        assert_eq!(waited(20_250, 21_250), (200, 300, 0), "half of each");
        assert_eq!(waited(20_500, 21_000), (0, 0, 0), "between two");
        let newest = (total as u64 - 1) * 1_000;
        assert_eq!(waited(newest + 600, newest + 900), (0, 0, 0), "after all");
        assert_eq!(waited(9_000, 11_000), (200, 300, 1_000), "one is overwritten");
        assert_eq!(waited(3_000, 7_000), (0, 0, 4_000), "all of that time is overwritten");
        assert_eq!(
            waited_between(0, 0, u64::MAX, at),
            WaitedBetween::default(),
            "nothing was overwritten"
        );
    }
}
