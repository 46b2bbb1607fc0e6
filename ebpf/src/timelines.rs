//! The timelines of threads, mapped: what each did between two instants, and who had its CPU.
//!
//! Owns: reading what the kernel keeps of threads, CPUs and their holders. Must not know: what that
//! means for a request ([`attribution::attribute`]).

use std::{io, os::fd::AsFd};

use attribution::{Doing, End, Ring, Spent, Timeline, Turn, spent};
use events::{
    COARSE, Checkpoint, CpuEntry, CpuLog, FINE, HOLDERS, Held, STALLS, Stall, TIMELINES,
    ThreadHead, ThreadState, TimelineEntry, kind, wait_parts,
};

use crate::{
    kernel::monotonic_ns,
    mapping::{SharedArray, cpu_count},
    threads::{Program, ThreadTable, name},
};

/// The threads and what is known of their time, mapped.
pub struct Timelines {
    threads: ThreadTable,
    entries: SharedArray<TimelineEntry>,
    cpus: SharedArray<CpuEntry>,
    logs: SharedArray<CpuLog>,
}

impl Timelines {
    /// Maps the arrays of descriptors, which may be closed afterwards.
    ///
    /// # Errors
    /// When they are no such arrays.
    pub fn map(
        threads: impl AsFd,
        timelines: impl AsFd,
        cpus: impl AsFd,
        logs: impl AsFd,
    ) -> io::Result<Self> {
        let count = cpu_count();
        Ok(Self {
            threads: ThreadTable::map(threads)?,
            entries: SharedArray::map(timelines.as_fd(), TIMELINES, false)?,
            cpus: SharedArray::map(cpus.as_fd(), count, false)?,
            logs: SharedArray::map(logs.as_fd(), count, false)?,
        })
    }

    /// The threads alone.
    pub const fn threads(&self) -> &ThreadTable {
        &self.threads
    }

    /// What the thread of a slot did between two instants; [`Doing::Unknown`] all of it, when it
    /// has no timeline.
    pub fn spent(&self, slot: u16, from_ns: u64, to_ns: u64) -> Spent {
        let whole_ns = to_ns.saturating_sub(from_ns);
        match self.of(slot) {
            Some(timeline) if slot != 0 => spent(&timeline, from_ns, to_ns),
            _ => Spent::all(Doing::Unknown, whole_ns),
        }
    }

    fn of(&self, slot: u16) -> Option<OfThread<'_>> {
        let thread = self.threads.head(slot)?;
        let entry = self.entries.pointer(thread.timeline as usize)?;
        (thread.timeline != 0).then_some(OfThread { all: self, thread, entry })
    }

    /// Who else had the CPU of a thread between two instants, the longest first. Turns under 50 µs
    /// are not known by name.
    pub fn turns(&self, slot: u16, from_ns: u64, to_ns: u64) -> Vec<Turn> {
        let Some(thread) = self.threads.head(slot) else { return Vec::new() };
        let Some(log) = self.logs.pointer(thread.cpu as usize) else { return Vec::new() };
        // SAFETY: within the mapping, which lives as long as `self`.
        let written = unsafe { (&raw const (*log).holders_written).read_volatile() };
        let mut turns: Vec<Turn> = Vec::new();
        for number in (written.saturating_sub(HOLDERS as u64 - 1)..written).rev() {
            // SAFETY: as above, and the remainder is within the array.
            let holder =
                unsafe { (&raw const (*log).holders[number as usize % HOLDERS]).read_volatile() };
            if holder.until_ns <= from_ns {
                break;
            }
            let ns = holder.until_ns.min(to_ns).saturating_sub(holder.from_ns.max(from_ns));
            if ns == 0 || holder.tid == thread.tid {
                continue;
            }
            match turns.iter_mut().find(|turn| turn.pid == holder.tgid) {
                Some(turn) => turn.ns += ns,
                None => turns.push(Turn {
                    name: name(&holder.name),
                    pid: holder.tgid,
                    of: end_of(holder.program),
                    ns,
                }),
            }
        }
        turns.sort_by_key(|turn| std::cmp::Reverse(turn.ns));
        turns
    }

    /// The longest time for which the CPU of a thread stood still between two instants; 0 for none.
    pub fn longest_stall_ns(&self, slot: u16, from_ns: u64, to_ns: u64) -> u64 {
        let Some(timeline) = self.of(slot) else { return 0 };
        let cpu = timeline.thread.cpu;
        let written = timeline.stalls_written(cpu);
        let stalls = (written.saturating_sub(STALLS as u64 - 1)..written)
            .map(|number| timeline.stall(cpu, number));
        let within =
            |stall: Stall| stall.until_ns.min(to_ns).saturating_sub(stall.from_ns.max(from_ns));
        stalls.map(within).max().unwrap_or(0)
    }

    /// Who has held a CPU up to an instant.
    fn held(&self, cpu: u32, program: u32, now_ns: u64) -> Held {
        self.cpus.read(cpu as usize).map(|cpu| cpu.held(program, now_ns)).unwrap_or_default()
    }
}

