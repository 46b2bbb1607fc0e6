//! The times of the watched threads, and the holders of the CPUs.
//!
//! Owns: consistent copies of the kernel's entries. Must not know: timelines.

use std::{io, os::fd::AsFd};

use events::{
    CpuEntry, Histogram, PROGRAM_IDLE, PROGRAM_INTERRUPTS, PROGRAM_SERVER, PROGRAMS, THREAD_SLOTS,
    ThreadEntry, ThreadHead, ThreadState, kind,
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
    /// A client, by its number; from the 12th on they share a clock.
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
    /// Its slot.
    #[serde(skip)]
    pub(crate) slot: u16,
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
    fn of(slot: u16, entry: &ThreadEntry, now_ns: u64, reading: Option<u64>) -> Option<Self> {
        let head = &entry.head;
        let sum = |clocks: &[usize]| clocks.iter().map(|clock| head.clocks_ns[*clock]).sum();
        let mut thread = Self {
            slot,
            tid: head.tid,
            pid: head.tgid,
            program: Program::of_number(u8::try_from(head.program).ok()?)?,
            ended: head.state == ThreadState::EXITED,
            ran_ns: sum(&[kind::RUN, kind::INTERRUPTED]),
            off_cpu_ns: sum(&[kind::THROTTLED, kind::STOPPED, kind::BLOCKED, kind::ASLEEP]),
            wait_foreign_ns: sum(&[kind::WAIT_OTHER, kind::WAIT_IDLE, kind::WAIT_INTERRUPTS]),
            wait_own_ns: head.clocks_ns[kind::WAIT_OWN],
            switches_voluntary: head.switches_voluntary,
            switches_involuntary: head.switches_involuntary,
            migrations: head.migrations,
            runqueue_delay: Durations::default(),
        };
        thread.runqueue_delay.add(&entry.delays, reading);
        // What has not ended yet. A wait is split when it ends.
        let lasting = now_ns.saturating_sub(head.since_ns);
        match head.state {
            ThreadState::RUNNING => thread.ran_ns += lasting,
            ThreadState::SLEEPING => thread.off_cpu_ns += lasting,
            _ => {}
        }
        Some(thread)
    }

    /// What tells it from any other thread: numbers are used again, and slots are.
    pub(crate) fn identity(&self) -> (u16, u32, u32) {
        (self.slot, self.tid, self.pid)
    }

    /// What it did since an earlier reading of the same thread. One that had ended by then is not
    /// the same.
    #[must_use]
    pub fn since(&self, before: &Self) -> Self {
        if before.ended && !self.ended {
            return self.clone();
        }
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
        Self::map_as(fd, false)
    }

    /// As [`Self::map`], to empty slots, too.
    ///
    /// # Errors
    /// As [`Self::map`].
    pub(crate) fn map_as(fd: impl AsFd, writable: bool) -> io::Result<Self> {
        Ok(Self { entries: SharedArray::map(fd.as_fd(), THREAD_SLOTS, writable)? })
    }

    /// The slot of a thread, from 1; look it up once, for it never changes while the thread lives.
    pub fn slot_of(&self, tid: u32) -> Option<u16> {
        (1..self.entries.len()).find_map(|slot| {
            let entry = self.entries.pointer(slot)?;
            // SAFETY: within the mapping, which lives as long as `self`.
            let (found, state) = unsafe {
                (
                    (&raw const (*entry).head.tid).read_volatile(),
                    (&raw const (*entry).head.state).read_volatile(),
                )
            };
            (found == tid && state != ThreadState::EXITED).then_some(slot as u16)
        })
    }

    /// A copy of a thread's entry, taken while the kernel did not write it.
    fn entry(&self, slot: u16) -> Option<ThreadEntry> {
        let entry = self.entries.pointer(usize::from(slot))?;
        // SAFETY: within the mapping, which lives as long as `self`.
        let entry = unsafe { settled(entry, &raw const (*entry).head.version) }?;
        (entry.head.tid != 0).then_some(entry)
    }

    /// A copy of what the thread of a slot does, likewise; `None` for slot 0.
    pub(crate) fn head(&self, slot: u16) -> Option<ThreadHead> {
        let entry = self.entries.pointer(usize::from(slot)).filter(|_| slot != 0)?;
        // SAFETY: as above.
        let head = unsafe { settled(&raw const (*entry).head, &raw const (*entry).head.version) }?;
        (head.tid != 0).then_some(head)
    }

    /// The number of the thread of a slot.
    pub fn tid_of(&self, slot: u16) -> Option<u32> {
        self.head(slot).map(|head| head.tid)
    }

    /// What the thread of a slot has done, up to `now_ns`.
    pub fn thread(&self, slot: u16, now_ns: u64) -> Option<Thread> {
        Thread::of(slot, &self.entry(slot)?, now_ns, None)
    }

    /// What all watched threads have done, up to `now_ns`, which a reading ends.
    pub(crate) fn threads(&self, now_ns: u64, reading: Option<u64>) -> Vec<Thread> {
        (1..self.entries.len() as u16)
            .take_while(|slot| self.taken(*slot))
            .filter_map(|slot| Thread::of(slot, &self.entry(slot)?, now_ns, reading))
            .collect()
    }

    /// Empties the slot of a thread that has ended, for another thread.
    pub(crate) fn empty(&self, slot: u16) {
        let Some(entry) = self.entry(slot) else { return };
        // No program has this number: nobody takes it for a thread until it is one again.
        let head = ThreadHead {
            version: entry.head.version,
            tid: u32::MAX,
            timeline: entry.head.timeline,
            ..ThreadHead::default()
        };
        self.entries.write(usize::from(slot), ThreadEntry { head, delays: Histogram::EMPTY });
    }

    fn taken(&self, slot: u16) -> bool {
        self.entries.pointer(usize::from(slot)).is_some_and(|pointer| {
            // SAFETY: within the mapping, which lives as long as `self`.
            unsafe { (&raw const (*pointer).head.tid).read_volatile() != 0 }
        })
    }
}

/// A copy of what the kernel writes, taken while it did not: while the version held still.
///
/// # Safety
/// Both pointers lie within a mapping.
unsafe fn settled<T: Plain>(value: *const T, version: *const u32) -> Option<T> {
    for _ in 0..TRIES {
        // SAFETY: the caller vouches for the pointers.
        let (before, value, after) =
            unsafe { (version.read_volatile(), value.read_volatile(), version.read_volatile()) };
        if before & 1 == 0 && before == after {
            return Some(value);
        }
        std::hint::spin_loop();
    }
    None
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
    /// Any other program, the kernel's threads and interrupts included.
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
        let interrupts = usize::from(PROGRAM_INTERRUPTS);
        Self {
            cpu,
            server_ns: held[server],
            clients_ns: held[server + 1..interrupts].iter().sum(),
            other_ns: held[0] + held[interrupts],
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
