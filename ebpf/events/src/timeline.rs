//! What a thread's time goes by with, as clocks that only grow, and when they are written down.
//!
//! Owns: the ring of checkpoints, and the rule for when one is made; kernel and
//! simulated traces share it. Must not know: what tells one kind of time from another.

use core::hint::black_box;

use crate::{KINDS, NAME_LENGTH, ThreadHead, layout};

/// A stretch of this length has checkpoints at both of its ends.
pub const LONG_NS: u64 = 50_000;
/// So long after a checkpoint the end of any stretch is one.
pub const SPAN_NS: u64 = 500_000;
/// So far are checkpoints of the coarse ring apart.
const COARSE_NS: u64 = 10_000_000;

/// Checkpoints kept, a power of two: at two for each stretch of 50 µs, the last 50 ms at least; at
/// one in 500 µs, the last second.
pub const FINE: usize = 2048;
/// Coarse ones, a power of two: the last 10 s.
pub const COARSE: usize = 1024;

/// Threads that can have a timeline: those that read or send on the experiment's connections. A
/// million users take 54 shards on each side. Those beyond are counted.
pub const TIMELINES: usize = 128;

/// The clocks of a thread at an instant.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Checkpoint {
    /// When, CLOCK_MONOTONIC.
    pub at_ns: u64,
    /// On which CPU the thread was until then.
    pub cpu: u32,
    /// Unused.
    pub padding: u32,
    /// What its time had gone by with until then.
    pub clocks_ns: [u64; KINDS],
}

/// The checkpoints of a thread.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct TimelineEntry {
    /// Checkpoints so far; number `n` is at `n % FINE`.
    pub written: u64,
    /// Coarse ones so far; number `n` is at `n % COARSE`.
    pub coarse_written: u64,
    /// When the latest was.
    pub latest_ns: u64,
    /// When the latest coarse one was.
    pub coarse_latest_ns: u64,
    /// The latest.
    pub points: [Checkpoint; FINE],
    /// The latest coarse ones.
    pub coarse: [Checkpoint; COARSE],
}

impl TimelineEntry {
    /// Writes a checkpoint.
    #[inline(always)]
    pub fn write(&mut self, thread: &ThreadHead, at_ns: u64) {
        // Opaque, or the compiler drops the mask, and the verifier does not see why it may.
        let place = black_box(self.written) as usize & (FINE - 1);
        fill(&mut self.points[place], thread, at_ns);
        self.latest_ns = at_ns;
        publish(&mut self.written);
        if at_ns.wrapping_sub(self.coarse_latest_ns) >= COARSE_NS {
            let place = black_box(self.coarse_written) as usize & (COARSE - 1);
            fill(&mut self.coarse[place], thread, at_ns);
            self.coarse_latest_ns = at_ns;
            publish(&mut self.coarse_written);
        }
    }
}

#[inline(always)]
fn fill(point: &mut Checkpoint, thread: &ThreadHead, at_ns: u64) {
    point.at_ns = at_ns;
    point.cpu = thread.cpu;
    point.clocks_ns = thread.clocks_ns;
}

/// One more is there. Volatile, so that it comes after what it counts.
#[inline(always)]
fn publish(written: &mut u64) {
    // SAFETY: a valid reference.
    unsafe { core::ptr::write_volatile(written, *written + 1) };
}

/// Parts of a stretch that has ended: index of a clock, and how long.
pub type Part = (usize, u64);

/// A stretch from `thread.since_ns` until `now` has ended: adds its parts to the clocks, and writes
/// checkpoints where they are due. The next one begins now.
#[inline(always)]
pub(crate) fn end_stretch<const N: usize>(
    thread: &mut ThreadHead,
    timeline: Option<&mut TimelineEntry>,
    parts: [Part; N],
    now: u64,
) {
    // CPUs' clocks may differ by a little: a thread's time never goes back.
    let now = now.max(thread.since_ns);
    let (since_ns, length_ns) = (thread.since_ns, now - thread.since_ns);
    match timeline {
        Some(timeline) => {
            if length_ns >= LONG_NS && since_ns > timeline.latest_ns {
                timeline.write(thread, since_ns);
            }
            add(thread, parts);
            if length_ns >= LONG_NS || now.wrapping_sub(timeline.latest_ns) >= SPAN_NS {
                timeline.write(thread, now);
            }
        }
        None => add(thread, parts),
    }
    thread.since_ns = now;
}