/// The end of the run that a program is.
fn end_of(program: u32) -> Option<End> {
    match Program::of_number(u8::try_from(program).ok()?)? {
        Program::Server => Some(End::Server),
        Program::Client(_) => Some(End::Client),
    }
}

/// The timeline of a thread.
struct OfThread<'a> {
    all: &'a Timelines,
    thread: ThreadHead,
    entry: *const TimelineEntry,
}

impl Timeline for OfThread<'_> {
    fn present(&self) -> Option<[Checkpoint; 2]> {
        let now_ns = monotonic_ns();
        let ThreadHead { since_ns, cpu, clocks_ns, .. } = self.thread;
        let begin = Checkpoint { at_ns: since_ns, cpu, padding: 0, clocks_ns };
        let mut end = Checkpoint { at_ns: now_ns.max(since_ns), ..begin };
        let lasting_ns = end.at_ns - since_ns;
        match self.thread.state {
            ThreadState::RUNNING => end.clocks_ns[kind::RUN] += lasting_ns,
            ThreadState::SLEEPING => {
                *end.clocks_ns.get_mut(self.thread.off_kind as usize)? += lasting_ns;
            }
            ThreadState::WAITING => {
                let held = self.all.held(cpu, self.thread.program, end.at_ns);
                for (clock, ns) in wait_parts(&self.thread, held, end.at_ns) {
                    end.clocks_ns[clock] += ns;
                }
            }
            ThreadState::EXITED => end.clocks_ns[kind::UNKNOWN] += lasting_ns,
            _ => return None,
        }
        Some([begin, end])
    }

    fn written(&self, ring: Ring) -> u64 {
        // SAFETY: the entry lies within the mapping of `all`.
        unsafe {
            match ring {
                Ring::Fine => (&raw const (*self.entry).written).read_volatile(),
                Ring::Coarse => (&raw const (*self.entry).coarse_written).read_volatile(),
            }
        }
    }

    fn checkpoint(&self, ring: Ring, number: u64) -> Checkpoint {
        // SAFETY: as above, and remainders are within the arrays.
        unsafe {
            match ring {
                Ring::Fine => {
                    (&raw const (*self.entry).points[number as usize % FINE]).read_volatile()
                }
                Ring::Coarse => {
                    (&raw const (*self.entry).coarse[number as usize % COARSE]).read_volatile()
                }
            }
        }
    }

    fn stalls_written(&self, cpu: u32) -> u64 {
        self.all.logs.pointer(cpu as usize).map_or(0, |log| {
            // SAFETY: within the mapping of `all`.
            unsafe { (&raw const (*log).stalls_written).read_volatile() }
        })
    }

    fn stall(&self, cpu: u32, number: u64) -> Stall {
        self.all.logs.pointer(cpu as usize).map_or_else(Stall::default, |log| {
            // SAFETY: within the mapping of `all`, and the remainder is within the array.
            unsafe { (&raw const (*log).stalls[number as usize % STALLS]).read_volatile() }
        })
    }
}