#[inline(always)]
fn add<const N: usize>(thread: &mut ThreadHead, parts: [Part; N]) {
    for (clock, ns) in parts {
        if let Some(total) = thread.clocks_ns.get_mut(clock) {
            *total = total.wrapping_add(ns);
        }
    }
}

/// Holders kept per CPU, a power of two.
pub const HOLDERS: usize = 4096;
/// Stalls kept per CPU, a power of two.
pub const STALLS: usize = 256;
/// Who stopped whom, kept for the whole host, a power of two.
pub const STOPS: usize = 256;

/// A task held a CPU.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Holder {
    /// From when, CLOCK_MONOTONIC.
    pub from_ns: u64,
    /// Until when.
    pub until_ns: u64,
    /// The task.
    pub tid: u32,
    /// Its process.
    pub tgid: u32,
    /// Its program.
    pub program: u32,
    /// Unused.
    pub padding: u32,
    /// Its name.
    pub name: [u8; NAME_LENGTH],
}

/// A CPU did not run: a timer that it was to fire came late.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Stall {
    /// When the timer should have fired, CLOCK_MONOTONIC.
    pub from_ns: u64,
    /// When it did.
    pub until_ns: u64,
}

/// A signal that stops a process.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Stop {
    /// When it was sent, CLOCK_MONOTONIC.
    pub at_ns: u64,
    /// The process it was sent to.
    pub tgid: u32,
    /// The signal.
    pub signal: u32,
    /// The process that sent it.
    pub sender_tgid: u32,
    /// Unused.
    pub padding: u32,
    /// Its name.
    pub sender_name: [u8; NAME_LENGTH],
}

/// What happened on a CPU.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct CpuLog {
    /// Holders so far; number `n` is at `n % HOLDERS`.
    pub holders_written: u64,
    /// Stalls so far; number `n` is at `n % STALLS`.
    pub stalls_written: u64,
    /// When the latest tick should have been.
    pub tick_due_ns: u64,
    /// When it was.
    pub tick_ns: u64,
    /// The latest stretches of 50 µs or more.
    pub holders: [Holder; HOLDERS],
    /// The latest stalls.
    pub stalls: [Stall; STALLS],
}

/// The clock that looks for stalls ticks so often.
pub const TICK_NS: u64 = 1_000_000;
/// A tick that is later than this is a stall.
const STALL_NS: u64 = 500_000;

impl CpuLog {
    /// A tick: whether the CPU has stalled before it.
    #[inline(always)]
    pub fn tick(&mut self, now: u64) {
        let (due_ns, was_ns) = (self.tick_due_ns.wrapping_add(TICK_NS), self.tick_ns);
        self.tick_ns = now;
        if was_ns == 0 || now < due_ns {
            // The first one, or one that came sooner than was thought: the grid begins anew.
            self.tick_due_ns = now;
            return;
        }
        let late_ns = now - due_ns;
        // Of several that were missed the last one is fired; the grid goes on.
        self.tick_due_ns = if late_ns < TICK_NS { due_ns } else { now - late_ns % TICK_NS };
        if late_ns >= STALL_NS {
            let place = black_box(self.stalls_written) as usize & (STALLS - 1);
            self.stalls[place] = Stall { from_ns: due_ns, until_ns: now };
            publish(&mut self.stalls_written);
        }
    }

    /// A task has held the CPU.
    #[inline(always)]
    pub fn held(&mut self, holder: Holder) {
        let place = black_box(self.holders_written) as usize & (HOLDERS - 1);
        self.holders[place] = holder;
        publish(&mut self.holders_written);
    }
}

/// Who stopped whom.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct StopLog {
    /// Signals so far; number `n` is at `n % STOPS`.
    pub written: u64,
    /// The latest.
    pub stops: [Stop; STOPS],
}

layout!(Checkpoint, 104, cpu at 8, clocks_ns at 16);
layout!(TimelineEntry, 32 + 104 * (FINE + COARSE), points at 32);
layout!(Holder, 48, tid at 16, name at 32);
layout!(Stall, 16, until_ns at 8);
layout!(Stop, 40, tgid at 8, sender_tgid at 16, sender_name at 24);
layout!(CpuLog, 32 + 48 * HOLDERS + 16 * STALLS, holders at 32);
layout!(StopLog, 8 + 40 * STOPS, stops at 8);
